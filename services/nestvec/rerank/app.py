"""The rerank application: full-dimension order for candidates, fetching no more than it must.

The bounded rerank. Each candidate has an upper bound on its full cosine. Full vectors are fetched
in order of that bound, in small blocks, and the fetch stops when the k-th best exact score exceeds
the next bound: nothing left can enter the answer. Source of the bound: core/sketch.py; of what is
claimed from it: core/certificate.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from nestvec.concurrency import StoreGate
from nestvec.core.arrays import Floats, Ids
from nestvec.core.budget import Budget
from nestvec.core.certificate import (
    Certificate,
    failure_probability,
    least_margin,
    rest_margin,
)
from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, StoreUnavailable
from nestvec.core.merge import ranked
from nestvec.core.ports import CoarseHits, RerankAnswer, RerankQuery, VectorStore
from nestvec.core.scoring import exact_scores
from nestvec.telemetry.logs import logger

# The first block is what would be needed if the k-th best score were this many standard deviations
# below the k-th best estimate, and the next ones are what is then left. At 200,000 texts that takes
# 1.3 round trips and 54 vectors; blocks of 32 take 2.0 and 53, blocks of 16 take 3.1 and 51
# (benchmarks/RESULTS.md).
_FIRST_BLOCK_SIGMAS = 0.5
_LARGEST_BLOCK = 64
_EXHAUSTIVE_BLOCK = 512
# An exact score so many standard deviations off its estimate is no chance (less than once in 10^8
# vectors): the codes are not of this vector, and no bound is worth anything.
_BROKEN_SIGMAS = 6.5
# A cosine, but for what rounding in the store (int8 most) adds to a vector's length.
_LARGEST_SCORE = 1.05
_log = logger()


@dataclass(slots=True)
class _Progress:
    """What has been fetched of one query's candidates, in columns by upper bound."""

    order: np.ndarray
    uppers: Floats
    position: int = 0
    ids: list[Ids] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    broken: int = 0

    def kth_score(self, k: int) -> float:
        """The k-th best exact score so far; -inf while there are fewer."""
        scores = np.concatenate(self.scores) if self.scores else np.empty(0, np.float32)
        if len(scores) < k:
            return -np.inf
        return float(np.partition(scores, len(scores) - k)[len(scores) - k])


class RerankApp:
    """Reads full vectors from the store and scores them. Fills ports.Reranker."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._gate = StoreGate("rerank")

    async def rerank(
        self, collection: Collection, query: RerankQuery, timeout_s: float
    ) -> RerankAnswer:
        """See ports.Reranker."""
        budget = Budget.of(timeout_s, time.monotonic)
        query = replace(query, candidates=_distinct(query.candidates))
        candidates = query.candidates
        uppers = candidates.estimates + candidates.half_widths
        # What is not known may be anything.
        uppers[np.isnan(uppers)] = np.inf
        # A coarse answer comes in this order already; a merged one as well.
        sorted_already = bool((uppers[1:] <= uppers[:-1]).all())
        order = np.arange(len(uppers)) if sorted_already else np.lexsort((candidates.ids, -uppers))
        progress = _Progress(order, uppers[order])
        complete = True
        while block := self._next_block(progress, query):
            try:
                await self._fetch(collection, query, progress, block, budget.stage_s("rerank"))
            except (BudgetSpent, StoreUnavailable):
                if not progress.scores:
                    raise
                complete = False
                break
        if progress.broken:
            _log.warning(
                "rerank.bounds_broken",
                collection=collection.name,
                generation=collection.generation,
                documents=progress.broken,
                fetched=progress.position,
            )
        return _answer(query, progress, complete)

    def _next_block(self, progress: _Progress, query: RerankQuery) -> int:
        """How many vectors to fetch next; 0 when nothing left can enter the answer."""
        left = len(progress.order) - progress.position
        if query.exhaustive:
            return min(left, _EXHAUSTIVE_BLOCK)
        if progress.position == 0:
            return _first_block(progress, query)
        # An equal bound may still tie, and ties are settled by id: only a lower one is out.
        hopeful = np.searchsorted(
            -progress.uppers[progress.position :], -progress.kth_score(query.k), side="right"
        )
        return min(int(hopeful), _LARGEST_BLOCK)

    async def _fetch(
        self,
        collection: Collection,
        query: RerankQuery,
        progress: _Progress,
        block: int,
        timeout_s: float,
    ) -> None:
        rows = progress.order[progress.position : progress.position + block]
        ids = query.candidates.ids[rows]
        values = await self._gate.read(lambda: self._store.vectors(collection, ids), timeout_s)
        codec = collection.codec
        sound: list[int] = []
        for number, value in enumerate(values):
            if value is None:
                progress.missing.append(int(ids[number]))
            elif codec.problem(value) is not None:
                progress.corrupt.append(int(ids[number]))
            else:
                sound.append(number)
        vectors = codec.decode([value for value in (values[n] for n in sound) if value])
        scores = exact_scores(query.query, vectors)
        # NaN, or no cosine: then it is not the unit vector that was written.
        possible = np.abs(scores) <= _LARGEST_SCORE
        progress.corrupt.extend(int(number) for number in ids[sound][~possible])
        progress.ids.append(ids[sound][possible])
        progress.scores.append(scores[possible])
        progress.broken += _beyond(query, rows[sound][possible], scores[possible])
        progress.position += block


def _first_block(progress: _Progress, query: RerankQuery) -> int:
    """How many candidates would be fetched if the estimates were the scores, and a few more."""
    estimates, half_widths = query.candidates.estimates, query.candidates.half_widths
    count = len(estimates)
    if count <= query.k:
        return count
    kth_estimate = np.partition(estimates, count - query.k)[count - query.k]
    sigma = half_widths[progress.order[:_LARGEST_BLOCK]].mean() / query.bound_z
    needed = np.searchsorted(
        -progress.uppers, -(kth_estimate - _FIRST_BLOCK_SIGMAS * sigma), side="right"
    )
    return max(query.k, min(int(needed), 2 * _LARGEST_BLOCK))


def _answer(query: RerankQuery, progress: _Progress, complete: bool) -> RerankAnswer:
    candidates = query.candidates
    ids = np.concatenate(progress.ids) if progress.ids else np.empty(0, np.int64)
    scores = np.concatenate(progress.scores) if progress.scores else np.empty(0, np.float32)
    fetched = progress.position
    if not complete:
        # What was not fetched keeps its estimate: of the same cosine, so the two may be ranked
        # together, and better than dropping what the clock did not allow.
        rest = progress.order[progress.position :]
        ids = np.concatenate([ids, candidates.ids[rest]])
        scores = np.concatenate([scores, candidates.estimates[rest]])
    order = ranked(ids, scores)
    ids, scores = ids[order], scores[order]
    kept = (
        len(ids)
        if len(ids) <= query.k
        else int(np.searchsorted(-scores, -scores[query.k - 1], side="right"))
    )
    certificate, probability = _certify(query, progress, complete)
    return RerankAnswer(
        ids=ids[:kept],
        scores=scores[:kept],
        considered=len(progress.order),
        fetched=fetched,
        certificate=certificate,
        failure_probability=probability,
        missing=np.array(progress.missing, np.int64),
        corrupt=np.array(progress.corrupt, np.int64),
    )


def _certify(query: RerankQuery, progress: _Progress, complete: bool) -> tuple[Certificate, float]:
    """The strongest certificate that holds, and the probability that it does not."""
    # First, so that an answer that also lost vectors still says that it holds estimates.
    if not complete:
        return Certificate.ESTIMATED, 0.0
    if progress.missing or progress.corrupt or progress.broken:
        return Certificate.NONE, 0.0
    hits, z, kth = query.candidates, query.bound_z, progress.kth_score(query.k)
    unseen = progress.order[progress.position :]
    margin = least_margin(kth, hits.estimates[unseen], hits.half_widths[unseen], z)
    rest = hits.rest_upper_bound
    if rest is not None and (rest == -np.inf or kth > rest):
        margin = min(margin, rest_margin(kth, rest, hits.rest_half_width, z))
        matching = len(progress.order) + hits.rest_count
        return Certificate.COLLECTION, failure_probability(margin, min(query.k, matching))
    # Which documents are candidates was decided by bounds of the same draw: it may be any of them.
    return Certificate.WITHIN_CANDIDATES, failure_probability(margin, len(progress.order))


def _beyond(query: RerankQuery, rows: np.ndarray, scores: Floats) -> int:
    """How many exact scores are too far from their estimates. rows: of the candidates."""
    widths = query.candidates.half_widths[rows] * max(1.0, _BROKEN_SIGMAS / query.bound_z)
    # Not the negation: NaN is no estimate either.
    within = np.abs(scores - query.candidates.estimates[rows]) <= widths
    return int(np.count_nonzero(~within))


def _distinct(hits: CoarseHits) -> CoarseHits:
    """Each document once: one that counted twice would make the k-th score too high."""
    ids = np.sort(hits.ids)
    if not (ids[1:] == ids[:-1]).any():
        return hits
    _, first = np.unique(hits.ids, return_index=True)
    first = np.sort(first)
    return replace(
        hits,
        ids=hits.ids[first],
        estimates=hits.estimates[first],
        half_widths=hits.half_widths[first],
    )
