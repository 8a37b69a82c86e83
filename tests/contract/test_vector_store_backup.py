"""What every VectorStore keeps to when a whole collection is read out and written back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import internal_id, partition_of, split_id
from nestvec.core.ports import Placed, StoredDocument, VectorStore
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

NAMES = [f"document {i}" for i in range(3000)]


async def all_documents(store: VectorStore, docs: Collection) -> dict[int, list[StoredDocument]]:
    found: dict[int, list[StoredDocument]] = {}
    for partition in range(docs.partitions):
        found[partition] = [
            one for batch in [b async for b in store.documents(docs, partition)] for one in batch
        ]
    return found


async def test_all_live_documents_are_read_with_all_that_is_kept(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, some_records(NAMES, "old", 1))
    await store.put(docs, some_records(NAMES[:1000], "new", 2))
    await store.delete(docs, some_deletions(NAMES[2000:], 3))
    ids = await store.find(docs, NAMES[:2000])
    found = await all_documents(store, docs)
    for partition, documents in found.items():
        assert {partition_of(one.external_id, docs.partitions) for one in documents} == {partition}
    by_name = {one.external_id: one for documents in found.values() for one in documents}
    assert len(by_name) == sum(map(len, found.values())) == 2000
    for at, name in enumerate(NAMES[:2000]):
        tag, version = ("new", 2) if at < 1000 else ("old", 1)
        expected = a_record(name, tag)
        sequence = split_id(int(ids[at]))[1]
        assert by_name[name] == StoredDocument(
            name, sequence, version, expected.vector, expected.payload
        )


async def test_what_is_restored_reads_the_same_and_the_log_goes_on_after_it(
    store: VectorStore,
) -> None:
    docs = await created(store)
    await store.put(docs, some_records(NAMES, "", 5))
    await store.delete(docs, some_deletions(NAMES[2500:], 5))
    partitions = range(docs.partitions)
    positions = await store.positions(docs, partitions)
    saved = await all_documents(store, docs)
    back = await created(store, "back")
    for partition in partitions:
        for _ in range(2):  # safe to repeat
            half = len(saved[partition]) // 2
            await store.restore(back, partition, saved[partition][:half], positions[partition])
            await store.restore(back, partition, saved[partition][half:], positions[partition])

    assert await store.positions(back, partitions) == positions
    ids = await store.find(docs, NAMES)
    assert (await store.find(back, NAMES)).tolist() == ids.tolist()
    assert await store.vectors(back, ids) == await store.vectors(docs, ids)
    assert await store.payloads(back, ids) == await store.payloads(docs, ids)
    assert await live_ids(store, back) == await live_ids(store, docs)
    assert await store.read_log(back, dict.fromkeys(partitions, 0), 100) == []
    assert (await store.put(back, [a_record(NAMES[0], "", 4)])) == [Placed(-1, -1, 5)]

    old = await store.find(back, NAMES[:100])
    placed = await store.put(back, some_records(NAMES[:100], "after", 6))
    assert [one.replaced for one in placed] == old.tolist()
    for one in placed:
        partition, sequence = split_id(one.internal_id)
        before_epoch, before_count = split_sequence(positions[partition])
        epoch, count = split_sequence(sequence)
        assert epoch > before_epoch
        assert count > before_count
    assert await tidy_all(store, back) == 100
    assert await store.vectors(back, old) == [None] * 100


async def test_a_document_beyond_the_position_is_refused(store: VectorStore) -> None:
    docs = await created(store)
    one = StoredDocument("a", 7, 1, b"v", b"p")
    for sequence, position in ((7, 6), (0, 6), (-1, 6)):
        with pytest.raises(InvalidRequest, match=r"documents\.0"):
            await store.restore(docs, 0, [replace(one, sequence=sequence)], position)
    assert await live_ids(store, docs) == set()


async def test_an_empty_partition_keeps_its_position(store: VectorStore) -> None:
    docs = await created(store)
    await store.restore(docs, 3, [], 9 << 32 | 40)
    assert (await store.positions(docs, range(docs.partitions)))[3] == 9 << 32 | 40


async def test_missing_parts_stay_missing(store: VectorStore) -> None:
    docs = await created(store)
    partition = partition_of("a", docs.partitions)
    saved = [StoredDocument("a", 4, 1, None, b"p")]
    await store.restore(docs, partition, saved, 10)
    ids = np.array([internal_id(partition, 4)])
    assert await store.vectors(docs, ids) == [None]
    assert await store.payloads(docs, ids) == [b"p"]
    assert (await all_documents(store, docs))[partition] == saved


async def test_documents_written_during_the_scan_spoil_nothing(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, some_records(NAMES, "", 1))
    seen: Counter[str] = Counter()
    for partition in range(docs.partitions):
        async for batch in store.documents(docs, partition):
            seen.update(one.external_id for one in batch)
            names = [one.external_id for one in batch[:5]]
            placed = await store.put(docs, some_records(names, "again", 2))
            assert None not in await store.vectors(docs, ids_of(placed))
    assert set(seen) == set(NAMES)
