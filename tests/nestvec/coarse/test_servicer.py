"""A shard behind gRPC does and says what it does and says here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import numpy as np
import pytest

from nestvec.adapters.blob_store import FsspecBlobs
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.app import StoredCatalogue
from nestvec.admin.tiers import drawn
from nestvec.coarse import servicer
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.core.errors import BudgetSpent, InvalidRequest, LeaseLost, NotFound, SnapshotFailed
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AllOf, AnyOf, Not, Range
from nestvec.core.inspection import InspectionRequest
from nestvec.core.ports import ShardVerification
from nestvec.core.watermark import Watermark, sequence_of
from nestvec.membership.measures import Load
from nestvec.rpc.clients import RemoteCoarse, channel_to
from nestvec.rpc.server import Mounted, Server, ServerLimits
from nestvec.v1 import coarse_pb2
from tests.nestvec.core.synthetic import mrl_like
from tests.support.places import failing_place, heal, memory_place
from tests.support.rooms import PATIENT_S, FaultyStore, a_collection, created, deleted, written
from tests.support.shards import a_query, mark_of

FIELDS = [FieldSchema("colour", FieldType.KEYWORD), FieldSchema("year", FieldType.INTEGER)]


@dataclass
class Pair:
    """One shard, asked here and there."""

    store: FaultyStore
    here: CoarseApp
    there: RemoteCoarse
    place: FsspecBlobs


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        store, factory = FaultyStore(), NumpyFactory()
        place = failing_place(0, OSError("unreachable"))
        app = CoarseApp(
            store, factory, poll_s=1000.0, snapshots=ShardSnapshots(place, factory, 0, 1)
        )
        stack.push_async_callback(app.close)
        mounted: Mounted = servicer.mount(app, StoredCatalogue(store), 10.0)
        server = Server([mounted], ServerLimits(drain_s=0.1))
        port = await server.start("127.0.0.1", 0)
        stack.push_async_callback(server.stop)
        channel = channel_to(f"127.0.0.1:{port}", 1 << 24)
        stack.push_async_callback(channel.close)
        yield Pair(store, app, RemoteCoarse(channel, "shard 0"), place)


async def test_a_filter_and_a_watermark_travel_with_a_query(pair: Pair) -> None:
    docs = await created(pair.store, a_collection(fields=FIELDS))
    await pair.there.open(docs)
    fields = [{"colour": ("red", "green")[row % 2], "year": 2000 + row} for row in range(20)]
    ids = await written(pair.store, docs, mrl_like(20, 64, seed=1), fields=fields)
    wanted = AllOf((Not(AnyOf("colour", ("green",))), Range("year", at_least=2010)))
    query = a_query(docs, filter=wanted, watermark=mark_of(docs, ids))
    there = await pair.there.search(query, PATIENT_S)
    here = await pair.here.search(query, PATIENT_S)
    assert {*there.hits[0].ids.tolist()} == {*ids.tolist()[10::2]}
    assert (there.documents, there.matching) == (here.documents, here.matching) == (20, 5)
    assert there.hits[0].ids.tolist() == here.hits[0].ids.tolist()


async def test_what_is_large_or_over_the_limit_ends_no_search_beside_it() -> None:
    """It has a call of its own."""
    async with AsyncExitStack() as stack:
        store = FaultyStore()
        app = CoarseApp(store, NumpyFactory(), poll_s=1000.0)
        stack.push_async_callback(app.close)
        limits = ServerLimits(max_message_bytes=64 * 1024, drain_s=0.1)
        server = Server([servicer.mount(app, StoredCatalogue(store), 10.0)], limits)
        port = await server.start("127.0.0.1", 0)
        stack.push_async_callback(server.stop)
        channel = channel_to(f"127.0.0.1:{port}", 64 * 1024)
        stack.push_async_callback(channel.close)
        shard = RemoteCoarse(channel)
        docs = await created(store, a_collection())
        await shard.open(docs)
        vectors = mrl_like(300, 64, seed=1)
        ids = await written(store, docs, vectors)
        beside = a_query(docs, watermark=mark_of(docs, ids))
        waiting = asyncio.create_task(shard.search(beside, PATIENT_S))
        with pytest.raises(InvalidRequest, match="larger than max"):
            await shard.search(a_query(docs, queries=vectors), PATIENT_S)
        await shard.reach(docs, mark_of(docs, ids), PATIENT_S)
        assert (await waiting).documents == 300
        batch = a_query(docs, queries=vectors[:200], count=3)
        there, here = await shard.search(batch, PATIENT_S), await app.search(batch, PATIENT_S)
        assert [one.ids.tolist() for one in there.hits] == [one.ids.tolist() for one in here.hits]


async def test_what_is_wrong_with_a_filter_is_told(pair: Pair) -> None:
    docs = await created(pair.store, a_collection(fields=FIELDS))
    await pair.there.open(docs)
    with pytest.raises(InvalidRequest, match="size"):
        await pair.there.search(a_query(docs, filter=AnyOf("size", (1,))), PATIENT_S)


async def test_reaching_and_progress(pair: Pair) -> None:
    docs = await created(pair.store, a_collection())
    await pair.there.open(docs)
    ids = await written(pair.store, docs, mrl_like(20, 64, seed=1))
    await pair.there.reach(docs, mark_of(docs, ids), PATIENT_S)
    told = await pair.there.progress(docs)
    assert told == await pair.here.progress(docs)
    assert mark_of(docs, ids).reached_by(told.sequences)
    far = Watermark(docs.generation, {0: sequence_of(1, 1000)})
    with pytest.raises(BudgetSpent):
        await pair.there.reach(docs, far, 0.2)
    with pytest.raises(NotFound):
        await pair.there.reach(docs, Watermark(docs.generation + 1), PATIENT_S)


async def test_verification_travels_whole(pair: Pair) -> None:
    docs = await created(pair.store, a_collection(tiers=(8, 16)))
    ids = await written(pair.store, docs, mrl_like(20, 64, seed=1))
    await pair.there.open(docs)
    pair.store.spoil(docs, int(ids[3]), b"short")
    found: list[ShardVerification] = [
        await shard.verify(docs, repair=False, sample=1000) for shard in (pair.here, pair.there)
    ]
    assert found[0].tiers == found[1].tiers
    assert found[1].tiers[0].compared == 19
    assert found[0].store_documents == found[1].store_documents == 20
    assert found[1].damaged.tolist() == found[0].damaged.tolist() == [int(ids[3])]


async def test_a_snapshot_and_why_there_is_none(pair: Pair) -> None:
    docs = await created(pair.store, a_collection())
    await written(pair.store, docs, mrl_like(20, 64, seed=1))
    await pair.there.open(docs)
    with pytest.raises(SnapshotFailed, match="unreachable"):
        await pair.there.snapshot(docs)
    heal(pair.place)
    info = await pair.there.snapshot(docs)
    assert info.documents == 20
    assert info.location.startswith(pair.place.location)
    assert info.nbytes > 20 * 16


async def test_opening_again_takes_the_tiers_that_the_catalogue_has_now(pair: Pair) -> None:
    docs = await created(pair.store, a_collection(tiers=(16,)))
    await written(pair.store, docs, mrl_like(20, 64, seed=1))
    await deleted(pair.store, docs, ["d3"])
    await pair.there.open(docs)
    after = replace(docs, tiers=(16, 32))
    await pair.store.update_collection(after, drawn(after, [32]))
    assert await pair.there.open(after) == 19
    assert [tier.dim for tier in await pair.there.status(after)] == [16, 32]
    assert (await pair.there.search(a_query(after, coarse_dim=32), PATIENT_S)).documents == 19
    await pair.store.update_collection(docs, {})
    await pair.there.open(docs)
    with pytest.raises(NotFound, match="serves tiers 16") as caught:
        await pair.there.search(a_query(docs, coarse_dim=32), PATIENT_S)
    assert caught.value.kind == "tier"


async def test_names_are_the_same_here_and_there(pair: Pair) -> None:
    docs = await created(pair.store, a_collection())
    await pair.there.open(docs)
    names = ["plain", "with space", "Grüße", "x" * 512]
    ids = await written(pair.store, docs, mrl_like(4, 64, seed=1), names)
    await pair.there.reach(docs, mark_of(docs, ids.tolist()), PATIENT_S)
    asked = np.array([ids[2], 12345, ids[0], ids[3], ids[1]], np.int64)
    wanted = ["Grüße", None, "plain", "x" * 512, "with space"]
    assert await pair.here.names(docs, asked) == wanted
    assert await pair.there.names(docs, asked) == wanted
    assert await pair.there.names(docs, asked[:0]) == []
    (here,), (there,) = await pair.here.status(docs), await pair.there.status(docs)
    assert here.name_nbytes == there.name_nbytes > 4 * 12
    with pytest.raises(NotFound):
        await pair.there.names(replace(docs, generation=9), asked)


# --- in a cluster ---------------------------------------------------------------------------------


async def test_every_call_asks_whether_this_incarnation_may_answer() -> None:
    """Before it is answered, and once more before the answer goes: it may have been stopped."""
    async with AsyncExitStack() as stack:
        store, factory = FaultyStore(), NumpyFactory()
        snapshots = ShardSnapshots(memory_place(), factory, 0, 1)
        app = CoarseApp(store, factory, poll_s=0.01, snapshots=snapshots)
        stack.push_async_callback(app.close)
        asked: list[int] = []
        lost_after = [1000]

        def require(incarnation: int) -> None:
            asked.append(incarnation)
            if incarnation not in (0, 7) or len(asked) > lost_after[0]:
                raise LeaseLost("not this one")

        load = Load(1)
        mounted = servicer.mount(app, StoredCatalogue(store), 10.0, require, load)
        server = Server([mounted], ServerLimits(drain_s=0.1))
        port = await server.start("127.0.0.1", 0)
        stack.push_async_callback(server.stop)
        channel = channel_to(f"127.0.0.1:{port}", 1 << 24)
        stack.push_async_callback(channel.close)
        docs = await created(store, a_collection())
        ids = await written(store, docs, mrl_like(5, 64, seed=1))
        large = a_query(docs, count=100_000)
        one = np.zeros(1, np.int64)
        inspected = InspectionRequest(mrl_like(1, 64, seed=2), docs.tiers[0], 5, True, one, ids[:1])
        calls: dict[str, Callable[[RemoteCoarse], Awaitable[object]]] = {
            "OpenCollection": lambda shard: shard.open(docs),
            "StreamSearches": lambda shard: shard.search(a_query(docs), PATIENT_S),
            "SearchCoarse": lambda shard: shard.search(large, PATIENT_S),
            "ReachWatermark": lambda shard: shard.reach(docs, mark_of(docs, ids), PATIENT_S),
            "DescribeProgress": lambda shard: shard.progress(docs),
            "SnapshotShard": lambda shard: shard.snapshot(docs),
            "VerifyShard": lambda shard: shard.verify(docs, repair=False, sample=1),
            "SettleCollection": lambda shard: shard.settle(docs),
            "InspectDocuments": lambda shard: shard.inspect(docs, inspected),
            "DescribeTiers": lambda shard: shard.status(docs),
            "NameDocuments": lambda shard: shard.names(docs, ids),
            "CloseCollection": lambda shard: shard.drop(docs.name, docs.generation),
        }
        service = coarse_pb2.DESCRIPTOR.services_by_name["CoarseService"]
        assert calls.keys() == set(service.methods_by_name)
        for call in calls.values():
            with pytest.raises(LeaseLost, match="not this one"):
                await call(RemoteCoarse(channel, "shard 0", 8))
        for name, call in calls.items():
            for incarnation in (0, 7):
                asked.clear()
                await call(RemoteCoarse(channel, "shard 0", incarnation))
                assert asked == [incarnation] * 2, name
        assert load.p95_ms > 0.0
        await RemoteCoarse(channel).open(docs)
        asked.clear()
        lost_after[0] = 1
        with pytest.raises(LeaseLost):
            await RemoteCoarse(channel, "shard 0", 7).search(a_query(docs), PATIENT_S)
