"""Searches that wait share one scan, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import numpy as np
import pytest

from nestvec.adapters.faiss_index import CpuIndex, FaissFactory
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.shared import SharedSearches, search_now
from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Bools, Floats
from nestvec.core.errors import BudgetSpent, DegenerateVector, Overloaded, WorkerUnavailable
from nestvec.core.ports import CoarseAnswer, CoarseQuery
from tests.nestvec.core.synthetic import as_stored, mrl_like, unit
from tests.support.rooms import PATIENT_S, a_sketch, eventually

FULL, HEAD, ROWS = 24, 8, 600
QUERIES = unit(mrl_like(40, FULL, seed=4))


@pytest.fixture(scope="module")
def tier() -> Tier:
    made = Tier(HEAD, a_sketch(HEAD, FULL), FaissFactory())
    vectors = as_stored(mrl_like(ROWS, FULL, seed=3))
    made.apply(CoarseRows(np.arange(ROWS), vectors, np.empty(0, np.int64)))
    return made


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each scan was for."""
    seen: list[int] = []
    search = CpuIndex.search

    def counted(
        self: CpuIndex, queries: Floats, count: int, allowed: Bools | None = None
    ) -> object:
        seen.append(len(queries))
        return search(self, queries, count, allowed)

    monkeypatch.setattr(CpuIndex, "search", counted)
    return seen


async def becomes(holds: Callable[[], bool]) -> None:
    async def held() -> bool:
        return holds()

    await eventually(held)


class Room:
    """Shared searches over few threads that a test can hold up."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.executor = BoundedExecutor("test", threads, waiting)
        self.shared = SharedSearches(self.executor)
        self._let = threading.Event()
        self._threads = threads

    async def hold(self) -> None:
        """No thread is free until `let`."""
        for _ in range(self._threads):
            self.executor.submit(self._wait)
        await becomes(lambda: self.executor.running == self._threads)

    def _wait(self) -> None:
        assert self._let.wait(PATIENT_S)

    def let(self) -> None:
        self._let.set()

    async def begin(self, tier: Tier, *queries: CoarseQuery) -> list[asyncio.Task[CoarseAnswer]]:
        """Searches that are in the queue when this returns."""
        before = self.executor.waiting
        tasks = [asyncio.create_task(self.shared.run(tier, one, PATIENT_S)) for one in queries]
        await becomes(lambda: self.executor.waiting == before + len(queries))
        return tasks


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    made = Room(threads=1, waiting=100)
    yield made
    made.let()
    await asyncio.to_thread(made.executor.close)


def a_query(number: int, count: int = 5, bound_z: float | None = 6.0) -> CoarseQuery:
    queries = QUERIES[number : number + 1]
    return CoarseQuery("docs", 0, "space", queries, HEAD, count, bound_z)


def assert_as_alone(tier: Tier, query: CoarseQuery, answer: CoarseAnswer) -> None:
    by_itself = search_now(tier, query)
    assert (answer.documents, answer.matching) == (by_itself.documents, by_itself.matching)
    assert len(answer.hits) == len(by_itself.hits)
    for mine, alone in zip(answer.hits, by_itself.hits, strict=True):
        assert mine.ids.tolist() == alone.ids.tolist()
        assert mine.estimates.tobytes() == alone.estimates.tobytes()
        assert mine.half_widths.tobytes() == alone.half_widths.tobytes()
        assert mine.rest_upper_bound == alone.rest_upper_bound


async def test_one_that_finds_a_thread_is_searched_alone(
    tier: Tier, room: Room, scans: list[int]
) -> None:
    answer = await room.shared.run(tier, a_query(0), PATIENT_S)
    assert scans == [1]
    assert_as_alone(tier, a_query(0), answer)
    await becomes(lambda: room.executor.idle)


async def test_those_that_wait_share_a_scan_and_get_their_own_hits(
    tier: Tier, room: Room, scans: list[int]
) -> None:
    await room.hold()
    queries = [a_query(number) for number in range(6)]
    # One of several queries of its own among them.
    queries[2] = replace(queries[2], queries=QUERIES[10:13])
    tasks = await room.begin(tier, *queries)
    room.let()
    answers = await asyncio.gather(*tasks)
    assert scans == [8]
    for query, answer in zip(queries, answers, strict=True):
        assert_as_alone(tier, query, answer)
    await becomes(lambda: room.executor.idle)


async def test_what_is_asked_otherwise_is_searched_by_itself(
    tier: Tier, room: Room, scans: list[int]
) -> None:
    await room.hold()
    other = Tier(HEAD, tier.sketch, FaissFactory())
    queries = [
        a_query(0),
        a_query(1, count=7),
        a_query(2, bound_z=None),
        a_query(3),
        a_query(4, bound_z=4.0),
    ]
    tasks = await room.begin(tier, *queries)
    tasks += await room.begin(other, a_query(5))
    room.let()
    *answers, empty = await asyncio.gather(*tasks)
    assert scans == [2, 1, 1, 1]
    for query, answer in zip(queries, answers, strict=True):
        assert_as_alone(tier, query, answer)
    assert empty.documents == 0


async def test_a_thread_leaves_the_others_their_share(tier: Tier, scans: list[int]) -> None:
    room = Room(threads=2, waiting=100)
    await room.hold()
    tasks = await room.begin(tier, *(a_query(number) for number in range(7)))
    room.let()
    await asyncio.gather(*tasks)
    # Of seven the first one's half, of three the second one's; which scans first is a toss-up.
    assert sorted(scans) == [1, 2, 4]
    await asyncio.to_thread(room.executor.close)


async def test_no_scan_is_for_more_than_a_few(tier: Tier, room: Room, scans: list[int]) -> None:
    await room.hold()
    tasks = await room.begin(tier, *(a_query(number) for number in range(40)))
    room.let()
    for number, answer in enumerate(await asyncio.gather(*tasks)):
        assert_as_alone(tier, a_query(number), answer)
    assert scans[:3] == [16, 16, 8]


async def test_one_that_fails_fails_alone(tier: Tier, room: Room) -> None:
    await room.hold()
    nowhere = QUERIES[:1].copy()
    nowhere[:, :HEAD] = 0.0
    good = [a_query(number) for number in range(3)]
    tasks = await room.begin(tier, good[0], replace(good[0], queries=nowhere), *good[1:])
    room.let()
    first, failed, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failed, DegenerateVector)
    for query, answer in zip(good, [first, *others], strict=True):
        assert isinstance(answer, CoarseAnswer)
        assert_as_alone(tier, query, answer)


async def test_nothing_is_scanned_for_one_that_has_gone(
    tier: Tier, room: Room, scans: list[int]
) -> None:
    await room.hold()
    tasks = await room.begin(tier, *(a_query(number) for number in range(4)))
    tasks[1].cancel()
    with pytest.raises(BudgetSpent):
        await room.shared.run(tier, a_query(9), timeout_s=0.01)
    await becomes(lambda: room.executor.waiting == 3)
    room.let()
    for number in (0, 2, 3):
        assert_as_alone(tier, a_query(number), await tasks[number])
    assert scans[0] == 3


async def test_a_place_is_taken_by_each_that_waits(tier: Tier) -> None:
    room = Room(threads=1, waiting=3)
    await room.hold()
    tasks = await room.begin(tier, *(a_query(number) for number in range(3)))
    with pytest.raises(Overloaded):
        await room.shared.run(tier, a_query(4), PATIENT_S)
    room.let()
    for number, answer in enumerate(await asyncio.gather(*tasks)):
        assert_as_alone(tier, a_query(number), answer)
    await becomes(lambda: room.executor.idle)
    await asyncio.to_thread(room.executor.close)


async def test_those_that_wait_as_it_closes_are_told(tier: Tier) -> None:
    room = Room(threads=1, waiting=10)
    await room.hold()
    tasks = await room.begin(tier, *(a_query(number) for number in range(3)))
    closing = asyncio.create_task(asyncio.to_thread(room.executor.close))
    for failed in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(failed, WorkerUnavailable)
    room.let()
    await closing


async def test_many_at_once_that_come_and_go(tier: Tier) -> None:
    room, rng = Room(threads=3, waiting=1000), random.Random(5)

    async def search(number: int) -> None:
        await asyncio.sleep(rng.random() * 0.05)
        query = a_query(number % 40, count=rng.choice((3, 5)), bound_z=rng.choice((None, 6.0)))
        # Some give up: at once, or in the middle.
        timeout_s = rng.choice((0.0, 0.002, PATIENT_S, PATIENT_S, PATIENT_S))
        try:
            answer = await room.shared.run(tier, query, timeout_s)
        except BudgetSpent:
            assert timeout_s < PATIENT_S
        else:
            assert_as_alone(tier, query, answer)

    await asyncio.gather(*(search(number) for number in range(400)))
    await becomes(lambda: room.executor.idle)
    assert room.shared._waiting == {}
    await asyncio.to_thread(room.executor.close)
