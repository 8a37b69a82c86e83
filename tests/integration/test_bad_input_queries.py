"""Bad searches and reads at a real engine: what the caller sees, and that the next good one works.

Each call within `refuses` is followed by a good search that must find the right document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from nestvec.core.arrays import Floats
from nestvec.v1 import admin_pb2, common_pb2, ingest_pb2, query_pb2
from tests.support.caller import (
    ANOTHER_SPACE,
    PATIENCE_S,
    QUESTION,
    RIGHT,
    TEXTS,
    UNKNOWN_FIELD,
    UNKNOWN_NUMBER,
    Caller,
    delimited,
    facts_of,
    floats_of,
)
from tests.support.engine import SharedEngine

Code = grpc.StatusCode
MEGABYTE = "word " * 200_000
DIM = 768
# The default class asks for 256, so that 64 is trained and not served.
NOT_SERVED = 64


@pytest.fixture(scope="module")
def caller(engine: SharedEngine) -> Iterator[Caller]:
    caller = Caller(engine.address, "bad-queries")
    caller.create()
    caller.fill()
    yield caller
    caller.drop()
    caller.close()


@pytest.fixture(scope="module")
def edge(engine: SharedEngine) -> Iterator[Caller]:
    """A collection that keeps the first 128 dimensions and no more."""
    caller = Caller(engine.address, "bad-queries-edge")
    caller.create(store_dim=128, tiers=[128])
    caller.fill()
    yield caller
    caller.drop()
    caller.close()


@pytest.fixture(scope="module")
def right(caller: Caller) -> query_pb2.QueryVector:
    """The good question as a vector."""
    vector = caller.encode(QUESTION)
    assert caller.search_by(vector).hits[0].id == RIGHT
    return vector


def in_space(vector: Floats, right: query_pb2.QueryVector, dim: int = DIM) -> query_pb2.QueryVector:
    space = common_pb2.SpaceRef(fingerprint=right.space.fingerprint, dim=dim)
    return query_pb2.QueryVector(values=vector.astype("<f4").tobytes(), space=space)


# --- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \t\n", "\u3000\u2003"], ids=["empty", "blanks", "unicode"])
def test_an_empty_or_whitespace_text_is_refused(caller: Caller, text: str) -> None:
    with caller.refuses(Code.INVALID_ARGUMENT, "empty or only white space", "query.text"):
        caller.search(text)
    with caller.refuses(Code.INVALID_ARGUMENT, "empty or only white space", "texts.1"):
        caller.batch(texts=[QUESTION, text])


def test_a_text_that_the_model_makes_nothing_of_is_refused(caller: Caller) -> None:
    with caller.refuses(Code.INVALID_ARGUMENT, "makes no vector of it", "texts.0"):
        caller.search("\u200b")


def test_a_text_of_a_megabyte_is_refused(caller: Caller) -> None:
    told = "1,000,000 bytes long, at most 32,768 are accepted; split it"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "query.text"):
        caller.search(MEGABYTE)
    with caller.refuses(Code.INVALID_ARGUMENT, told, "texts.2"):
        caller.batch(texts=[QUESTION, QUESTION, MEGABYTE])


def test_bytes_that_are_not_utf_8_are_refused_by_field_and_position(caller: Caller) -> None:
    latin_1 = "caf\u00e9 near me".encode("latin-1")
    name = delimited(1, caller.collection.encode())
    told = "byte 0xe9 at position 3 is not UTF-8; .* send it as UTF-8"
    for data, field in (
        (name + delimited(2, latin_1), "text"),
        (delimited(1, latin_1) + delimited(2, b"good"), "collection"),
        (
            name + delimited(2, b"good") + delimited(4, delimited(1, latin_1)),
            "options.search_class",
        ),
    ):
        with caller.refuses(Code.INVALID_ARGUMENT, told, field):
            caller.raw("QueryService/Search", data)
    with caller.refuses(Code.INVALID_ARGUMENT, told, "texts.1"):
        caller.raw("QueryService/BatchSearch", name + delimited(2, b"good") + delimited(2, latin_1))


@pytest.mark.parametrize("data", [b"\x0a\xff", b"\xff" * 9, b"{}", b"\x0b\x0a"])
def test_bytes_that_are_no_message_are_refused(caller: Caller, data: bytes) -> None:
    told = f"these {len(data)} bytes are not a nestvec.v1.SearchRequest message"
    with caller.refuses(Code.INVALID_ARGUMENT, told, ""):
        caller.raw("QueryService/Search", data)


def test_a_search_with_neither_text_nor_vector_is_refused(caller: Caller) -> None:
    request = query_pb2.SearchRequest(collection=caller.collection)
    with caller.refuses(Code.INVALID_ARGUMENT, "neither text nor vector; give one", "query"):
        caller.query.Search(request, timeout=PATIENCE_S)


def test_a_batch_of_both_texts_and_vectors_or_of_neither_is_refused(
    caller: Caller, right: query_pb2.QueryVector
) -> None:
    told = "either texts or vectors, not both or neither"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "texts"):
        caller.batch(texts=[QUESTION], vectors=right)
    with caller.refuses(Code.INVALID_ARGUMENT, told, "texts"):
        caller.batch()


# --- vectors -------------------------------------------------------------------------------------


def with_value(value: float) -> Floats:
    vector = np.zeros(DIM, np.float32)
    vector[:2] = 1.0, value
    return vector


BAD_VECTORS = {
    "NaN": (with_value(np.nan), "NaN or infinite values; expected finite"),
    "infinite": (with_value(np.inf), "NaN or infinite values; expected finite"),
    "zero": (np.zeros(DIM, np.float32), "zero vector; expected unit length"),
    "unnormalised": (2 * np.eye(1, DIM)[0], "vector of length 2, expected unit length; apply"),
    "raw output": (np.full(DIM, 3.0), r"vector of length 83\.14, expected unit length"),
}


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_a_query_vector_that_is(name: str, caller: Caller, right: query_pb2.QueryVector) -> None:
    vector, told = BAD_VECTORS[name]
    with caller.refuses(Code.INVALID_ARGUMENT, told, "query.vector"):
        caller.search_by(in_space(vector, right))
    both = np.stack([floats_of(right), vector])
    with caller.refuses(Code.INVALID_ARGUMENT, told, "vectors.1"):
        caller.batch(vectors=in_space(both, right))


def test_a_query_vector_of_the_wrong_length_is_refused(
    caller: Caller, right: query_pb2.QueryVector
) -> None:
    vector = floats_of(right)
    with caller.refuses(
        Code.INVALID_ARGUMENT, "2800 bytes are not a whole number of 768-d", "query.vector.values"
    ):
        caller.search_by(in_space(vector[:700], right))
    with caller.refuses(Code.INVALID_ARGUMENT, "700 dimensions, expected 768", "query.vector"):
        caller.search_by(in_space(vector[:700], right, dim=700))
    with caller.refuses(
        Code.INVALID_ARGUMENT,
        "3072 bytes are 2 vectors of 384.* BatchSearch",
        "query.vector.values",
    ):
        caller.search_by(in_space(vector, right, dim=384))
    with caller.refuses(Code.INVALID_ARGUMENT, "0 bytes are 0 vectors", "query.vector.values"):
        caller.search_by(in_space(vector[:0], right))
    with caller.refuses(Code.INVALID_ARGUMENT, "how many values", "query.vector.space.dim"):
        caller.search_by(in_space(vector, right, dim=0))


def test_a_query_vector_of_another_model_with_the_same_dimension_is_refused(
    caller: Caller, right: query_pb2.QueryVector
) -> None:
    ours = right.space.fingerprint
    foreign = query_pb2.QueryVector(
        values=right.values, space=common_pb2.SpaceRef(fingerprint=ANOTHER_SPACE, dim=DIM)
    )
    told = f"query vector is in space {ANOTHER_SPACE}, expected {ours}: .* encode again"
    with caller.refuses(Code.FAILED_PRECONDITION, told):
        caller.search_by(foreign)
    with caller.refuses(Code.FAILED_PRECONDITION, told):
        caller.batch(vectors=foreign)
    with pytest.raises(grpc.RpcError) as caught:
        caller.search_by(foreign)
    assert facts_of(caught.value) == {"expected": ours, "got": ANOTHER_SPACE}


def test_a_query_vector_without_a_space_is_refused(
    caller: Caller, right: query_pb2.QueryVector
) -> None:
    nameless = query_pb2.QueryVector(values=right.values)
    told = "a vector must name its space; DescribeCollection tells"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "query.vector.space"):
        caller.search_by(nameless)
    with caller.refuses(Code.INVALID_ARGUMENT, told, "query.vector.space"):
        caller.batch(vectors=nameless)


# --- tiers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [100, 0, -1, 769, 2**31 - 1])
def test_an_untrained_tier_is_refused(caller: Caller, dim: int) -> None:
    told = (
        f"tier {dim} was not trained for nestvec-static-768; "
        f"trained: 64, 128, 256, 512, 768; ask for one of"
    )
    with caller.refuses(Code.INVALID_ARGUMENT, told, "options.coarse_dim"):
        caller.search(coarse_dim=dim)
    with caller.refuses(Code.INVALID_ARGUMENT, told, "options.coarse_dim"):
        caller.batch(texts=[QUESTION], options=query_pb2.SearchOptions(coarse_dim=dim))


def test_a_trained_tier_that_the_collection_does_not_serve_is_refused(caller: Caller) -> None:
    told = "does not serve tier 64; it serves 128, 256"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "options.coarse_dim"):
        caller.search(coarse_dim=NOT_SERVED)


def test_an_edge_collection_refuses_tiers_longer_than_it_stores(edge: Caller) -> None:
    for dim in (256, DIM):
        told = f"tier {dim} is longer than the 128 dimensions .* store_dim {dim} or more and encode"
        with edge.refuses(Code.INVALID_ARGUMENT, told, "options.coarse_dim"):
            edge.search(coarse_dim=dim)
    # A class that wants more than there is gets the longest there is, and the answer says so.
    assert edge.search().coarse_space.dim == 128


# --- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told", "field"),
    [
        ({"k": 0}, "0, expected 1 to 1000", "options.k"),
        ({"k": -1}, "-1, expected 1 to 1000", "options.k"),
        ({"k": -(2**31)}, "expected 1 to 1000", "options.k"),
        ({"k": 2**31 - 1}, "2147483647, expected 1 to 1000", "options.k"),
        ({"candidates": 0}, "0, expected 10 to 10000", "options.candidates"),
        ({"candidates": -5}, "-5, expected 10 to 10000", "options.candidates"),
        ({"candidates": 2**31 - 1}, "expected 10 to 10000", "options.candidates"),
        ({"candidates": 19, "k": 20}, "19, expected 20 to 10000", "options.candidates"),
        ({"min_coverage": -0.01}, "-0.01, expected 0 to 1", "options.min_coverage"),
        ({"min_coverage": 1.01}, "1.01, expected 0 to 1", "options.min_coverage"),
        ({"min_coverage": float("nan")}, "nan, expected 0 to 1", "options.min_coverage"),
        ({"min_coverage": float("inf")}, "inf, expected 0 to 1", "options.min_coverage"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_out_of_bounds_are_refused(
    caller: Caller, options: dict[str, Any], told: str, field: str
) -> None:
    with caller.refuses(Code.INVALID_ARGUMENT, told, field):
        caller.search(**options)
    with caller.refuses(Code.INVALID_ARGUMENT, told, field):
        caller.batch(texts=[QUESTION], options=query_pb2.SearchOptions(**options))


def test_the_largest_k_of_a_small_collection_is_all_of_it(caller: Caller) -> None:
    assert sorted(hit.id for hit in caller.search(k=1000).hits) == sorted(TEXTS)


def test_too_many_queries_in_a_batch_are_refused(
    caller: Caller, right: query_pb2.QueryVector
) -> None:
    told = "257 queries, expected 1 to 256; send more in further calls"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "texts"):
        caller.batch(texts=[QUESTION] * 257)
    many = np.tile(floats_of(right), (257, 1))
    with caller.refuses(Code.INVALID_ARGUMENT, told, "vectors"):
        caller.batch(vectors=in_space(many, right))
    with caller.refuses(Code.INVALID_ARGUMENT, "0 queries, expected 1 to 256", "vectors"):
        caller.batch(vectors=in_space(many[:0], right))


def test_a_read_of_no_or_too_many_ids_is_refused(caller: Caller) -> None:
    with caller.refuses(Code.INVALID_ARGUMENT, "0, expected 1 to 1024", "ids"):
        caller.get()
    with caller.refuses(Code.INVALID_ARGUMENT, "1025, expected 1 to 1024", "ids"):
        caller.get(*(f"id-{number}" for number in range(1025)))


def test_a_message_over_the_limit_is_refused(caller: Caller) -> None:
    told = r"message larger than max \(2\d{7} vs\. 16777216\)"
    with caller.refuses(Code.RESOURCE_EXHAUSTED, told):
        caller.search("x" * 20_000_000)


def test_a_deadline_of_a_millisecond_ends_in_deadline_exceeded(caller: Caller) -> None:
    request = query_pb2.BatchSearchRequest(
        collection=caller.collection, texts=[f"{QUESTION} {number}" for number in range(256)]
    )
    # Whichever end notices first.
    with caller.refuses(Code.DEADLINE_EXCEEDED, "[Dd]eadline"):
        caller.query.BatchSearch(request, timeout=0.001)


# --- names that are not there --------------------------------------------------------------------


def test_an_unknown_collection_is_not_found_and_the_known_ones_are_named(caller: Caller) -> None:
    nowhere = caller.at("nowhere")
    told = "collection 'nowhere' does not exist; collections here: .+; create it first"
    for call in (
        nowhere.search,
        lambda: nowhere.batch(texts=[QUESTION]),
        lambda: nowhere.get("cat"),
        lambda: nowhere.delete("cat"),
        lambda: nowhere.stream().send(),
        nowhere.describe,
        nowhere.drop,
    ):
        with caller.refuses(Code.NOT_FOUND, told):
            call()


def test_an_unknown_class_is_refused_and_the_known_ones_are_named(caller: Caller) -> None:
    told = "no class 'fast'; this server has analyst, autocomplete, search"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "options.search_class"):
        caller.search(search_class="fast")


# --- fields that are not there -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addition", "kind", "path"),
    [
        (UNKNOWN_FIELD, "SearchRequest", ""),
        (delimited(4, UNKNOWN_FIELD), "SearchOptions", "options."),
    ],
    ids=["request", "options"],
)
def test_an_unknown_field_of_a_search_is_refused_not_ignored(
    caller: Caller, addition: bytes, kind: str, path: str
) -> None:
    request = query_pb2.SearchRequest(
        collection=caller.collection, text=QUESTION, options=query_pb2.SearchOptions(k=3)
    )
    told = rf"nestvec \S+, which serves here, knows no such field of nestvec\.v1\.{kind}; leave"
    with caller.refuses(Code.INVALID_ARGUMENT, told, f"{path}{UNKNOWN_NUMBER}"):
        caller.raw("QueryService/Search", request.SerializeToString() + addition)


def test_an_unknown_field_of_a_vector_or_its_space_is_refused(
    caller: Caller, right: query_pb2.QueryVector
) -> None:
    request = query_pb2.SearchRequest(collection=caller.collection, vector=right)
    data = request.SerializeToString()
    with caller.refuses(
        Code.INVALID_ARGUMENT, "no such field of nestvec.v1.QueryVector", "vector.99"
    ):
        caller.raw("QueryService/Search", data + delimited(3, UNKNOWN_FIELD))
    with caller.refuses(
        Code.INVALID_ARGUMENT, "no such field of nestvec.v1.SpaceRef", "vector.space.99"
    ):
        caller.raw("QueryService/Search", data + delimited(3, delimited(2, UNKNOWN_FIELD)))


def test_an_unknown_field_of_any_other_request_is_refused(caller: Caller) -> None:
    name = caller.collection
    for method, request in (
        ("QueryService/BatchSearch", query_pb2.BatchSearchRequest(collection=name, texts=["a"])),
        ("QueryService/GetDocuments", query_pb2.GetDocumentsRequest(collection=name, ids=["cat"])),
        (
            "IngestService/DeleteDocuments",
            ingest_pb2.DeleteDocumentsRequest(collection=name, ids=["cat"]),
        ),
        ("AdminService/CreateCollection", admin_pb2.CreateCollectionRequest(name="bad-new")),
        ("AdminService/DropCollection", admin_pb2.DropCollectionRequest(name=name)),
    ):
        with caller.refuses(Code.INVALID_ARGUMENT, "knows no such field of nestvec.v1", "99"):
            caller.raw(method, request.SerializeToString() + UNKNOWN_FIELD)
    assert len(caller.get("cat").documents) == 1
    listed = caller.admin.ListCollections(admin_pb2.ListCollectionsRequest(), timeout=PATIENCE_S)
    assert "bad-new" not in [one.name for one in listed.collections]


def test_an_unknown_method_is_unimplemented(caller: Caller) -> None:
    with caller.refuses(Code.UNIMPLEMENTED, "Method not found"):
        caller.raw("QueryService/Guess", b"")
