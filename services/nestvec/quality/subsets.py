"""How well some coordinates of an embedding find what all of them find.

For one sample of queries and documents, the ten best by all coordinates are right; a subset is
scored by how many of them it finds by itself, cut and renormalised. No judgments are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Floats, Ids

HITS = 10
# A subset this short in a row has no direction there; the row is then left as it is, near zero.
_SHORTEST_NORM = 1e-6

PerQuery = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """queries: (m, dim), documents: (n, dim) float32, unit rows, at least HITS documents. best:
    (m, HITS) rows of the documents that all coordinates find, in no order.
    """

    queries: Floats
    documents: Floats
    best: Ids = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "best", top_rows(self.queries @ self.documents.T, HITS))

    @property
    def dim(self) -> int:
        """The full dimension."""
        return int(self.documents.shape[1])

    def parts(self, count: int) -> list[Sample]:
        """`count` samples that share no query and no document."""
        return [
            Sample(self.queries[part::count], self.documents[part::count]) for part in range(count)
        ]

    def scores(self, columns: Ids, renormalised: bool = True) -> Floats:
        """(m, n): queries against documents by some coordinates. renormalised: whether documents
        are brought back to unit length; a query's length does not change its order.
        """
        documents = self.documents[:, columns]
        if renormalised:
            documents = unit(documents)
        products: Floats = self.queries[:, columns] @ documents.T
        return products

    def agreement(self, scores: Floats, width: int = HITS) -> PerQuery:
        """For each query, the share of `best` among the `width` best by `scores`, (m, n)."""
        return shared(top_rows(scores, width), self.best)


def top_rows(scores: Floats, count: int) -> Ids:
    """(m, count) columns of the largest scores in each row, in no order."""
    count = min(count, scores.shape[1])
    kth = scores.shape[1] - count
    return np.argpartition(scores, kth, axis=1)[:, kth:].astype(np.int64)


def shared(found: Ids, wanted: Ids) -> PerQuery:
    """Row by row, the share of `wanted` that stands in `found`. Both: distinct numbers in a row."""
    return np.array(
        [
            len(set(one) & set(other)) / len(other)
            for one, other in zip(found.tolist(), wanted.tolist(), strict=True)
        ]
    )


def unit(vectors: Floats) -> Floats:
    """Rows at unit length; a row of nothing stays nothing."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(norms, np.float32(_SHORTEST_NORM))
    return scaled


def first(dim: int) -> Ids:
    """The coordinates of a tier."""
    return np.arange(dim)


def last(dim: int, full: int) -> Ids:
    """As many from the end."""
    return np.arange(full - dim, full)


def drawn(dim: int, full: int, generator: np.random.Generator) -> Ids:
    """As many drawn at random, ascending."""
    return np.sort(generator.choice(full, dim, replace=False))


def energy(sample: Sample, dims: Sequence[int]) -> dict[str, float]:
    """The share of the documents' squared length in each block between neighbouring `dims`,
    as {"0-64": .3}; they add up to 1 when `dims` ends with the full dimension.
    """
    squares = np.square(sample.documents, dtype=np.float64).mean(axis=0)
    starts = (0, *dims[:-1])
    return {
        f"{start}-{stop}": float(squares[start:stop].sum())
        for start, stop in zip(starts, dims, strict=True)
    }


def asymmetric(sample: Sample, dims: Sequence[int]) -> Mapping[str, Mapping[str, float]]:
    """By query dim, then document dim: agreement where each side was cut and renormalised at its
    own dimension and the product is over the shorter.
    """
    grid: dict[str, dict[str, float]] = {}
    for asked in dims:
        row: dict[str, float] = {}
        for kept in dims:
            shorter = min(asked, kept)
            documents = unit(sample.documents[:, :kept])[:, :shorter]
            scores = sample.queries[:, :shorter] @ documents.T
            row[str(kept)] = float(sample.agreement(scores).mean())
        grid[str(asked)] = row
    return grid
