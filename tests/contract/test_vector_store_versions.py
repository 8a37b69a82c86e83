"""What every VectorStore keeps to about versions: the greatest one stands, whatever the order."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

import numpy as np

from nestvec.adapters.memory_store import MemoryStore
from nestvec.core.clock import MAX_VERSION
from nestvec.core.ports import Deleted, Placed, StoreDeletion, StoreRecord, VectorStore
from nestvec.core.watermark import split_sequence
from tests.support.stores import (
    a_record,
    created,
    ids_of,
    live_ids,
    some_deletions,
    some_records,
    tidy_all,
)

STALE = -1
# Neighbours at every byte boundary, and where numbers of 53 bits run out.
VERSIONS = sorted(
    {
        max(0, min(MAX_VERSION, (1 << bits) + step))
        for bits in (0, 7, 8, 16, 31, 32, 52, 53, 54, 62, 63)
        for step in (-2, -1, 0, 1, 2)
    }
)


async def test_of_two_versions_the_greater_stands_whichever_comes_first(store: VectorStore) -> None:
    docs = await created(store)
    for low, high in itertools.pairwise(VERSIONS):
        ahead, behind = f"ahead {low}", f"behind {low}"
        await store.put(docs, [a_record(ahead, "low", low), a_record(behind, "high", high)])
        (newer,) = await store.put(docs, [a_record(ahead, "high", high)])
        (older,) = await store.put(docs, [a_record(behind, "low", low)])
        assert newer.newest == high
        assert newer.replaced >= 0
        assert older == Placed(STALE, -1, high)
        found = await store.find(docs, [ahead, behind])
        expected = [f"vector {name} high".encode() for name in (ahead, behind)]
        assert await store.vectors(docs, found) == expected


async def test_an_equal_version_is_overwritten_by_the_later_arrival(store: VectorStore) -> None:
    docs = await created(store)
    (first,) = await store.put(docs, [a_record("a", "first", 7)])
    (second,) = await store.put(docs, [a_record("a", "second", 7)])
    assert second.replaced == first.internal_id
    assert await store.vectors(docs, ids_of([second])) == [b"vector a second"]


async def test_a_stale_record_is_refused_by_itself(store: VectorStore) -> None:
    docs = await created(store)
    names = [f"n{i}" for i in range(40)]
    await store.put(docs, some_records(names[::2], "new", 9))
    before = await store.positions(docs, range(docs.partitions))
    placed = await store.put(docs, some_records(names, "old", 3))
    assert [one.internal_id == STALE for one in placed] == [True, False] * 20
    assert [one.newest for one in placed] == [9, 3] * 20
    after = await store.positions(docs, range(docs.partitions))
    counts = [sum(split_sequence(one)[1] for one in marks.values()) for marks in (before, after)]
    assert counts == [20, 40]
    # A batch in which nothing is accepted writes nothing at all.
    again = await store.put(docs, some_records(names, "x", 2))
    assert {one.internal_id for one in again} == {STALE}
    assert await store.positions(docs, range(docs.partitions)) == after


async def test_a_deletion_keeps_its_version_against_older_writes(store: VectorStore) -> None:
    docs = await created(store)
    (placed,) = await store.put(docs, [a_record("a", "", 5)])
    (deleted,) = await store.delete(docs, [StoreDeletion("a", 8)])
    assert (deleted.internal_id, deleted.newest) == (placed.internal_id, 8)
    assert deleted.position > placed.internal_id
    assert await store.put(docs, [a_record("a", "late", 7)]) == [Placed(STALE, -1, 8)]
    assert await live_ids(store, docs) == set()

    (back,) = await store.put(docs, [a_record("a", "back", 9)])
    assert back.internal_id > deleted.position
    assert back.replaced == -1
    assert (await store.usage(docs)).tombstones == 0
    (kept,) = await store.delete(docs, [StoreDeletion("a", 8)])
    assert kept == Deleted(-1, -1, 9)
    assert (await store.find(docs, ["a"])).tolist() == [back.internal_id]


async def test_a_write_of_the_version_of_the_deletion_is_taken(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, [a_record("a", "", 5)])
    await store.delete(docs, [StoreDeletion("a", 5)])
    (placed,) = await store.put(docs, [a_record("a", "again", 5)])
    assert await live_ids(store, docs) == {placed.internal_id}


async def test_deleting_what_is_unknown_leaves_a_trace_only_where_asked(store: VectorStore) -> None:
    docs = await created(store)
    plain, kept = StoreDeletion("plain", 5), StoreDeletion("kept", 5, remember=True)
    nothing, remembered = await store.delete(docs, [plain, kept])
    assert nothing == Deleted(-1, -1, 0)
    assert remembered.internal_id == -1
    assert remembered.position >= 0
    assert remembered.newest == 5
    assert (await store.usage(docs)).tombstones == 1
    older = await store.put(docs, [a_record("plain", "", 4), a_record("kept", "", 4)])
    assert [one.internal_id == STALE for one in older] == [False, True]

    before = await store.positions(docs, range(docs.partitions))
    assert await store.delete(docs, [kept]) == [Deleted(-1, -1, 5)]
    assert await store.delete(docs, [StoreDeletion("kept", 3, remember=True)]) == [
        Deleted(-1, -1, 5)
    ]
    assert await store.positions(docs, range(docs.partitions)) == before
    (newer,) = await store.delete(docs, [StoreDeletion("kept", 6, remember=True)])
    assert newer.newest == 6
    assert await store.put(docs, [a_record("kept", "", 5)]) == [Placed(STALE, -1, 6)]


async def test_tombstones_are_forgotten_by_their_age(store: VectorStore) -> None:
    docs = await created(store)
    names = [f"n{i}" for i in range(3000)]
    await store.put(docs, some_records(names))
    now_ms = time.time_ns() // 1_000_000
    await store.delete(docs, some_deletions(names[:2500], 9))
    assert await store.expire_tombstones(docs, now_ms - 60_000) == 0
    assert (await store.usage(docs)).tombstones == 2500
    assert await store.expire_tombstones(docs, now_ms + 60_000) == 2500
    assert (await store.usage(docs)).tombstones == 0
    (placed,) = await store.put(docs, [a_record(names[0], "", 1)])
    assert placed.internal_id >= 0


async def test_writes_at_once_leave_the_greatest_version(store: VectorStore) -> None:
    docs = await created(store)
    versions = list(range(1, 61))
    random.Random(5).shuffle(versions)
    await asyncio.gather(*(store.put(docs, [a_record("a", str(v), v)]) for v in versions))
    found = await store.find(docs, ["a"])
    assert await store.vectors(docs, found) == [b"vector a 60"]


async def test_any_order_of_writes_and_deletions_ends_as_in_memory(store: VectorStore) -> None:
    oracle = MemoryStore()
    docs, plain = await created(store), await created(oracle)
    chosen = random.Random(23)
    names = [f"n{i}" for i in range(12)]
    for step in range(200):
        batch = chosen.sample(names, chosen.randint(1, 5))
        changes = [(name, chosen.choice(VERSIONS), chosen.random() < 0.5) for name in batch]
        if chosen.random() < 0.5:
            records: list[StoreRecord] = [a_record(n, str(step), v) for n, v, _ in changes]
            placed = await store.put(docs, records)
            expected = await oracle.put(plain, records)
            assert [_shape(p.internal_id, p.replaced, p.newest) for p in placed] == [
                _shape(p.internal_id, p.replaced, p.newest) for p in expected
            ]
        else:
            deletions = [StoreDeletion(n, v, remember) for n, v, remember in changes]
            deleted = await store.delete(docs, deletions)
            gone = await oracle.delete(plain, deletions)
            assert [_shape(d.internal_id, d.position, d.newest) for d in deleted] == [
                _shape(d.internal_id, d.position, d.newest) for d in gone
            ]
        if step % 20 == 0:
            await tidy_all(store, docs)
        ids, theirs = await store.find(docs, names), await oracle.find(plain, names)
        assert await store.vectors(docs, ids) == await oracle.vectors(plain, theirs)
        assert await live_ids(store, docs) == set(ids[ids >= 0].tolist())
    usage, plain_usage = await store.usage(docs), await oracle.usage(plain)
    assert usage.tombstones == plain_usage.tombstones
    assert np.all((await store.find(docs, names) >= 0) == (await oracle.find(plain, names) >= 0))


def _shape(first: int, second: int, newest: int) -> tuple[bool, bool, int]:
    """Epochs differ from store to store, and with them internal ids."""
    return first >= 0, second >= 0, newest
