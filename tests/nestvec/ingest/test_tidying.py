"""What was replaced or deleted is freed behind the shards, also by the process after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest

from nestvec.core.document import Document
from nestvec.core.errors import NotFound, StoreUnavailable, WorkerUnavailable
from nestvec.ingest.batch import Ack, Item
from tests.support.faults import PATIENT_S, eventually, raising
from tests.support.ingest_desk import QUICK, Desk, FlakyStore, WallClock, open_desk

HOUR_MS = 3_600_000
# A test does its rounds.
open_by_hand = partial(open_desk, tidying=False)


async def leftovers(desk: Desk) -> int:
    """Documents that are kept and not live."""
    return len(desk.store.kept_texts(desk.docs)) - len(desk.texts)


def only_live(desk: Desk) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await leftovers(desk) == 0

    return holds


async def change_some(desk: Desk, ack: Ack = Ack.SEARCHABLE) -> None:
    """Leaves four documents that nobody needs."""
    await desk.add(*(Document(name, "one") for name in "abcde"), ack=ack)
    await desk.add(*(Document(name, "two") for name in "abc"), ack=ack)
    await desk.ingest.delete("docs", ["e"], ack=ack)


async def test_what_was_replaced_or_deleted_is_freed_once_every_shard_has_passed() -> None:
    async with open_desk(shards=2) as desk:
        desk.shards[1].stalled = True
        await change_some(desk, Ack.STORED)
        for _ in range(3):
            await desk.ingest._tidier.round()
        assert await leftovers(desk) > 0, "one shard may still find it"
        desk.shards[1].stalled = False
        await eventually(only_live(desk))
        assert desk.store.kept_texts(desk.docs) == {"a: two", "b: two", "c: two", "d: one"}


async def test_a_replaced_vector_stays_readable_for_a_while() -> None:
    """A search that began before the upsert may still fetch it."""
    async with open_by_hand(options=replace(QUICK, purge_after_s=3600.0)) as desk:
        await change_some(desk)
        for _ in range(5):
            await desk.ingest._tidier.round()
        assert await leftovers(desk) == 4
        (debt,) = desk.ingest._tidier._debts.values()
        # An hour later, as the clock would say.
        debt.seen[0] = (debt.seen[0][0] - 3600.0, debt.seen[0][1])
        await desk.ingest._tidier.round()
        assert await leftovers(desk) == 0


async def test_nothing_is_asked_of_anyone_once_all_is_freed() -> None:
    async with open_by_hand() as desk:
        await change_some(desk)
        await desk.ingest._tidier.round()
        assert desk.ingest._tidier._debts == {}
        desk.shards[0].faults.calls.clear()
        desk.store.faults.calls.clear()
        await desk.ingest._tidier.round()
        assert desk.shards[0].faults.calls == []
        assert desk.store.faults.calls == []


async def test_what_a_crash_left_is_freed_by_the_next_process() -> None:
    store = FlakyStore()
    async with open_by_hand(store) as desk:
        await change_some(desk)
        assert await leftovers(desk) == 4
    async with open_desk(store) as desk:
        await eventually(only_live(desk))


async def test_a_store_and_shards_that_fail_are_tried_again() -> None:
    async with open_desk() as desk:
        down = raising(StoreUnavailable("down"))
        desk.store.faults.before["listing"] = [down] * 3
        desk.store.faults.before["tidy"] = [down] * 3
        desk.shards[0].faults.before["progress"] = [raising(WorkerUnavailable("down"))] * 3
        await change_some(desk)
        await eventually(only_live(desk))


async def test_a_bug_does_not_end_it() -> None:
    async with open_desk() as desk:
        desk.store.faults.before["tidy"] = [raising(RuntimeError("a bug"))]
        await change_some(desk)
        await eventually(only_live(desk))


async def test_one_collection_that_fails_does_not_keep_others_from_being_tidied() -> None:
    async with open_by_hand() as desk:
        other = await desk.store.create_collection(replace(desk.docs, name="other"), {})
        prepared = await desk.ingest.prepare(other, [Item(Document("x", "text"))], True)
        await desk.ingest.store(prepared)
        await change_some(desk)
        desk.shards[0].faults.before["progress"] = [raising(WorkerUnavailable("down"))]
        with pytest.raises(WorkerUnavailable):
            await desk.ingest._tidier.round()
        assert await leftovers(desk) == 0


async def test_a_collection_that_was_dropped_is_forgotten() -> None:
    async with open_by_hand() as desk:
        await change_some(desk)
        desk.shards[0].faults.always("progress", raising(NotFound("collection", "docs")))
        await desk.ingest._tidier.round()
        assert len(desk.ingest._tidier._debts) == 1, "not opened yet"
        await desk.store.drop_collection(desk.docs)
        await desk.ingest._tidier.round()
        assert desk.ingest._tidier._debts == {}


async def test_the_log_is_trimmed_to_what_is_to_be_kept() -> None:
    async with open_by_hand(options=replace(QUICK, log_entries=2)) as desk:
        for number in range(50):
            await desk.add(Document("a", f"text {number}"))
        await desk.ingest._tidier.round()
        assert (await desk.store.usage(desk.docs)).log_entries <= 2


async def test_deletions_are_remembered_for_as_long_as_asked() -> None:
    clock = WallClock()
    store = FlakyStore()
    store._now_ms = clock
    options = replace(QUICK, tombstone_hours=2.0)
    async with open_by_hand(store, options=options, clock=clock) as desk:

        async def tombstones_after(hours: float) -> int:
            clock.now_ms += round(hours * HOUR_MS)
            desk.ingest._tidier._expire_at = 0.0
            await desk.ingest._tidier.round()
            return (await store.usage(desk.docs)).tombstones

        await desk.add(Document("a", "text"))
        await desk.ingest.delete("docs", ["a"])
        assert await tombstones_after(1.0) == 1
        await desk.ingest._tidier.round()
        assert store.faults.calls.count("expire_tombstones") == 1, "once an hour, not every round"
        assert await tombstones_after(1.1) == 0


async def test_closing_does_not_wait_for_what_is_left_to_free() -> None:
    async with open_desk(options=replace(QUICK, purge_after_s=3600.0)) as desk:
        await change_some(desk)
        async with asyncio.timeout(PATIENT_S):
            await desk.ingest.close()
        assert await leftovers(desk) == 4
