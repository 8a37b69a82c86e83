"""Searches that wait for a thread share one scan.

An index reads its codes once for several queries, and a GPU's takes one call at a time: what that
brings is in benchmarks/RESULTS.md. Nobody waits for others to come: a
thread that is free takes what is there, alike in all but the vector. It leaves the other threads
their share, and each search is answered as soon as its own hits are made.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Floats
from nestvec.core.ports import CoarseAnswer, CoarseQuery
from nestvec.telemetry import metrics

# The first of them waits for the scan of all.
_MOST = 16
_STAGE = "coarse"

_Kind = tuple[Tier, int, float | None, int]
_Settle = Callable[[], None]


def search_now(tier: Tier, query: CoarseQuery) -> CoarseAnswer:
    """In the thread that calls."""
    hits, documents, matching = tier.search(
        query.queries, query.count, query.bound_z, query.filter, query.certified_k
    )
    return CoarseAnswer(list(hits), documents, matching)


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
            turn.add_done_callback(partial(_ended, call))
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

    def _turn(self, kind: _Kind) -> _Settle:
        """Runs in a thread. Returns what is left to do once the thread is free."""
        calls = [call for call in self._take(kind) if call.answer.set_running_or_notify_cancel()]
        if not calls:
            return _nothing
        metrics.SCAN_SEARCHES.observe(len(calls))
        return _answer(kind, calls)

    def _take(self, kind: _Kind) -> list[_Call]:
        """One thread's share of those that wait."""
        with self._lock:
            calls = self._waiting.get(kind, deque())
            share = min(-(-len(calls) // self._threads.threads), _MOST)
            taken = [calls.popleft() for _ in range(share)]
            if not calls:
                self._waiting.pop(kind, None)
        return taken


def _ended(call: _Call, turn: Future[_Settle]) -> None:
    """Of the turn that came with a call: one that was cancelled in the queue has served nobody."""
    if turn.cancelled():
        call.answer.cancel()
    else:
        turn.result()()


def _answer(kind: _Kind, calls: Sequence[_Call]) -> _Settle:
    """Answers all but the last of them, of which it returns how: whoever has an answer shall find
    the thread free.
    """
    tier, count, bound_z, certified_k = kind
    *others, last = calls
    queries = np.concatenate([call.queries for call in calls])
    try:
        hits, documents, matching = tier.search(queries, count, bound_z, certified_k=certified_k)
        for call in others:
            mine = [next(hits) for _ in call.queries]
            call.answer.set_result(CoarseAnswer(mine, documents, matching))
        return partial(last.answer.set_result, CoarseAnswer(list(hits), documents, matching))
    except BaseException as error:  # noqa: BLE001 - whoever waits is told
        if not others:
            return partial(last.answer.set_exception, error)
        # One of them may be why; the others are answered.
        for call in calls:
            if not call.answer.done():
                _answer(kind, [call])()
        return _nothing


def _nothing() -> None:
    pass
