"""Searches that wait for a thread share one scan.

An index reads its codes once for several queries: of 250,000 rows, four of them take little more
than half of what four scans take, and on a GPU as long as one. Nobody waits for others to come: a
thread that is free takes what is there, alike in all but the vector. It leaves the other threads
their share, and each search is answered as soon as its own hits are made.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Floats
from nestvec.core.ports import CoarseAnswer, CoarseQuery
from nestvec.telemetry import metrics

# More share little more (benchmarks/RESULTS.md), and the first of them waits for the scan of all.
_MOST = 16
_STAGE = "coarse"

_Kind = tuple[Tier, int, float | None, int]


def search_now(tier: Tier, query: CoarseQuery) -> CoarseAnswer:
    """In the thread that calls."""
    hits, documents, matching = tier.search(
        query.queries, query.count, query.bound_z, query.filter, query.certified_k
    )
    return CoarseAnswer(hits, documents, matching)


@dataclass(slots=True, eq=False)
class _Call:
    """queries: (n, store_dim) float32."""

    queries: Floats
    answer: Future[CoarseAnswer] = field(default_factory=Future)


class SharedSearches:
    """For one event loop.

    Every call has a turn in the executor's queue. A turn serves the calls that wait longest, its
    own or others: there are never more calls than turns.
    """

    def __init__(self, threads: BoundedExecutor) -> None:
        self._threads = threads
        self._waiting: dict[_Kind, deque[_Call]] = {}
        self._lock = threading.Lock()

    async def run(self, tier: Tier, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """`tier.search` in a thread. Raises what that raises, and as BoundedExecutor.run."""
        if query.filter is not None:
            return await self._threads.run(_STAGE, timeout_s, partial(search_now, tier, query))
        kind = (tier, query.count, query.bound_z, query.certified_k)
        call = _Call(query.queries)
        with self._lock:
            self._waiting.setdefault(kind, deque()).append(call)
        try:
            turn = self._threads.submit(partial(self._turn, kind))
            # A turn that was cancelled in the queue served nobody.
            turn.add_done_callback(lambda ended: ended.cancelled() and call.answer.cancel())
            try:
                return await self._threads.wait(_STAGE, timeout_s, call.answer)
            finally:
                turn.cancel()
        finally:
            self._leave(kind, call)

    def _leave(self, kind: _Kind, call: _Call) -> None:
        with self._lock:
            calls = self._waiting.get(kind)
            if calls is not None and call in calls:
                calls.remove(call)
                if not calls:
                    del self._waiting[kind]

    def _turn(self, kind: _Kind) -> None:
        """Runs in a thread."""
        calls = [call for call in self._take(kind) if call.answer.set_running_or_notify_cancel()]
        if calls:
            metrics.SCAN_SEARCHES.observe(len(calls))
            _answer(kind, calls)

    def _take(self, kind: _Kind) -> list[_Call]:
        """One thread's share of those that wait."""
        with self._lock:
            calls = self._waiting.get(kind, deque())
            share = min(-(-len(calls) // self._threads.threads), _MOST)
            taken = [calls.popleft() for _ in range(share)]
            if not calls:
                self._waiting.pop(kind, None)
        return taken


def _answer(kind: _Kind, calls: Sequence[_Call]) -> None:
    tier, count, bound_z, certified_k = kind
    queries = np.concatenate([call.queries for call in calls])
    try:
        hits, documents, matching = tier.scan(queries, count, bound_z, certified_k=certified_k)
        for call in calls:
            mine = [next(hits) for _ in call.queries]
            call.answer.set_result(CoarseAnswer(mine, documents, matching))
    except BaseException as error:  # noqa: BLE001 - whoever waits is told
        if len(calls) == 1:
            calls[0].answer.set_exception(error)
            return
        # One of them may be why; the others are answered.
        for call in calls:
            if not call.answer.done():
                _answer(kind, [call])
