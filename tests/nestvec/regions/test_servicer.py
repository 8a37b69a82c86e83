"""Regions over real sockets: the same answers as in this process, and for nobody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NotFound,
    SpaceMismatch,
    StoreUnavailable,
    WorkerUnavailable,
    WouldNotFit,
)
from nestvec.core.ports import RegionAnswer, RegionHits
from nestvec.core.round_trip import RoundTrip
from nestvec.rpc.region_wire import query_to_wire
from nestvec.rpc.wire import collection_ref
from nestvec.v1 import coarse_pb2, region_pb2
from tests.nestvec.regions.conftest import Desk
from tests.nestvec.regions.test_app import a_question, candidates_of
from tests.support.region_servers import connected, drained, listening
from tests.support.relay import Relay
from tests.support.rooms import PATIENT_S, raising


def same(one: RegionHits, other: RegionHits) -> None:
    """Column by column."""
    assert one.ids == other.ids
    assert one.scores.tolist() == other.scores.tolist()
    assert (one.versions is None) == (other.versions is None)
    if one.versions is not None and other.versions is not None:
        assert one.versions.tolist() == other.versions.tolist()
    rest = {"ids": (), "scores": np.empty(0), "versions": None}
    assert repr(replace(one, **rest, degradations=list(one.degradations))) == repr(  # type: ignore[arg-type]
        replace(other, **rest, degradations=list(other.degradations))  # type: ignore[arg-type]
    )


async def test_an_answer_is_the_same_over_a_socket(desk: Desk) -> None:
    query = await a_question(desk.rooms, "bread", "chess 2", versions=True)
    here = await desk.app.search(query, PATIENT_S)
    there: RegionAnswer = await desk.there.region.search(query, PATIENT_S)
    for one, other in zip(there.hits, here.hits, strict=True):
        same(one, other)
    assert replace(there, hits=[], seconds=0.0) == replace(here, hits=[], seconds=0.0)
    assert there.seconds > 0.0


async def test_a_rerank_and_documents_are_the_same_over_a_socket(desk: Desk) -> None:
    asked = await candidates_of(desk, [f"d{number:03}" for number in range(20)])
    same(
        await desk.there.region.rerank(asked, PATIENT_S),
        replace(await desk.app.rerank(asked, PATIENT_S), matching=0),
    )
    names = ["d004", "nobody", "d001"]
    there = await desk.there.region.documents("docs", names, PATIENT_S)
    assert there == await desk.app.documents("docs", names, PATIENT_S)


async def test_it_says_the_same_of_itself(desk: Desk) -> None:
    there = await desk.there.region.describe(PATIENT_S)
    here = await desk.app.describe(PATIENT_S)
    assert replace(there, now_ms=0) == replace(here, now_ms=0)
    assert abs(there.now_ms - here.now_ms) < 60_000


async def test_what_it_refuses_is_refused_as_here(desk: Desk) -> None:
    query = await a_question(desk.rooms)
    with pytest.raises(SpaceMismatch):
        await desk.there.region.search(replace(query, fingerprint="0" * 16), PATIENT_S)
    with pytest.raises(NotFound, match="region 'us' shares docs"):
        await desk.there.region.search(replace(query, collection="own"), PATIENT_S)
    with pytest.raises(InvalidRequest, match=r"options\.k"):
        await desk.there.region.search(replace(query, k=100_000), PATIENT_S)


async def test_a_store_that_is_lost_there_is_none_that_is_lost_here(desk: Desk) -> None:
    desk.store.faults.always("find", raising(StoreUnavailable("the store is down")))
    with pytest.raises(WorkerUnavailable, match="region 'us' cannot answer: the store is down"):
        await desk.there.region.documents("docs", ["d001"], PATIENT_S)


# --- who may ask ----------------------------------------------------------------------------------


def every_call(caller: str) -> dict[str, Any]:
    """A request of each method, by `caller`."""
    ref = coarse_pb2.CollectionRef(name="docs", generation=1)
    return {
        "DescribeRegion": region_pb2.DescribeRegionRequest(caller=caller),
        "SearchRegion": region_pb2.SearchRegionRequest(caller=caller, collection="docs"),
        "RerankRegion": region_pb2.RerankRegionRequest(caller=caller, collection="docs"),
        "FetchDocuments": region_pb2.FetchDocumentsRequest(caller=caller, collection="docs"),
        "ReadRecord": region_pb2.ReadRecordRequest(caller=caller, collection="docs"),
        "ReadPositions": region_pb2.ReadPositionsRequest(caller=caller, collection=ref),
        "ReadLog": region_pb2.ReadLogRequest(caller=caller, collection=ref),
        "ListVersions": region_pb2.ListVersionsRequest(caller=caller, collection=ref),
        "ListTombstones": region_pb2.ListTombstonesRequest(caller=caller, collection=ref),
        "ReadVersions": region_pb2.ReadVersionsRequest(caller=caller, collection=ref),
        "ReadDocuments": region_pb2.ReadDocumentsRequest(caller=caller, collection=ref),
    }


async def status_of(stub: Any, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
    """What a call that must fail fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await drained(getattr(stub, method)(request, timeout=PATIENT_S))
    return raised.value.code(), raised.value.details() or ""


@pytest.mark.parametrize(
    ("caller", "why"), [("mars", "is not in the map of region 'us'"), ("us", "so is this one")]
)
async def test_nobody_but_another_region_of_the_map_is_answered(
    desk: Desk, caller: str, why: str
) -> None:
    calls = every_call(caller)
    methods = region_pb2.DESCRIPTOR.services_by_name["RegionService"].methods
    assert set(calls) == {method.name for method in methods}
    for method, request in calls.items():
        code, said = await status_of(desk.there.stub, method, request)
        assert code is grpc.StatusCode.PERMISSION_DENIED, method
        assert why in said


async def test_no_log_is_told_of_what_is_not_shared_or_of_another_generation(desk: Desk) -> None:
    source = desk.there.source
    own = await desk.rooms.catalogue.get("own")
    docs = await desk.rooms.catalogue.get("docs")
    for collection in (own, replace(docs, generation=docs.generation + 1)):
        with pytest.raises(NotFound):
            await source.positions(collection, range(1))
        with pytest.raises(NotFound):
            await source.read_log(collection, {0: 0}, 10)
        with pytest.raises(NotFound):
            await source.versions(collection, ["d001"])
        with pytest.raises(NotFound):
            [one async for one in source.entries(collection, 0)]
        with pytest.raises(NotFound):
            [one async for one in source.tombstones(collection, 0)]
        with pytest.raises(NotFound):
            await source.live_documents(collection, np.array([0]), with_vectors=True)
    with pytest.raises(NotFound):
        await source.record("own")


async def test_an_option_that_only_a_newer_region_knows_is_refused_by_name(desk: Desk) -> None:
    docs = await desk.rooms.catalogue.get("docs")
    request = region_pb2.ListVersionsRequest(caller="eu", collection=collection_ref(docs))
    # Field 99, a number: 1.
    newer = request.SerializeToString() + b"\x98\x06\x01"
    async with (
        listening(desk.rooms, desk.app) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        ask: Any = channel.unary_stream("/nestvec.v1.RegionService/ListVersions")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await drained(ask(newer))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "knows no such field" in (raised.value.details() or "")


# --- time -----------------------------------------------------------------------------------------


async def test_the_work_ends_a_round_trip_before_the_deadline(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = await a_question(desk.rooms)
    given: list[float] = []

    async def search(_: Any, timeout_s: float) -> Any:
        given.append(timeout_s)
        raise BudgetSpent("region")

    monkeypatch.setattr(desk.app, "search", search)
    with pytest.raises(grpc.aio.AioRpcError):
        await desk.there.stub.SearchRegion(query_to_wire(query, "eu", 2.0), timeout=9.0)
    assert 5.0 < given[0] <= 7.0


async def test_a_way_that_takes_all_of_the_time_is_refused_at_once(desk: Desk) -> None:
    query = await a_question(desk.rooms)
    way = RoundTrip(30.0)
    async with listening(desk.rooms, desk.app) as address, connected(address, way=way) as there:
        with pytest.raises(WouldNotFit, match="the way to region 'us' would take about 30000 ms"):
            await there.region.search(query, 5.0)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await desk.there.stub.SearchRegion(query_to_wire(query, "eu", -1.0), timeout=5.0)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_connection_that_is_cut_is_a_region_that_cannot_be_reached(desk: Desk) -> None:
    query = await a_question(desk.rooms)
    async with listening(desk.rooms, desk.app) as address:
        with Relay(address) as relay:
            async with connected(relay.address) as there:
                assert (await there.region.search(query, PATIENT_S)).region == "us"
                relay.cut()
                with pytest.raises(WorkerUnavailable, match="region 'us'"):
                    await there.region.search(query, PATIENT_S)
