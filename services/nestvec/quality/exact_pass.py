"""Sampled answers held against exact search, in one pass over the stored vectors.

For each of them three things are found, over the documents that the search could have found: the
k best by exact score at full dimension; the exact scores of the answer's own hits; and the score
that a document needs over the tier's prefix alone to be among the candidates, had those been chosen
exactly. A matrix product finds the few rows of a block that matter; the k best are scored as the
reranker scores them. The prefix's product is a part of the full one, so it costs nothing more.

What could not have been found is left out, so that it is no miss: documents written since (their
sequence is above the sample's watermark), and deleted or replaced ones (they are not live).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.placement import split_ids
from nestvec.core.sampled import SampledAnswer
from nestvec.core.scoring import exact_scores
from nestvec.core.watermark import Watermark

# Scores of candidates are cut back to what is wanted when there are so many more.
_SPARE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """What exact search says of one sampled answer.

    ids, scores: its k best documents, by score, then by id; (m,) int64 and float32. prefix_scores:
    (m,) float32, their cosines in the tier. floor: the least such cosine of an exactly chosen
    candidate; -inf where all documents would be one. hit_scores: of the answer's hits, in their
    order; NaN for one that is gone, or was written too late to be compared.
    """

    ids: Ids
    scores: Floats
    prefix_scores: Floats
    floor: float
    hit_scores: Floats


class ExactPass:
    """One pass for samples of one collection. Blocking work: for a thread."""

    def __init__(self, samples: Sequence[SampledAnswer], watermarks: Sequence[Watermark]) -> None:
        """watermarks: one a sample: what was searchable for certain when it was answered."""
        self._samples = samples
        self._queries = np.stack([one.vector for one in samples]).astype(np.float32)
        partitions = samples[0].collection.partitions
        self._limits = np.array(
            [[mark.sequences.get(p, 0) for p in range(partitions)] for mark in watermarks], np.int64
        )
        self._least_limits = self._limits.min(axis=0)
        self._best = [_Best(one.k) for one in samples]
        self._floors = [_Floor(one.count) for one in samples]
        self._hits = _Hits(samples)
        dims = np.array([one.coarse_dim for one in samples])
        self._by_tier = {int(dim): np.flatnonzero(dims == dim) for dim in np.unique(dims)}
        # Sums of `dim` products of unit vectors, in any order and grouping, differ by less.
        self._slack = np.float32(3.0 * self._queries.shape[1] * np.finfo(np.float32).eps)
        self.documents = 0

    def add(self, ids: Ids, vectors: Floats) -> None:
        """Some live documents, each once in all. ids: (n,) int64. vectors: (n, store_dim)."""
        if not len(ids):
            return
        self.documents += len(ids)
        partitions, sequences = split_ids(ids)
        known = None
        if (sequences > self._least_limits[partitions]).any():
            known = sequences <= self._limits[:, partitions]
        self._hits.score(ids, vectors, known, self._queries)
        for dim, mine in self._by_tier.items():
            self._add_to_tier(dim, mine, ids, vectors, known)

    def results(self) -> list[Exact]:
        """One a sample, in order."""
        return [
            Exact(*best.columns(), floor.value(), hit_scores)
            for best, floor, hit_scores in zip(
                self._best, self._floors, self._hits.by_sample(), strict=True
            )
        ]

    def _add_to_tier(
        self, dim: int, mine: NDArray[np.int64], ids: Ids, vectors: Floats, known: Bools | None
    ) -> None:
        """known: (all samples, n): what each may be held against; None for everything."""
        queries = self._queries[mine]
        heads = queries[:, :dim] @ vectors[:, :dim].T
        products = heads + queries[:, dim:] @ vectors[:, dim:].T
        heads /= np.linalg.norm(vectors[:, :dim], axis=1)
        heads /= np.linalg.norm(queries[:, :dim], axis=1)[:, None]
        if known is not None:
            products[~known[mine]] = heads[~known[mine]] = -np.inf
        floors = np.array([self._best[number].floor for number in mine], np.float32)
        kth = products.shape[1] - max(self._best[number].k for number in mine)
        if kth > 0 and np.isneginf(floors).any():
            # Of the first blocks: nothing below a block's own k-th can be among the k best.
            floors = np.maximum(floors, np.partition(products, kth, axis=1)[:, kth])
        hopeful = products >= np.maximum(floors - 2 * self._slack, -2.0)[:, None]
        for number, rows in _rows_by_query(hopeful):
            sample = int(mine[number])
            scores = exact_scores(self._queries[sample], vectors[rows])
            self._best[sample].add(ids[rows], scores, heads[number, rows])
        candidates = np.array([self._floors[number].least for number in mine], np.float32)
        above = heads > np.maximum(candidates, -2.0)[:, None]
        for number, rows in _rows_by_query(above):
            self._floors[int(mine[number])].add(heads[number, rows])


class _Best:
    """The k best of one query so far."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.floor = np.float32(-np.inf)
        self._ids = np.empty(0, np.int64)
        self._scores = np.empty((2, 0), np.float32)

    def add(self, ids: Ids, scores: Floats, prefix_scores: Floats) -> None:
        ids = np.concatenate([self._ids, ids])
        both = np.concatenate([self._scores, np.stack([scores, prefix_scores])], axis=1)
        order = np.lexsort((ids, -both[0]))[: self.k]
        self._ids, self._scores = ids[order], both[:, order]
        if len(order) == self.k:
            self.floor = self._scores[0, -1]

    def columns(self) -> tuple[Ids, Floats, Floats]:
        return self._ids, self._scores[0], self._scores[1]


class _Floor:
    """The `count`-th greatest of many scores, of which few are kept."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[Floats] = []
        self._held = 0
        self.least = np.float32(-np.inf)

    def add(self, scores: Floats) -> None:
        self._parts.append(scores)
        self._held += len(scores)
        if self._held >= 2 * self._count + _SPARE:
            self._cut()

    def value(self) -> float:
        self._cut()
        return float(self.least)

    def _cut(self) -> None:
        if self._held < self._count:
            return
        scores = np.concatenate(self._parts)
        kept = np.partition(scores, self._held - self._count)[self._held - self._count :]
        self._parts, self._held, self.least = [kept], len(kept), kept[0]


class _Hits:
    """Exact scores of what the answers hold, gathered as their documents come by."""

    def __init__(self, samples: Sequence[SampledAnswer]) -> None:
        self._ends = np.cumsum([len(one.hits) for one in samples])
        ids = np.concatenate([one.hits for one in samples])
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        self._samples = np.repeat(np.arange(len(samples)), [len(one.hits) for one in samples])
        self._scores = np.full(len(ids), np.nan, np.float32)

    def score(self, ids: Ids, vectors: Floats, known: Bools | None, queries: Floats) -> None:
        firsts = np.searchsorted(self._ids, ids, side="left")
        lasts = np.searchsorted(self._ids, ids, side="right")
        for row in np.flatnonzero(lasts > firsts).tolist():
            places = self._order[firsts[row] : lasts[row]]
            if known is not None:
                places = places[known[self._samples[places], row]]
            for place in places.tolist():
                query = queries[self._samples[place]]
                self._scores[place] = exact_scores(query, vectors[row : row + 1])[0]

    def by_sample(self) -> list[Floats]:
        return np.split(self._scores, self._ends[:-1])


def _rows_by_query(chosen: Bools) -> list[tuple[int, NDArray[np.int64]]]:
    """Of each query with any, the rows that are chosen."""
    numbers, rows = np.nonzero(chosen)
    if not len(numbers):
        return []
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    firsts = numbers[np.concatenate([[0], cuts])].tolist()
    return list(zip(firsts, np.split(rows, cuts), strict=True))
