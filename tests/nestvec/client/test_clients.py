"""Both clients against a real engine: one suite, so that they cannot drift apart."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import nestvec
from nestvec.client import (
    AsyncNestvecClient,
    IngestDocument,
    IngestProgress,
    IngestReason,
    NestvecClient,
    RegionPolicy,
    normalise,
)
from nestvec.core.certificate import Certificate
from nestvec.core.codec import VectorDtype
from nestvec.core.errors import (
    AlreadyExists,
    BudgetSpent,
    ConfigError,
    InvalidRequest,
    NotFound,
    SpaceMismatch,
    TierNotTrained,
    WorkerUnavailable,
)
from tests.support.engine import SharedEngine

Connect = Callable[..., NestvecClient]


# --- searching ----------------------------------------------------------------------------------


def test_a_search_returns_hits_and_admits_what_it_did(client: NestvecClient, passages: str) -> None:
    result = client.search(passages, "passage 7 about cats", k=3, explain=True)
    assert result.hits[0].id == "p7"
    assert result.hits[0].text == "passage 7 about cats"
    assert dict(result.hits[0].fields) == {"number": 7, "even": False}
    assert [hit.score for hit in result.hits] == sorted(
        (hit.score for hit in result.hits), reverse=True
    )
    assert (result.coarse.dim, result.scoring.dim) == (256, 768)
    assert result.coarse.fingerprint == result.scoring.fingerprint
    assert result.coverage.fraction == 1.0
    assert result.coverage.documents_total == 60
    assert result.certificate in (Certificate.WITHIN_CANDIDATES, Certificate.COLLECTION)
    assert result.search_class == "search"
    assert result.degradations == ()
    assert result.explanation is not None
    assert list(result.explanation.stages) == ["encode", "coarse", "rerank", "payload"]
    assert 3 <= result.explanation.fetched <= result.explanation.candidates


def test_options_reach_the_server(client: NestvecClient, passages: str) -> None:
    fast = client.search(passages, "dogs", search_class="autocomplete")
    assert (len(fast.hits), fast.coarse.dim, fast.scoring.dim) == (5, 128, 128)
    assert fast.explanation is None
    deep = client.search(passages, "dogs", coarse_dim=128, candidates=20, k=20, rerank=True)
    assert (len(deep.hits), deep.coarse.dim, deep.scoring.dim) == (20, 128, 768)
    bare = client.search(passages, "dogs", ids_only=True, k=1).hits[0]
    assert (bare.text, dict(bare.fields)) == ("", {})
    everything = client.search(passages, "dogs", candidates=50, exhaustive=True, explain=True)
    assert everything.explanation is not None
    assert everything.explanation.fetched == 50


def test_an_unknown_option_is_a_type_error(client: NestvecClient, passages: str) -> None:
    options: dict[str, Any] = {"top_k": 5}
    with pytest.raises(TypeError, match="top_k"):
        client.search(passages, "dogs", **options)


def test_a_batch_answers_in_the_order_of_its_queries(client: NestvecClient, passages: str) -> None:
    queries = ["passage 9 about cats", "passage 4 about dogs", "passage 9 about cats"]
    results = client.search_batch(passages, queries, k=1)
    assert [result.hits[0].id for result in results] == ["p9", "p4", "p9"]
    alone = [client.search(passages, query, k=1) for query in queries]
    assert [one.hits for one in alone] == [result.hits for result in results]
    assert client.search_batch(passages, []) == []


def test_a_query_vector_is_sent_in_the_collections_own_space(
    client: NestvecClient, passages: str
) -> None:
    vector = client.get(passages, ["p11"], with_vectors=True).documents[0].vector
    assert vector is not None
    assert client.search(passages, vector, k=1).hits[0].id == "p11"
    # Any numeric array that holds the same numbers will do.
    assert client.search(passages, vector.astype(np.float64), k=1).hits[0].id == "p11"
    batch = client.search_batch(passages, np.stack([vector, vector]), k=1)
    assert [result.hits[0].id for result in batch] == ["p11", "p11"]


def test_raw_model_output_is_accepted_once_it_is_normalised(
    client: NestvecClient, passages: str
) -> None:
    space = client.describe(passages).space
    raw = np.random.default_rng(1).standard_normal(space.dim) * 7
    with pytest.raises(InvalidRequest, match="expected unit length"):
        client.search(passages, raw)
    assert len(client.search(passages, normalise(raw, space), k=2).hits) == 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda dim: np.full(dim, np.nan), "NaN"),
        (np.zeros, "zero"),
        (lambda dim: np.ones(dim + 1) / np.sqrt(dim + 1), "769 dimensions, expected 768"),
        (lambda dim: np.ones((1, dim)) / np.sqrt(dim), r"shape \(1, 768\), expected \(dim,\)"),
        (lambda dim: np.array(["a"] * dim), "expected floating point numbers"),
        (lambda _: np.empty(0), "expected"),
    ],
)
def test_a_bad_query_vector_is_refused_and_the_next_good_one_answered(
    client: NestvecClient, passages: str, make: Callable[[int], Any], expected: str
) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        # A batch of none is no question at all; a single empty vector is a bad one.
        client.search(passages, make(768))
    assert client.search(passages, "dogs", k=1).hits


def test_a_vector_of_another_space_is_refused(client: NestvecClient, passages: str) -> None:
    vector = np.zeros(768)
    vector[0] = 1.0
    with pytest.raises(SpaceMismatch, match="0123456789abcdef"):
        client.search(passages, vector, fingerprint="0123456789abcdef")
    own = client.describe(passages).space.fingerprint
    assert client.search(passages, vector, fingerprint=own, k=1).hits


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k": 0}, InvalidRequest, "options.k: 0, expected 1 to 1000"),
        ({"k": -1}, InvalidRequest, "options.k: -1"),
        ({"k": 10**9}, InvalidRequest, "options.k: 1000000000, expected 1 to 1000"),
        ({"k": 10**12}, InvalidRequest, "options: .*32-bit"),
        ({"coarse_dim": 100}, TierNotTrained, "trained: 64, 128, 256, 512, 768"),
        ({"coarse_dim": 64}, InvalidRequest, "it serves 128, 256"),
        ({"search_class": "nope"}, InvalidRequest, "analyst, autocomplete, search"),
        ({"min_coverage": 1.5}, InvalidRequest, "expected 0 to 1"),
        ({"timeout_s": 0.0}, InvalidRequest, "timeout_s: 0"),
        ({"timeout_s": float("inf")}, InvalidRequest, "timeout_s: inf"),
    ],
)
def test_a_bad_option_is_named(
    client: NestvecClient,
    passages: str,
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        client.search(passages, "dogs", **options)
    assert client.search(passages, "dogs", k=1).hits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "query.text: empty"),
        (" \n\t", "query.text: empty"),
        ("x" * 1_000_000, "1,000,000 bytes long, at most 32,768"),
        ("half \ud800", "lone surrogate"),
        ("x" * (17 << 20), "larger than max"),
    ],
)
def test_a_bad_text_is_refused_and_the_next_good_one_answered(
    client: NestvecClient, passages: str, text: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        client.search(passages, text)
    assert client.search(passages, "dogs", k=1).hits


def test_a_message_over_the_servers_limit_is_the_callers_mistake(
    connect: Connect, engine: SharedEngine, passages: str
) -> None:
    client = connect(engine.address, max_message_bytes=64 << 20)
    with pytest.raises(InvalidRequest, match="larger than max"):
        client.search(passages, "x" * (17 << 20))
    assert client.search(passages, "dogs", k=1).hits


def test_an_unknown_collection_is_not_found(client: NestvecClient) -> None:
    for ask in (
        lambda: client.search("nope", "dogs"),
        lambda: client.search("nope", np.ones(768)),
        lambda: client.get("nope", ["a"]),
        lambda: client.delete("nope", ["a"]),
        lambda: client.describe("nope"),
        lambda: client.drop_collection("nope"),
        lambda: client.index("nope", [IngestDocument("a", "text")]),
    ):
        with pytest.raises(NotFound, match="'nope' does not exist") as caught:
            ask()
        assert caught.value.kind == "collection"


def test_ids_must_be_several(client: NestvecClient, passages: str) -> None:
    with pytest.raises(TypeError, match="list"):
        client.get(passages, "p1")
    with pytest.raises(TypeError, match="list"):
        client.delete(passages, "p1")
    with pytest.raises(TypeError, match="several"):
        client.search_batch(passages, "one text")


def test_a_deadline_that_passes_is_budget_spent(client: NestvecClient, passages: str) -> None:
    with pytest.raises(BudgetSpent, match="deadline"):
        client.search(passages, "dogs", timeout_s=1e-6)


def test_nothing_listening_is_worker_unavailable_within_a_second(connect: Connect) -> None:
    with pytest.raises(WorkerUnavailable, match=r"127\.0\.0\.1:1"):
        connect("127.0.0.1:1", timeout_s=5.0).search("docs", "dogs")


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":"])
def test_an_address_without_a_port_is_refused_at_once(connect: Connect, address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        connect(address)


def test_errors_carry_the_request_id(connect: Connect, engine: SharedEngine) -> None:
    client = connect(engine.address, request_id=lambda: "order-66")
    with pytest.raises(NotFound) as caught:
        client.describe("nope")
    assert "request id order-66" in caught.value.__notes__


# --- documents ----------------------------------------------------------------------------------


def test_documents_come_back_as_they_were_given(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    fields: dict[str, str | int | float | bool] = {
        "text": "x",
        "whole": -(2**63),
        "real": 0.1,
        "yes": True,
    }
    client.index(collection_name, [IngestDocument("a/ü", "Straße\nzwei", fields)])
    found = client.get(collection_name, ["missing", "a/ü"], with_vectors=True)
    document = found.documents[0]
    assert (document.id, document.text) == ("a/ü", "Straße\nzwei")
    assert dict(document.fields) == fields
    assert [type(value) for value in document.fields.values()] == [
        type(fields[name]) for name in document.fields
    ]
    assert found.missing_ids == ("missing",)
    assert document.vector is not None
    assert document.vector.shape == (found.space.dim,)
    assert np.linalg.norm(document.vector) == pytest.approx(1.0, abs=1e-3)
    assert client.get(collection_name, ["a/ü"]).documents[0].vector is None


def test_bad_documents_are_reported_and_the_others_taken(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    bad: list[tuple[IngestDocument, str]] = [
        (IngestDocument("blank", " "), "empty"),
        (IngestDocument("", "no id"), "0 bytes long"),
        (IngestDocument("i" * 513, "long id"), "513 bytes long"),
        (IngestDocument("half", "\ud800"), "lone surrogate"),
        (IngestDocument("long", "x" * 1_000_000), "at most 32,768"),
        (IngestDocument("huge", "x" * (17 << 20)), "fit into a message"),
        (IngestDocument("none", None), "a NoneType, expected a string"),  # type: ignore[arg-type]
        (IngestDocument("field", "x", {"f": [1]}), "a list, expected"),  # type: ignore[dict-item]
        (IngestDocument("wide", "x", {"f": 2**63}), "out of range"),
        (IngestDocument("nan", "x", vector=np.full(768, np.nan)), "NaN"),
        (IngestDocument("zero", "x", vector=np.zeros(768)), "zero"),
        (IngestDocument("short", "x", vector=np.ones(3)), "3 dimensions, expected 768"),
        (IngestDocument("raw", "x", vector=np.ones(768)), "unit length"),
        (IngestDocument("square", "x", vector=np.ones((2, 2))), "shape"),
    ]
    documents = []
    for number, (document, _) in enumerate(bad):
        documents += [IngestDocument(f"good{number}", f"good text {number}"), document]
    report = client.index(collection_name, documents, batch_size=5)
    assert report.indexed == len(bad)
    assert report.failed == len(bad)
    assert report.acknowledged_offset == len(documents) - 1
    for number, (failure, (document, message)) in enumerate(zip(report.failures, bad, strict=True)):
        assert failure.offset == 2 * number + 1
        assert failure.id == document.id
        assert failure.reason is IngestReason.INVALID
        assert message in failure.message
    assert client.describe(collection_name).documents == len(bad)


def test_the_same_id_again_replaces_the_document(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    twice = [IngestDocument("a", "first"), IngestDocument("a", "second")]
    report = client.index(collection_name, twice)
    assert [failure.reason for failure in report.failures] == [IngestReason.SUPERSEDED]
    assert report.indexed == 1
    client.index(collection_name, [IngestDocument("a", "third")])
    assert client.get(collection_name, ["a"]).documents[0].text == "third"
    assert client.describe(collection_name).documents == 1


def test_own_vectors_are_stored_and_foreign_ones_refused(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    space = client.describe(collection_name).space
    vectors = normalise(np.random.default_rng(3).standard_normal((2, space.dim)), space)
    documents = [
        IngestDocument("own", "encoded elsewhere", vector=vectors[0]),
        IngestDocument("text", "encoded by the server"),
    ]
    with pytest.raises(SpaceMismatch):
        client.index(collection_name, documents, fingerprint="f" * 16)
    assert client.index(collection_name, documents).indexed == 2
    stored = client.get(collection_name, ["own"], with_vectors=True).documents[0].vector
    assert stored is not None
    assert float(stored @ vectors[0]) == pytest.approx(1.0, abs=1e-4)
    assert client.search(collection_name, vectors[0], k=1).hits[0].id == "own"


def test_a_collection_that_keeps_a_short_tier_takes_vectors_of_that_length(
    client: NestvecClient, collection_name: str
) -> None:
    info = client.create_collection(collection_name, tiers=(64,), store_dim=128)
    full = normalise(np.random.default_rng(5).standard_normal((2, 768)), info.space)
    short = full[0, :128] / np.linalg.norm(full[0, :128])
    documents = [
        IngestDocument("short", "x", vector=short),
        IngestDocument("full", "x", vector=full[1]),
    ]
    assert client.index(collection_name, documents).indexed == 2
    assert client.search(collection_name, short, k=1).hits[0].id == "short"
    assert client.search(collection_name, full[1], k=1).hits[0].id == "full"
    with pytest.raises(InvalidRequest, match="store_dim 256"):
        client.search(collection_name, full[1], coarse_dim=256)


def test_progress_tells_every_acknowledgement_in_order(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    told: list[IngestProgress] = []
    documents = [IngestDocument(f"d{n}", "text" if n != 5 else "") for n in range(25)]
    report = client.index(
        collection_name, documents, batch_size=4, on_progress=told.append, first_offset=100
    )
    offsets = [one.acknowledged_offset for one in told]
    assert offsets == sorted(set(offsets))
    assert (report.acknowledged_offset, report.indexed, report.failed) == (124, 24, 1)
    assert [failure.offset for one in told for failure in one.failures] == [105]
    assert told[-1].indexed == 24


def test_what_the_callers_own_iterable_raises_is_raised(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)

    def broken() -> Iterator[IngestDocument]:
        yield IngestDocument("a", "text")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.index(collection_name, broken(), batch_size=1)
    assert client.index(collection_name, [IngestDocument("b", "text")]).indexed == 1


@pytest.mark.parametrize(
    ("named", "message"), [({"batch_size": 0}, "1"), ({"first_offset": -1}, "0")]
)
def test_index_refuses_impossible_settings(
    client: NestvecClient, passages: str, named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"expected at least {message}|{message} or more"):
        client.index(passages, [], **named)


def test_indexing_nothing_is_fine(client: NestvecClient, passages: str) -> None:
    report = client.index(passages, [])
    assert (report.indexed, report.failed, report.acknowledged_offset) == (0, 0, -1)


async def test_the_async_client_takes_an_async_iterable(
    engine: SharedEngine, collection_name: str
) -> None:
    async def documents() -> Any:
        for number in range(10):
            yield IngestDocument(f"d{number}", f"text {number}")

    async with AsyncNestvecClient(engine.address) as client:
        await client.create_collection(collection_name)
        report = await client.index(collection_name, documents(), batch_size=3)
        assert report.indexed == 10


def test_delete_counts_and_names_what_was_not_there(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    client.index(collection_name, [IngestDocument(f"d{n}", f"text {n}") for n in range(4)])
    result = client.delete(collection_name, ["d1", "nope", "d2", "d1"])
    assert (result.deleted, result.missing_ids) == (2, ("nope",))
    assert client.get(collection_name, ["d0", "d1"]).missing_ids == ("d1",)
    hits = client.search(collection_name, "text 1", k=10).hits
    assert {hit.id for hit in hits} == {"d0", "d3"}


# --- collections and the server -----------------------------------------------------------------


def test_a_collection_is_made_described_listed_and_dropped(
    client: NestvecClient, collection_name: str
) -> None:
    made = client.create_collection(
        collection_name, tiers=(64, 128), store_dim=128, store_dtype="int8"
    )
    assert (made.tiers, made.store_dim, made.store_dtype) == ((64, 128), 128, VectorDtype.INT8)
    with pytest.raises(AlreadyExists):
        client.create_collection(collection_name)
    with pytest.raises(AlreadyExists, match="store_dim"):
        client.create_collection(collection_name, exist_ok=True)
    again = client.create_collection(
        collection_name, tiers=(64, 128), store_dim=128, store_dtype="int8", exist_ok=True
    )
    assert again == made
    client.index(collection_name, [IngestDocument("a", "text")])
    described = client.describe(collection_name)
    assert described.documents == 1
    assert [tier.dim for tier in described.tier_status] == [64, 128]
    assert described.store.vector_bytes_per_document > 0
    assert described.shards == 1
    assert collection_name in [info.name for info in client.collections()]
    client.drop_collection(collection_name)
    assert collection_name not in [info.name for info in client.collections()]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"store_dtype": "fp8"}, "expected one of fp32, fp16, int8"),
        ({"tiers": (100,)}, "tier 100 was not trained"),
        ({"store_dim": 100}, "tier 100 was not trained"),
        ({"store_dim": 128, "tiers": (256,)}, "longer than the 128"),
    ],
)
def test_a_collection_that_cannot_be_served_is_refused(
    client: NestvecClient, collection_name: str, named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        client.create_collection(collection_name, **named)
    with pytest.raises(InvalidRequest, match="cannot name a collection"):
        client.create_collection("No Good")


def test_the_server_tells_its_classes_and_limits(client: NestvecClient) -> None:
    server = client.server()
    assert server.version == nestvec.__version__
    asked = {one.name: (one.regions, one.local_score) for one in server.search_classes}
    assert asked == {
        "autocomplete": (RegionPolicy.LOCAL, 0.5),
        "search": (RegionPolicy.LOCAL_FIRST, 0.5),
        "analyst": (RegionPolicy.ALL, 0.5),
    }
    assert server.limits.max_k == 1000
    assert server.space.trained_dims == (64, 128, 256, 512, 768)


def test_a_recreated_collection_is_described_anew(
    client: NestvecClient, collection_name: str
) -> None:
    vector = np.zeros(768)
    vector[0] = 1.0
    client.create_collection(collection_name)
    client.search(collection_name, vector)
    client.drop_collection(collection_name)
    with pytest.raises(NotFound):
        client.search(collection_name, vector)


# --- the twins ----------------------------------------------------------------------------------


def _methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    blocking, asynchronous = _methods(NestvecClient), _methods(AsyncNestvecClient)
    assert blocking.keys() == asynchronous.keys()
    for name, signature in blocking.items():
        twin = asynchronous[name].parameters
        assert list(signature.parameters) == list(twin), name
        for parameter in signature.parameters.values():
            assert parameter.default == twin[parameter.name].default, name
            assert parameter.kind == twin[parameter.name].kind, name


def test_importing_nestvec_loads_nothing_until_the_client_is_wanted() -> None:
    code = (
        "import sys, nestvec; heavy = {'grpc', 'numpy', 'google.protobuf', 'nestvec.client'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert nestvec.NestvecClient.__module__ == 'nestvec.client.sync_client';"
        "assert 'redis' not in sys.modules and 'faiss' not in sys.modules;"
        "assert 'pydantic' not in sys.modules and 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nope"):
        nestvec.Nope  # type: ignore[attr-defined]  # noqa: B018


def test_the_blocking_client_is_shared_by_threads(engine: SharedEngine, passages: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with NestvecClient(engine.address) as client, ThreadPoolExecutor(8) as threads:
        ids = threads.map(
            lambda number: client.search(passages, f"passage {number} about cats", k=1).hits[0].id,
            range(1, 60, 2),
        )
        assert list(ids) == [f"p{number}" for number in range(1, 60, 2)]


def test_no_error_of_grpc_itself_escapes() -> None:
    with NestvecClient("127.0.0.1:1") as client:
        for ask in (client.collections, client.server, lambda: client.index("a", [])):
            try:
                ask()
            except grpc.RpcError:
                pytest.fail("a gRPC error came through")
            except WorkerUnavailable:
                pass
