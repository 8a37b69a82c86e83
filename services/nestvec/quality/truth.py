"""The exact answer: every stored vector scored against every query, block by block.

Memory does not grow with the corpus: what is kept of it is each query's best so far. A matrix
product finds the few rows of a block that may enter, with the product's own rounding allowed for;
those are scored as the reranker scores them. The result is that of core.scoring.exact_top over
the whole corpus, with ties by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.scoring import exact_scores
from nestvec.quality.recall import Ranking

# Rows scored at once: 500 queries' products over them are 8 MB.
_ROWS_AT_ONCE = 4096


class ExactSearch:
    """The k best of a corpus for many queries, whatever order its documents come in."""

    def __init__(self, queries: Floats, k: int) -> None:
        """queries: (n, dim) float32, unit. k: at least 1."""
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._k = k
        self._best: list[list[tuple[float, str]]] = [[] for _ in queries]
        self._floors = np.full(len(queries), -np.inf, np.float32)
        # Two sums of `dim` products of unit vectors, in any order, differ by less than this.
        self._slack = np.float32(2.0 * self._queries.shape[1] * np.finfo(np.float32).eps)
        self.documents = 0

    def add(self, ids: Sequence[str], vectors: Floats) -> None:
        """Some documents of the corpus. vectors: (len(ids), dim) float32, as they are stored."""
        assert len(ids) == len(vectors)
        self.documents += len(ids)
        for first in range(0, len(ids), _ROWS_AT_ONCE):
            last = first + _ROWS_AT_ONCE
            self._add_block(ids[first:last], vectors[first:last])

    def rankings(self) -> list[Ranking]:
        """The answer to each query, in order."""
        return [
            Ranking(tuple(name for _, name in best), np.array([-s for s, _ in best], np.float32))
            for best in self._best
        ]

    def _add_block(self, ids: Sequence[str], vectors: Floats) -> None:
        products = self._queries @ vectors.T
        floors = self._floors
        if len(ids) >= self._k:
            kth = len(ids) - self._k
            floors = np.maximum(floors, np.partition(products, kth, axis=1)[:, kth])
        # Twice: the block's k-th product may be too high, and a row's own product too low.
        hopeful = products >= (floors - 2 * self._slack)[:, None]
        for number in np.flatnonzero(hopeful.any(axis=1)):
            rows = np.flatnonzero(hopeful[number])
            scores = exact_scores(self._queries[number], vectors[rows])
            fresh = zip((-scores).tolist(), (ids[int(row)] for row in rows), strict=True)
            best = sorted([*self._best[number], *fresh])[: self._k]
            self._best[number] = best
            if len(best) == self._k:
                self._floors[number] = -best[-1][0]


def exact_truth(
    queries: Floats, blocks: Iterable[tuple[Sequence[str], Floats]], k: int
) -> list[Ranking]:
    """The k best documents for each query. blocks: (ids, vectors) that together are the corpus."""
    search = ExactSearch(queries, k)
    for ids, vectors in blocks:
        search.add(ids, vectors)
    return search.rankings()
