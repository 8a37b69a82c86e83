"""What every VectorStore keeps to about its log: all changes, in order, once, and what is freed."""

from __future__ import annotations

import asyncio
import random

import numpy as np

from nestvec.core.collection import Collection
from nestvec.core.placement import partition_of, split_id
from nestvec.core.ports import LogBatch, VectorStore
from nestvec.core.watermark import Watermark, follows
from tests.support.stores import (
    a_record,
    created,
    ids_of,
    live_ids,
    some_deletions,
    some_records,
    tidy_all,
)

NAMES = [f"document {i}" for i in range(50)]


def beginning(docs: Collection) -> dict[int, int]:
    return dict.fromkeys(range(docs.partitions), 0)


class Reader:
    """Follows the log as a coarse worker does."""

    def __init__(self, store: VectorStore, docs: Collection) -> None:
        self.store = store
        self.docs = docs
        self.positions = beginning(docs)
        self.live: set[int] = set()

    async def read(self, limit: int = 1000) -> list[LogBatch]:
        batches = await self.store.read_log(self.docs, self.positions, limit)
        for batch in batches:
            assert follows(self.positions[batch.partition], batch.first)
            self.positions[batch.partition] = batch.last
            self.live |= set(batch.added.tolist())
            self.live -= set(batch.removed.tolist())
        return batches

    async def read_all(self, limit: int = 1000) -> None:
        while await self.read(limit):
            pass
        partitions = range(self.docs.partitions)
        assert self.positions == await self.store.positions(self.docs, partitions)


async def test_nothing_written_is_position_zero_and_an_empty_log(store: VectorStore) -> None:
    docs = await created(store)
    assert await store.positions(docs, range(docs.partitions)) == beginning(docs)
    assert await store.positions(docs, range(2, 4)) == {2: 0, 3: 0}
    assert await store.read_log(docs, beginning(docs), 100) == []


async def test_a_put_is_logged_as_it_was_placed(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    batches = await store.read_log(docs, beginning(docs), 1000)
    added = np.concatenate([batch.added for batch in batches])
    assert sorted(added.tolist()) == sorted(placed.tolist())
    assert all(batch.removed.tolist() == [] for batch in batches)
    assert {batch.partition: batch.last for batch in batches} == Watermark.of_ids(
        docs.generation, placed.tolist()
    ).sequences
    for batch in batches:
        assert batch.added.dtype == batch.removed.dtype == np.int64
        assert split_id(int(batch.added[0])) == (batch.partition, batch.first)


async def test_replaced_and_deleted_documents_are_removed_in_the_log(store: VectorStore) -> None:
    docs = await created(store)
    reader = Reader(store, docs)
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    await reader.read_all()
    replaced = ids_of(await store.put(docs, some_records(NAMES[:10])))
    deleted = await store.delete(docs, some_deletions(NAMES[10:20]))
    assert [one.internal_id for one in deleted] == placed[10:20].tolist()
    batches = await reader.read()
    added = {i for batch in batches for i in batch.added.tolist()}
    removed = {i for batch in batches for i in batch.removed.tolist()}
    assert added == set(replaced.tolist())
    assert removed == set(placed[:20].tolist())
    await reader.read_all()
    assert reader.live == await live_ids(store, docs)


async def test_what_a_batch_removes_again_it_does_not_add(store: VectorStore) -> None:
    docs = await created(store)
    (first,) = await store.put(docs, [a_record("a")])
    (second,) = await store.put(docs, [a_record("a")])
    await store.delete(docs, some_deletions(["a"]))
    (batch,) = await store.read_log(docs, beginning(docs), 100)
    assert batch.added.tolist() == []
    assert set(batch.removed.tolist()) == {first.internal_id, second.internal_id}
    assert batch.last - batch.first == 2


async def test_a_deletion_has_its_place_in_the_log(store: VectorStore) -> None:
    docs = await created(store)
    (placed,) = await store.put(docs, [a_record("a")])
    (deleted,) = await store.delete(docs, some_deletions(["a"]))
    partition, sequence = split_id(deleted.position)
    assert partition == partition_of("a", docs.partitions)
    assert follows(split_id(placed.internal_id)[1], sequence)
    assert (await store.positions(docs, range(docs.partitions)))[partition] == sequence
    # It names no document: nothing is kept under it.
    assert await store.vectors(docs, np.array([deleted.position])) == [None]


async def test_only_partitions_that_are_named_are_read(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, some_records(NAMES))
    batches = await store.read_log(docs, {2: 0, 5: 0}, 1000)
    assert sorted(batch.partition for batch in batches) == [2, 5]


async def test_small_reads_add_up_to_the_whole_log(store: VectorStore) -> None:
    docs = await created(store)
    chosen = random.Random(3)
    readers = {limit: Reader(store, docs) for limit in (1, 7, 1000)}
    names = [f"n{i}" for i in range(60)]
    for step in range(60):
        batch = chosen.sample(names, chosen.randint(1, 20))
        if chosen.random() < 0.7:
            await store.put(docs, some_records(batch, str(step)))
        else:
            await store.delete(docs, some_deletions(batch))
        for limit, reader in readers.items():
            if chosen.random() < 0.5:
                await reader.read(limit)
    for limit, reader in readers.items():
        await reader.read_all(limit)
        assert reader.live == await live_ids(store, docs)


async def test_a_read_is_about_as_long_as_it_is_asked_to_be(store: VectorStore) -> None:
    docs = await created(store)
    for start in range(0, 400, 5):
        await store.put(docs, some_records(f"n{i}" for i in range(start, start + 5)))
    batches = await store.read_log(docs, beginning(docs), 80)
    count = sum(len(batch.added) for batch in batches)
    assert 40 <= count <= 80 + 5 * docs.partitions


async def test_tidying_frees_only_what_the_log_says_up_to_a_position(store: VectorStore) -> None:
    docs = await created(store)
    placed = [ids_of(await store.put(docs, some_records(["a"], str(n)))) for n in range(3)]
    partition = partition_of("a", docs.partitions)
    second = split_id(int(placed[1][0]))[1]
    assert await store.tidy(docs, {partition: second}, 100) == 1
    everything = np.concatenate(placed)
    assert await store.vectors(docs, everything) == [None, b"vector a 1", b"vector a 2"]
    assert await store.tidy(docs, {partition: second}, 100) == 0
    assert await tidy_all(store, docs, 100) == 1
    assert await store.vectors(docs, everything) == [None, None, b"vector a 2"]
    assert await store.payloads(docs, everything) == [None, None, b"payload 2"]


async def test_the_log_is_trimmed_to_what_is_kept_and_never_past_what_is_freed(
    store: VectorStore,
) -> None:
    docs = await created(store)
    partition = partition_of("a", docs.partitions)
    placed = [ids_of(await store.put(docs, [a_record("a", str(n))])) for n in range(20)]
    sequences = [split_id(int(one[0]))[1] for one in placed]

    await store.tidy(docs, {partition: sequences[4]}, 0)
    assert (await store.usage(docs)).log_entries == 15
    (batch,) = await store.read_log(docs, {partition: 0}, 1000)
    assert batch.first == sequences[5]
    assert not follows(0, batch.first)  # a reader at the beginning sees that some are gone
    assert follows(sequences[4], batch.first)

    await tidy_all(store, docs, 6)
    assert (await store.usage(docs)).log_entries == 6
    (batch,) = await store.read_log(docs, {partition: sequences[13]}, 1000)
    assert follows(sequences[13], batch.first)
    assert batch.last == sequences[-1]

    await tidy_all(store, docs, 0)
    assert (await store.usage(docs)).log_entries == 0
    assert await store.read_log(docs, {partition: 0}, 1000) == []
    assert (await store.positions(docs, range(docs.partitions)))[partition] == sequences[-1]
    (after,) = await store.put(docs, [a_record("a", "after")])
    (batch,) = await store.read_log(docs, {partition: sequences[-1]}, 1000)
    assert follows(sequences[-1], batch.first)
    assert batch.added.tolist() == [after.internal_id]


async def test_tidying_past_the_end_of_the_log_frees_nothing_that_comes(store: VectorStore) -> None:
    docs = await created(store)
    partition = partition_of("a", docs.partitions)
    await store.put(docs, some_records(["a"]))
    (old,) = await store.put(docs, some_records(["a"]))
    ahead = split_id(old.internal_id)[1] + 100  # a reader that has seen what is lost since
    assert await store.tidy(docs, {partition: ahead}, 0) == 1
    await store.put(docs, some_records(["a"]))
    assert await store.vectors(docs, ids_of([old])) == [b"vector a "]
    assert (await store.usage(docs)).log_entries == 1
    assert await tidy_all(store, docs) == 1


async def test_tidying_many_at_once(store: VectorStore) -> None:
    docs = await created(store)
    names = [f"n{i}" for i in range(4000)]
    for tag in ("one", "two", "three"):
        for start in range(0, len(names), 100):
            await store.put(docs, some_records(names[start : start + 100], tag))
    assert await tidy_all(store, docs) == 8000
    ids = await store.find(docs, names)
    assert await store.vectors(docs, ids) == [f"vector {name} three".encode() for name in names]


async def test_writers_tidiers_and_readers_at_once_agree_in_the_end(store: VectorStore) -> None:
    docs = await created(store)
    reader = Reader(store, docs)
    names = [f"n{i}" for i in range(40)]
    chosen = random.Random(9)

    async def write() -> None:
        for step in range(30):
            await store.put(docs, some_records(chosen.sample(names, 10), str(step)))
            await store.delete(docs, some_deletions(chosen.sample(names, 2)))

    writers = [asyncio.create_task(write()) for _ in range(3)]
    while not all(writer.done() for writer in writers):
        await reader.read(50)
        await store.tidy(docs, reader.positions, 0)
        await asyncio.sleep(0)
    await asyncio.gather(*writers)
    await reader.read_all()
    await store.tidy(docs, reader.positions, 0)
    live = await live_ids(store, docs)
    assert reader.live == live
    ids = np.array(sorted(live), np.int64)
    assert None not in await store.vectors(docs, ids)
