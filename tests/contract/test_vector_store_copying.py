"""What every VectorStore tells a copier, and that what is copied here and back changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import numpy as np

from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.placement import partition_of, split_id
from nestvec.core.ports import StoreDeletion, StoredVersion, StoreRecord, VectorStore
from tests.support.stores import created, ids_of, some_deletions, tidy_all

T = TypeVar("T")
NAMES = [f"document {i}" for i in range(40)]


def a_document(name: str, version: int, text: str = "text") -> StoreRecord:
    payload = payload_to_bytes(Document(name, text))
    return StoreRecord(name, f"vector {name} {version}".encode(), payload, version)


async def gathered(batches: AsyncIterator[list[T]]) -> list[T]:
    return [one async for batch in batches for one in batch]


async def test_entries_name_what_lives_and_its_version(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, [a_document(name, 7) for name in NAMES])
    placed = await store.put(docs, [a_document(NAMES[0], 9)])
    await store.delete(docs, some_deletions([NAMES[1]], 8))
    partition = partition_of(NAMES[0], docs.partitions)
    found = await gathered(store.entries(docs, partition))
    mine = [n for n in NAMES if n != NAMES[1] and partition_of(n, docs.partitions) == partition]
    assert sorted(one.external_id for one in found) == sorted(mine)
    sequence = split_id(placed[0].internal_id)[1]
    assert StoredVersion(NAMES[0], sequence, 9) in found


async def test_versions_are_told_in_the_order_asked(store: VectorStore) -> None:
    docs = await created(store)
    placed = await store.put(docs, [a_document(name, 5) for name in NAMES[:3]])
    await store.delete(docs, some_deletions([NAMES[1]], 6))
    found = await store.versions(docs, [NAMES[2], "unknown", NAMES[1], NAMES[0]])
    sequences = [split_id(one.internal_id)[1] for one in placed]
    assert found == [
        StoredVersion(NAMES[2], sequences[2], 5),
        None,
        None,
        StoredVersion(NAMES[0], sequences[0], 5),
    ]


async def test_tombstones_are_told_with_their_versions(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, [a_document(name, 5) for name in NAMES[:2]])
    await store.delete(docs, [StoreDeletion(NAMES[0], 6), StoreDeletion("early", 4, remember=True)])
    found: dict[str, int] = {}
    for partition in range(docs.partitions):
        found |= dict(await gathered(store.tombstones(docs, partition)))
    assert found == {NAMES[0]: 6, "early": 4}
    asked = ["early", NAMES[1], "unknown", NAMES[0]]
    assert await store.deletions(docs, asked) == [4, None, None, 6]
    await store.put(docs, [a_document(NAMES[0], 7)])
    assert await store.deletions(docs, [NAMES[0]]) == [None], "it lives again"
    assert await store.deletions(docs, []) == []


async def test_live_documents_are_whole_and_others_are_none(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, [a_document(name, 5) for name in NAMES[:4]]))
    await store.put(docs, [a_document(NAMES[1], 6)])
    await store.delete(docs, some_deletions([NAMES[2]], 6))
    found = await store.live_documents(docs, placed, True)
    assert [one and one.external_id for one in found] == [NAMES[0], None, None, NAMES[3]]
    first = found[0]
    assert first is not None
    assert (first.version, first.vector) == (5, f"vector {NAMES[0]} 5".encode())
    assert first.payload == payload_to_bytes(Document(NAMES[0], "text"))
    (bare,) = await store.live_documents(docs, placed[:1], False)
    assert bare is not None
    assert bare.vector is None
    await tidy_all(store, docs)
    assert await store.live_documents(docs, placed[1:3], True) == [None, None]
    assert await store.live_documents(docs, np.empty(0, np.int64), True) == []


async def test_the_log_names_deletions_and_their_versions(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, [a_document("a", 5)])
    await store.delete(docs, [StoreDeletion("a", 6)])
    await store.delete(docs, [StoreDeletion("a", 9, remember=True)])
    after = {partition_of("a", docs.partitions): 0}
    (batch,) = await store.read_log(docs, after, 100)
    assert list(batch.deletions) == [("a", 6), ("a", 9)]
    assert len(batch.removed) == 1


async def test_only_what_is_newer_is_put_when_it_must_be(store: VectorStore) -> None:
    docs = await created(store)
    await store.put(docs, [a_document("a", 5)])
    await store.delete(docs, [StoreDeletion("b", 5, remember=True)])
    positions = await store.positions(docs, range(docs.partitions))
    same = await store.put_newer(docs, [a_document("a", 5), a_document("b", 5)])
    assert [(one.internal_id, one.newest) for one in same] == [(-1, 5), (-1, 5)]
    assert await store.positions(docs, range(docs.partitions)) == positions
    newer = await store.put_newer(docs, [a_document("a", 6), a_document("b", 6)])
    assert all(one.internal_id >= 0 for one in newer)
    (kept,) = await store.vectors(docs, ids_of(newer[:1]))
    assert kept == b"vector a 6"
