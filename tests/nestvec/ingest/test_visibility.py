"""A slow shard slows writes; it never lets them pile up, and never blocks them for good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest

from nestvec.core.document import Document
from nestvec.core.errors import Overloaded, WorkerUnavailable
from nestvec.core.ports import CoarseSearcher, FixedShards
from nestvec.core.watermark import Watermark, sequence_of
from nestvec.ingest.batch import Ack, Refusal
from nestvec.ingest.visibility import Visibility
from tests.support.faults import PATIENT_S, eventually, raising
from tests.support.ingest_desk import QUICK, Desk, FollowingShard
from tests.support.ingest_desk import open_desk as open_any_desk

SMALL_LAG = replace(QUICK, max_lag_documents=20, patience_s=PATIENT_S)
# Nothing but writes asks the shards.
open_desk = partial(open_any_desk, tidying=False)


def documents(count: int, start: int = 0) -> list[Document]:
    return [Document(f"d{number}", "text") for number in range(start, start + count)]


async def fill(desk: Desk, messages: int, size: int = 8) -> None:
    """Stored, and no shard asked to find it."""
    for number in range(messages):
        outcome = await desk.add(*documents(size, number * size), ack=Ack.STORED)
        assert outcome.indexed == size


async def test_writes_wait_once_too_much_is_stored_and_not_found() -> None:
    async with open_desk(options=SMALL_LAG) as desk:
        desk.shards[0].stalled = True
        await fill(desk, 3)
        assert desk.ingest._visibility.lag(desk.docs) == 24
        written = desk.store.faults.calls.count("put")
        more = [
            asyncio.create_task(desk.add(*documents(8, 100 * n), ack=Ack.STORED)) for n in (1, 2, 3)
        ]

        async def asked() -> bool:
            return "reach" in desk.shards[0].faults.calls

        await eventually(asked)
        await asyncio.sleep(0.02)
        assert desk.store.faults.calls.count("put") == written, "nothing more is written"
        assert desk.shards[0].faults.calls.count("reach") == 1, "one of those who wait asks"
        desk.shards[0].stalled = False
        assert [one.indexed for one in await asyncio.gather(*more)] == [8, 8, 8]
        assert desk.ingest._visibility.lag(desk.docs) <= 20 + 3 * 8


async def test_the_slowest_shard_counts() -> None:
    async with open_desk(shards=2, options=replace(SMALL_LAG, patience_s=0.05)) as desk:
        desk.shards[1].stalled = True
        await fill(desk, 3)
        outcome = await desk.add(*documents(8, 100), ack=Ack.STORED)
        assert outcome.indexed == 0
        assert {one.refusal for one in outcome.failures} == {Refusal.UNAVAILABLE}
        assert isinstance(outcome.failures[0].cause, Overloaded)
        assert "max_lag_documents" in outcome.failures[0].message
        assert len(desk.texts) == 24
        desk.shards[1].stalled = False
        assert (await desk.add(*documents(8, 100), ack=Ack.STORED)).indexed == 8


async def test_what_is_acknowledged_as_searchable_is_owed_no_more() -> None:
    async with open_desk(shards=2, options=SMALL_LAG) as desk:
        for number in range(10):
            await desk.add(*documents(8, number * 8))
        assert desk.ingest._visibility.lag(desk.docs) == 0
        await desk.ingest.delete("docs", ["d1", "d2"])
        assert desk.ingest._visibility.lag(desk.docs) == 0


async def test_what_shards_pass_by_themselves_is_owed_no_more() -> None:
    async with open_desk(shards=2, options=SMALL_LAG) as desk:
        await fill(desk, 2)
        assert desk.ingest._visibility.lag(desk.docs) == 16
        await desk.ingest._visibility.progress(desk.docs)
        assert desk.ingest._visibility.lag(desk.docs) == 0


async def test_very_many_small_writes_are_kept_in_few_pieces() -> None:
    async with open_desk(options=replace(SMALL_LAG, max_lag_documents=6400)) as desk:
        for number in range(1000):
            desk.ingest._visibility.wrote(desk.docs, Watermark(1, {number % 8: number}), 1)
        assert desk.ingest._visibility.lag(desk.docs) == 1000
        assert len(desk.ingest._visibility._backlog(desk.docs).pieces) == 10


async def test_what_the_store_lost_does_not_block_writes_for_good() -> None:
    """The log's tail went with a crash: no shard will ever get there."""
    async with open_desk(options=replace(SMALL_LAG, patience_s=0.05)) as desk:
        lost = Watermark(1, {3: sequence_of(0, 1_000)})
        desk.ingest._visibility.wrote(desk.docs, lost, 500)
        assert (await desk.add(*documents(8), ack=Ack.STORED)).indexed == 8
        assert desk.ingest._visibility.lag(desk.docs) == 8


async def test_progress_is_that_of_the_shards_that_answer() -> None:
    async with open_desk(shards=2, options=SMALL_LAG) as desk:
        await fill(desk, 2)
        desk.shards[0].faults.always("progress", raising(WorkerUnavailable("down")))
        progress = await desk.ingest._visibility.progress(desk.docs)
        assert progress.sequences
        assert all(partition in range(4, 8) for partition in progress.sequences)
        desk.shards[1].faults.always("progress", raising(WorkerUnavailable("down")))
        with pytest.raises(WorkerUnavailable):
            await desk.ingest._visibility.progress(desk.docs)


@dataclass(frozen=True, slots=True)
class Moving(FixedShards):
    """A collection that another layout follows as well."""

    others: Sequence[CoarseSearcher] = ()

    def beside(self, collection: str) -> Sequence[Sequence[CoarseSearcher]]:
        return (self.others,)


async def test_a_layout_that_may_be_asked_next_is_waited_for_and_its_failure_is_not_told() -> None:
    async with open_desk(options=QUICK) as desk:
        other = FollowingShard(desk.store, 0, 1)
        desk.ingest._visibility = Visibility(Moving(desk.shards, [other]), desk.store, 100)
        other.stalled = True
        await fill(desk, 1)
        mark = await desk.ingest._visibility.progress(desk.docs)
        there = Watermark(
            desk.docs.generation, await desk.store.positions(desk.docs, range(8))
        ).joined(mark)
        waiting = asyncio.create_task(desk.ingest._visibility.reach(desk.docs, there, PATIENT_S))

        async def asked() -> bool:
            return "reach" in other.faults.calls

        await eventually(asked)
        assert not waiting.done(), "the layout beside has not passed it"
        other.stalled = False
        assert await waiting == {}
        other.faults.before["reach"] = [raising(WorkerUnavailable("gone"))] * 50
        assert await desk.ingest._visibility.reach(desk.docs, there, PATIENT_S) == {}
