"""A region's log over a real socket and a real Valkey: what its own store says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import InvalidRequest, WorkerUnavailable
from nestvec.core.placement import partition_of, split_id
from nestvec.core.ports import LogBatch, StoredDocument, StoredVersion, VectorStore
from nestvec.core.sketch import asset_names
from nestvec.rpc.region_clients import RemoteSource
from nestvec.rpc.status import error_from
from nestvec.rpc.wire import collection_ref
from nestvec.v1 import region_pb2
from tests.nestvec.core.synthetic import mrl_like
from tests.support.region_servers import Connected, connected, drained, listening, pretending
from tests.support.relay import Relay
from tests.support.rooms import Rooms, deleted, open_rooms, written
from tests.support.stores import own_store

# More than fit into one message, and than one reading of the store takes.
DOCUMENTS = 150
TEXT = "x" * 30_000


@dataclass(frozen=True, slots=True)
class Told:
    """A store, and its log as another region reads it."""

    rooms: Rooms
    address: str
    docs: Collection
    ids: Ids
    there: Connected

    @property
    def store(self) -> VectorStore:
        return self.rooms.store

    @property
    def source(self) -> RemoteSource:
        return self.there.source


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as running:
        yield running


@pytest.fixture
async def told(server: EmbeddedValkey) -> AsyncIterator[Told]:
    """Some documents, some of them written again, and some deleted."""
    async with AsyncExitStack() as stack:
        store = own_store(server)
        stack.push_async_callback(store.close)
        rooms = await stack.enter_async_context(open_rooms(store))
        docs = await rooms.create()
        vectors = mrl_like(DOCUMENTS, 64, seed=1)
        ids = await written(store, docs, vectors)
        again = await written(store, docs, vectors[:20])
        await deleted(store, docs, [f"d{number}" for number in range(20, 30)])
        address = await stack.enter_async_context(listening(rooms))
        there = await stack.enter_async_context(connected(address))
        yield Told(rooms, address, docs, np.concatenate([ids, again]), there)


def plain(batches: list[LogBatch]) -> list[tuple[object, ...]]:
    """To be compared: arrays are not."""
    return sorted(
        (
            one.partition,
            one.first,
            one.last,
            one.added.tolist(),
            one.removed.tolist(),
            [*map(tuple, one.deletions)],
        )
        for one in batches
    )


async def test_positions_and_log_are_those_of_the_store(told: Told) -> None:
    docs, every = told.docs, range(told.docs.partitions)
    there = await told.source.positions(docs, every)
    assert there == await told.store.positions(docs, every)
    assert await told.source.positions(docs, range(3, 5)) == {one: there[one] for one in (3, 4)}
    # From the beginning, and from some way on.
    for begin in (0, 1):
        after = {one: there[one] - there[one] % 2 if begin else 0 for one in every}
        batches = await told.source.read_log(docs, after, 1000)
        assert plain(batches) == plain(await told.store.read_log(docs, after, 1000))
        assert batches or begin
    assert await told.source.read_log(docs, {}, 10) == []


async def test_entries_tombstones_and_versions_are_those_of_the_store(told: Told) -> None:
    docs = told.docs
    for partition in range(0, docs.partitions, 4):
        there = [one async for part in told.source.entries(docs, partition) for one in part]
        here = [one async for part in told.store.entries(docs, partition) for one in part]
        assert by_name(there) == by_name(here)
        gone = [one async for part in told.source.tombstones(docs, partition) for one in part]
        buried = [one async for part in told.store.tombstones(docs, partition) for one in part]
        assert sorted(gone) == sorted(buried)
    names = [f"d{number}" for number in range(15, 35)] + ["never-there"]
    assert await told.source.versions(docs, names) == await told.store.versions(docs, names)
    assert await told.source.versions(docs, []) == []


def by_name(entries: list[StoredVersion]) -> list[StoredVersion]:
    return sorted(entries, key=lambda one: one.external_id)


async def test_documents_are_those_of_the_store_also_where_they_are_gone(told: Told) -> None:
    here = await told.store.live_documents(told.docs, told.ids, with_vectors=False)
    assert await told.source.live_documents(told.docs, told.ids, with_vectors=False) == here
    assert here.count(None) == 30
    whole = await told.store.live_documents(told.docs, told.ids, with_vectors=True)
    assert await told.source.live_documents(told.docs, told.ids, with_vectors=True) == whole
    names = await told.source.names(told.docs, told.ids)
    assert names == [
        None if one is None else StoredVersion(one.external_id, one.sequence, one.version)
        for one in here
    ]


async def test_what_is_larger_than_a_message_comes_in_parts(told: Told) -> None:
    parts = 0
    before = told.source.received_bytes
    for number in range(6):
        await told.rooms.add(*(Document(f"l{number}-{part}", TEXT) for part in range(8)))
    found = await told.store.find(
        told.docs, [f"l{n}-{part}" for n in range(6) for part in range(8)]
    )
    call = told.there.stub.ReadDocuments(
        region_pb2.ReadDocumentsRequest(
            caller="eu",
            collection=collection_ref(told.docs),
            ids=found.astype("<i8").tobytes(),
            with_vectors=True,
        )
    )
    async for part in call:
        parts += 1
        assert part.ByteSize() < 2 << 20
    assert parts > 1
    there = await told.source.live_documents(told.docs, found, with_vectors=True)
    assert there == await told.store.live_documents(told.docs, found, with_vectors=True)
    assert told.source.received_bytes - before > len(found) * len(TEXT)


async def test_a_record_is_the_one_that_stands_with_all_that_its_tiers_drew(told: Told) -> None:
    record, nothing = await told.source.record("docs")
    assert (record, nothing) == (told.docs, {})
    _, assets = await told.source.record("docs", with_assets=True)
    names = asset_names(told.docs.tiers, told.docs.store_dim)
    assert assets == {name: await told.store.asset(told.docs, name) for name in names}


async def test_rows_come_without_what_each_of_them_begins_with(told: Told) -> None:
    asked: list[tuple[str, list[int], int]] = []

    async def rows(
        collection: Collection, ids: Ids, dim: int
    ) -> tuple[bytes, list[StoredDocument | None]]:
        asked.append((collection.name, ids.tolist(), dim))
        named = await told.store.live_documents(collection, ids, with_vectors=False)
        return b"header", [
            one and StoredDocument(one.external_id, one.sequence, one.version, b" row", None)
            for one in named
        ]

    async with (
        listening(told.rooms, rows=rows) as address,
        connected(address, prefix_dim=16) as there,
    ):
        found = await there.source.live_documents(told.docs, told.ids[:30], with_vectors=True)
        stands = await told.store.live_documents(told.docs, told.ids[:30], with_vectors=False)
        for one, other in zip(found, stands, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert (one.vector, one.payload) == (b"header row", None)
                assert (one.external_id, one.version) == (other.external_id, other.version)
                assert one.sequence == other.sequence
    assert asked == [("docs", told.ids[:30].tolist(), 16)]


@pytest.mark.parametrize(
    ("method", "asked", "field"),
    [
        ("ReadPositions", {"first_partition": 3, "end_partition": 99}, "first_partition"),
        ("ReadLog", {"after": {99: 0}, "limit": 10}, "after"),
        ("ReadLog", {"after": {0: 0}, "limit": 0}, "limit"),
        ("ReadLog", {"after": {0: -1}, "limit": 1}, "after"),
        ("ListVersions", {"partition": -1}, "partition"),
        ("ListTombstones", {"partition": 64}, "partition"),
        ("ReadVersions", {"ids": ["a"] * 1001}, "ids"),
        ("ReadDocuments", {"ids": b"1234567"}, "ids"),
        ("ReadDocuments", {"ids": b"\xff" * 8}, "ids"),
        ("ReadDocuments", {"ids": b"\x00" * 8, "prefix_dim": 16}, "prefix_dim"),
        ("ReadDocuments", {"ids": b"\x00" * 8, "prefix_dim": 24}, "prefix_dim"),
    ],
)
async def test_a_question_that_cannot_be_is_refused_by_name(
    told: Told, method: str, asked: dict[str, object], field: str
) -> None:
    kind = getattr(region_pb2, f"{method}Request")
    call = getattr(told.there.stub, method)(
        kind(caller="eu", collection=collection_ref(told.docs), **asked)
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await drained(call)
    error = error_from(raised.value, "us")
    assert isinstance(error, InvalidRequest)
    assert error.field == field


# --- endpoints ------------------------------------------------------------------------------------


async def test_the_next_endpoint_is_read_from_where_one_is_gone_or_another_region(
    told: Told,
) -> None:
    other = region_pb2.DescribeRegionResponse(region="ap", number=3)
    every = range(told.docs.partitions)
    async with pretending(describe=lambda _: other) as elsewhere:
        with Relay(told.address) as relay:
            async with connected(elsewhere, relay.address, told.address) as there:
                positions = await there.source.positions(told.docs, every)
                relay.cut()
                assert await there.source.positions(told.docs, every) == positions
        async with connected(elsewhere) as there:
            with pytest.raises(WorkerUnavailable, match="says that it is 'ap'"):
                await there.source.record("docs")


async def test_a_list_that_breaks_off_is_an_error_and_no_short_list(told: Told) -> None:
    partition = partition_of("d40", told.docs.partitions)
    assert any(split_id(one)[0] == partition for one in told.ids.tolist())
    with Relay(told.address) as relay:
        async with connected(relay.address) as there:
            assert await there.source.positions(told.docs, range(1))
            relay.mute()
            call = there.source.entries(told.docs, partition)
            relay.cut()
            with pytest.raises(WorkerUnavailable):
                [one async for one in call]
            with pytest.raises(WorkerUnavailable):
                await there.source.live_documents(told.docs, told.ids, with_vectors=False)
