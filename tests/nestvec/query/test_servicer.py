"""Answers on the wire: all that must be admitted is in them, and the tier is on every log line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY

from nestvec.core.codec import floats_from_bytes
from nestvec.core.document import Document
from nestvec.core.errors import InvalidRequest, StoreUnavailable
from nestvec.core.space import Role
from nestvec.query import servicer as query_servicer
from nestvec.rpc.server import Server, ServerLimits
from nestvec.telemetry.metrics import UNKNOWN_CLASS
from nestvec.v1 import common_pb2, query_pb2, query_pb2_grpc
from tests.support.region_rooms import open_regions
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    Rooms,
    SpyLog,
    eventually,
    open_rooms,
    raising,
)
from tests.support.scrape import value

DOCUMENTS = [
    Document(f"d{number:02}", f"text number {number}", {"n": number, "even": number % 2 == 0})
    for number in range(40)
]
Options = query_pb2.SearchOptions


@pytest.fixture
async def rooms() -> AsyncIterator[Rooms]:
    async with open_rooms() as opened:
        await opened.create()
        await opened.add(*DOCUMENTS)
        yield opened


@pytest.fixture
async def stub(rooms: Rooms) -> AsyncIterator[Any]:
    mounted = query_servicer.mount(rooms.query, rooms.documents, 10.0)
    server = Server([mounted], ServerLimits(drain_s=0.1))
    port = await server.start("127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    yield query_pb2_grpc.QueryServiceStub(channel)
    await channel.close()
    await server.stop()


async def search(stub: Any, text: str = "text number 7", **options: Any) -> Any:
    request = query_pb2.SearchRequest(collection="docs", text=text, options=Options(**options))
    return await stub.Search(request, timeout=PATIENT_S)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value


async def a_vector(rooms: Rooms, text: str) -> query_pb2.QueryVector:
    values = await rooms.encoder.encode([text], Role.QUERY, PATIENT_S)
    space = common_pb2.SpaceRef(fingerprint=rooms.encoder.space.fingerprint, dim=64)
    return query_pb2.QueryVector(values=values.tobytes(), space=space)


# --- what an answer admits ------------------------------------------------------------------------


async def test_a_response_names_its_spaces_coverage_certificate_class_and_generation(
    rooms: Rooms, stub: Any
) -> None:
    response = await search(stub, k=5)
    fingerprint = rooms.encoder.space.fingerprint
    assert response.coarse_space == common_pb2.SpaceRef(fingerprint=fingerprint, dim=16)
    assert response.scoring_space == common_pb2.SpaceRef(fingerprint=fingerprint, dim=64)
    assert response.coverage.fraction == 1.0
    assert response.coverage.documents_answered == 40
    assert response.certificate == common_pb2.CERTIFICATE_COLLECTION
    assert 0.0 <= response.failure_probability < 1e-3
    assert (response.search_class, response.generation) == ("search", 1)
    assert not response.degradations
    assert not response.HasField("explanation")
    assert len(response.hits) == 5
    assert response.hits[0].id == "d07"
    assert response.hits[0].text == "text number 7"
    assert response.hits[0].fields["n"].int_value == 7
    assert response.hits[0].fields["even"].WhichOneof("kind") == "bool_value"


async def test_explain_tells_stages_candidates_and_fetched(stub: Any) -> None:
    response = await search(stub, explain=True, k=3, candidates=30)
    stages = [one.stage for one in response.explanation.stages]
    assert stages == ["encode", "coarse", "rerank", "payload"]
    assert response.explanation.candidates == 30
    assert 0 < response.explanation.fetched <= 30
    exhaustive = await search(stub, explain=True, k=3, candidates=30, exhaustive_rerank=True)
    assert exhaustive.explanation.fetched == 30
    assert list(exhaustive.hits) == list(response.hits)


async def test_ids_only_leaves_texts_and_fields_out(stub: Any) -> None:
    whole, bare = await search(stub), await search(stub, ids_only=True)
    assert [(hit.id, hit.score) for hit in bare.hits] == [(hit.id, hit.score) for hit in whole.hits]
    assert all(not hit.text and not hit.fields for hit in bare.hits)


@pytest.mark.parametrize("rerank", [True, False])
async def test_a_wish_of_false_or_nothing_is_not_the_same(stub: Any, rerank: bool) -> None:
    """`optional` fields: what is not set takes the class's setting, and 0 is a value."""
    response = await search(stub, rerank=rerank)
    expected = common_pb2.CERTIFICATE_COLLECTION if rerank else common_pb2.CERTIFICATE_NONE
    assert response.certificate == expected
    assert response.scoring_space.dim == (64 if rerank else 16)
    error = await refused(search(stub, k=0))
    assert "options.k: 0, expected 1" in str(error.details())


async def test_what_is_degraded_is_in_the_response() -> None:
    store = FaultyStore()
    async with open_rooms(store) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        store.faults.before["vectors"] = [raising(StoreUnavailable("the store is down"))]
        answer = await rooms.ask("text number 7")
        response = query_servicer._respond(answer, Options())
    (degradation,) = response.degradations
    assert degradation.kind == common_pb2.DEGRADATION_KIND_RERANK_SKIPPED
    assert "the store is down" in degradation.detail
    assert response.certificate == common_pb2.CERTIFICATE_NONE


# --- vectors and batches --------------------------------------------------------------------------


async def test_a_vector_and_its_text_give_one_answer(rooms: Rooms, stub: Any) -> None:
    vector = await a_vector(rooms, "text number 7")
    request = query_pb2.SearchRequest(collection="docs", vector=vector)
    by_vector = await stub.Search(request, timeout=PATIENT_S)
    assert list(by_vector.hits) == list((await search(stub)).hits)


async def test_a_batch_answers_each_query_in_order(rooms: Rooms, stub: Any) -> None:
    texts = ["text number 9", "text number 3", "text number 9"]
    request = query_pb2.BatchSearchRequest(collection="docs", texts=texts, options=Options(k=2))
    batch = await stub.BatchSearch(request, timeout=PATIENT_S)
    assert [one.hits[0].id for one in batch.responses] == ["d09", "d03", "d09"]
    vectors = await a_vector(rooms, texts[0])
    vectors.values += (await a_vector(rooms, texts[1])).values
    request = query_pb2.BatchSearchRequest(collection="docs", vectors=vectors, options=Options(k=2))
    by_vectors = await stub.BatchSearch(request, timeout=PATIENT_S)
    assert [one.hits[0].id for one in by_vectors.responses] == ["d09", "d03"]


@pytest.mark.parametrize("count", [0, 2])
async def test_search_takes_one_vector(rooms: Rooms, stub: Any, count: int) -> None:
    vector = await a_vector(rooms, "text")
    vector.values *= count
    request = query_pb2.SearchRequest(collection="docs", vector=vector)
    await refused(stub.Search(request, timeout=PATIENT_S))


async def test_a_vector_must_name_its_space(rooms: Rooms, stub: Any) -> None:
    vector = await a_vector(rooms, "text")
    vector.ClearField("space")
    request = query_pb2.SearchRequest(collection="docs", vector=vector)
    error = await refused(stub.Search(request, timeout=PATIENT_S))
    assert "query.vector.space" in str(error.details())


# --- documents ------------------------------------------------------------------------------------


async def test_documents_come_with_the_vectors_that_they_are_searched_by(
    rooms: Rooms, stub: Any
) -> None:
    request = query_pb2.GetDocumentsRequest(
        collection="docs", ids=["d03", "nope", "d01"], include_vectors=True
    )
    response = await stub.GetDocuments(request, timeout=PATIENT_S)
    assert [one.document.id for one in response.documents] == ["d03", "d01"]
    assert list(response.missing_ids) == ["nope"]
    assert response.space.dim == 64
    assert response.space.fingerprint == rooms.encoder.space.fingerprint
    vector = floats_from_bytes(response.documents[0].vector, 64, "vector")[0]
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-3)
    request.include_vectors = False
    bare = await stub.GetDocuments(request, timeout=PATIENT_S)
    assert all(one.vector == b"" for one in bare.documents)


# --- the tier on every line and counter -----------------------------------------------------------


def counted(**labels: str) -> float:
    return REGISTRY.get_sample_value("nestvec_searches_total", labels) or 0.0


async def test_the_tier_is_on_the_log_line_and_the_counter_and_the_text_is_on_neither(
    stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {
        "search_class": "autocomplete",
        "coarse_dim": "32",
        "scoring_dim": "32",
        "certificate": "none",
    }
    before = counted(**labels)
    log = SpyLog()
    monkeypatch.setattr(query_servicer, "_log", log)
    await search(stub, "a secret question", search_class="autocomplete", coarse_dim=32)

    async def told() -> bool:
        return bool(log.lines)

    # Once the response is on its way, so perhaps after it arrived.
    await eventually(told)
    assert counted(**labels) == before + 1
    (line,) = log.named("search.completed")
    assert line["coarse_dim"] == line["scoring_dim"] == 32
    assert line["search_class"] == "autocomplete"
    assert line["collection"] == "docs"
    assert line["coverage"] == 1.0
    assert "secret" not in str(log.lines)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"search_class": "autocomplete", "k": 100_000},
            {"search_class": "autocomplete", "coarse_dim": 16},
        ),
        ({"coarse_dim": 7}, {"search_class": "search", "coarse_dim": 7}),
        ({"search_class": "secret"}, {"search_class": UNKNOWN_CLASS, "coarse_dim": 0}),
    ],
)
async def test_the_tier_is_on_the_log_line_of_a_search_that_failed(
    stub: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: dict[str, Any]
) -> None:
    log = SpyLog()
    monkeypatch.setattr(query_servicer, "_log", log)
    with pytest.raises(grpc.aio.AioRpcError):
        await search(stub, "a secret question", **options)
    (line,) = log.named("search.failed")
    assert line == {"event": "search.failed", **told, "status": "INVALID_ARGUMENT"}
    assert "secret" not in str(log.lines)


@pytest.mark.parametrize(
    ("options", "label", "status"),
    [
        ({"search_class": "autocomplete"}, "autocomplete", "OK"),
        # Without a class: the default one.
        ({}, "search", "OK"),
        ({"search_class": "search", "coarse_dim": 7}, "search", "INVALID_ARGUMENT"),
        ({"search_class": "no-such-class"}, UNKNOWN_CLASS, "INVALID_ARGUMENT"),
    ],
)
async def test_a_search_is_timed_by_its_class_and_by_what_became_of_it(
    stub: Any, options: dict[str, Any], label: str, status: str
) -> None:
    def timed() -> float:
        labels = {"search_class": label, "status": status}
        return value("nestvec_search_seconds_count", **labels) or 0.0

    before = timed()
    if status == "OK":
        await search(stub, **options)
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await search(stub, **options)
        assert caught.value.code().name == status

    async def told() -> bool:
        return timed() == before + 1

    await eventually(told)
    assert value("nestvec_queries_under_way", search_class=label) == 0.0


async def test_each_stage_is_timed_by_class_and_tier(stub: Any) -> None:
    labels = {"stage": "coarse", "search_class": "autocomplete", "coarse_dim": "32"}
    before = value("nestvec_stage_seconds_count", **labels) or 0.0
    await search(stub, search_class="autocomplete", coarse_dim=32)

    async def told() -> bool:
        return value("nestvec_stage_seconds_count", **labels) == before + 1

    await eventually(told)


async def test_every_region_and_where_each_hit_was_found_are_on_the_wire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = SpyLog()
    monkeypatch.setattr(query_servicer, "_log", log)
    async with open_regions(names=("eu", "us")) as regions:
        for name, one in regions.items():
            await one.add(Document(f"of-{name}", f"a text of {name}"))
        eu = regions["eu"]
        servicer = query_servicer.QueryServicer(eu.rooms.query, eu.rooms.documents, 10.0)
        options = Options(search_class="search", regions=query_pb2.REGION_POLICY_ALL, k=2)
        request = query_pb2.SearchRequest(collection="docs", text="a text", options=options)
        response = await servicer.Search(request, Context())  # type: ignore[arg-type]
        assert {hit.id: hit.region for hit in response.hits} == {"of-eu": "eu", "of-us": "us"}
        assert [(one.region, one.state, one.documents) for one in response.regions] == [
            ("eu", query_pb2.REGION_STATE_ANSWERED, 1),
            ("us", query_pb2.REGION_STATE_ANSWERED, 1),
        ]
        assert not response.regions[1].HasField("staleness_s")
        options.regions = query_pb2.REGION_POLICY_LOCAL
        options.ids_only = True
        request.options.CopyFrom(options)
        alone = await servicer.Search(request, Context())  # type: ignore[arg-type]
        assert [(hit.id, hit.text, hit.region) for hit in alone.hits] == [("of-eu", "", "eu")]
        assert alone.regions[1].state == query_pb2.REGION_STATE_NOT_ASKED
        request.options.regions = 77  # type: ignore[assignment]
        with pytest.raises(InvalidRequest, match="77 is none that this server knows: LOCAL"):
            await servicer.Search(request, Context())  # type: ignore[arg-type]

        async def logged() -> bool:
            return len(log.named("search.completed")) == 2

        await eventually(logged)
    lines = log.named("search.completed")
    assert [line["regions"] for line in lines] == [
        {"eu": "answered", "us": "answered"},
        {"eu": "answered", "us": "not_asked"},
    ]


class Context:
    """Of a call that brings no deadline."""

    def time_remaining(self) -> None:
        return None
