"""Bad documents, streams and collections at a real engine, and clients that go away.

Each call within `refuses` is followed by a good search that must find the right document. What is
wrong with one document never ends its stream: the others of its message are taken.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from nestvec.core.arrays import Floats
from nestvec.v1 import common_pb2, ingest_pb2
from tests.support.caller import (
    ANOTHER_SPACE,
    PATIENCE_S,
    TEXTS,
    UNKNOWN_FIELD,
    Caller,
    delimited,
    document,
    floats_of,
)
from tests.support.engine import SharedEngine
from tests.support.relay import Relay
from tests.support.sentences import sentences

Code = grpc.StatusCode
INVALID = ingest_pb2.INGEST_ERROR_REASON_INVALID
SUPERSEDED = ingest_pb2.INGEST_ERROR_REASON_SUPERSEDED
DIM = 768
_numbers = itertools.count()


@pytest.fixture
def caller(engine: SharedEngine) -> Iterator[Caller]:
    """A collection for each test: they write."""
    caller = Caller(engine.address, f"bad-documents-{next(_numbers)}")
    caller.create()
    caller.fill()
    yield caller
    caller.check_serves()
    caller.drop()
    caller.close()


def zebra(name: str = "zebra") -> ingest_pb2.IngestDocument:
    return document(name, "A zebra crosses the savanna.")


def check_refused_alone(
    caller: Caller,
    bad: ingest_pb2.IngestDocument,
    told: str,
    space: common_pb2.SpaceRef | None = None,
) -> None:
    """`bad` is reported by its offset, its neighbours are taken, and the stream goes on."""
    stream = caller.stream(space)
    response = stream.send(zebra("before"), bad, zebra("after"))
    (error,) = response.errors
    assert (error.offset, error.id, error.reason) == (1, bad.document.id, INVALID)
    assert told in error.message
    assert response.indexed == 2
    assert stream.send(document("later", "A giraffe eats leaves.")).indexed == 1
    stream.finish()
    assert caller.found("a zebra")[:2] == ["after", "before"]
    held = {one.document.id for one in caller.get("before", "after", "later").documents}
    assert held == {"before", "after", "later"}
    assert caller.held() == {len(TEXTS) + 3}


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (document("bad", ""), "document.text: empty or only white space"),
        (document("bad", " \n\t"), "document.text: empty or only white space"),
        (document("bad", "word " * 200_000), "1,000,000 bytes long, at most 32,768 are accepted"),
        (document("bad", "\u200b"), "makes no vector of it"),
        (document("", "no id"), "document.id: 0 bytes long, expected 1 to 512"),
        (document("x" * 513, "a long id"), "document.id: 513 bytes long, expected 1 to 512"),
        (document("\u00e9" * 257, "a long id"), "document.id: 514 bytes long, expected 1 to 512"),
        (
            document("bad", "a field", kind=common_pb2.FieldValue()),
            "document.fields.kind: no value; expected a string, integer, double or bool",
        ),
    ],
    ids=[
        "empty text", "whitespace text", "1 MB text", "text of nothing known", "id of 0 bytes",
        "id of 513 bytes", "id of 257 two-byte characters", "field without a kind",
    ],
)  # fmt: skip
def test_a_document_with_a_bad(caller: Caller, bad: ingest_pb2.IngestDocument, told: str) -> None:
    check_refused_alone(caller, bad, told)


def unit(dim: int) -> Floats:
    vector = np.zeros(dim, np.float32)
    vector[0] = 1.0
    return vector


@pytest.mark.parametrize(
    ("vector", "told"),
    [
        (np.full(DIM, np.nan), "NaN or infinite values; expected finite numbers"),
        (np.full(DIM, -np.inf), "NaN or infinite values; expected finite numbers"),
        (np.zeros(DIM), "zero vector; expected unit length"),
        (unit(DIM) * 3, "vector of length 3, expected unit length; apply the model's recipe"),
        (unit(700), "2800 bytes, expected 3072: little-endian float32 in vector_space.dim"),
        (unit(DIM + 1), "3076 bytes, expected 3072"),
        (unit(DIM)[::-1], "it has no direction to search by"),
    ],
    ids=["NaN", "infinite", "zero", "unnormalised", "short", "long", "without a short prefix"],
)
def test_a_document_vector_that_is(caller: Caller, vector: Floats, told: str) -> None:
    fingerprint = caller.encode("any text").space.fingerprint
    space = common_pb2.SpaceRef(fingerprint=fingerprint, dim=DIM)
    check_refused_alone(caller, document("bad", "any text", vector), told, space)


def test_a_document_vector_without_a_space_is_refused(caller: Caller) -> None:
    vector = floats_of(caller.encode("any text"))
    told = "vector_space: a document brings a vector; the stream's first message names none"
    check_refused_alone(caller, document("bad", "any text", vector), told)


def test_a_document_vector_of_an_untrained_dimension_is_refused(caller: Caller) -> None:
    fingerprint = caller.encode("any text").space.fingerprint
    space = common_pb2.SpaceRef(fingerprint=fingerprint, dim=100)
    told = "document.vector: 100 dimensions, expected 768"
    check_refused_alone(caller, document("bad", "any text", unit(100)), told, space)


def test_a_stream_of_vectors_of_another_model_with_the_same_dimension_is_refused(
    caller: Caller,
) -> None:
    vector = caller.encode("any text")
    space = common_pb2.SpaceRef(fingerprint=ANOTHER_SPACE, dim=DIM)
    told = f"vector_space is in space {ANOTHER_SPACE}, expected {vector.space.fingerprint}"
    with caller.refuses(Code.FAILED_PRECONDITION, told):
        caller.stream(space).send(document("bad", "any text", floats_of(vector)))
    with caller.refuses(Code.FAILED_PRECONDITION, r"in space \(none given\), expected"):
        caller.stream(common_pb2.SpaceRef(dim=DIM)).send()
    assert caller.held() == {len(TEXTS)}


def test_of_duplicate_ids_in_one_message_the_last_is_taken(caller: Caller) -> None:
    stream = caller.stream()
    response = stream.send(
        document("twice", "An old text about walruses."), zebra(), document("twice", "A new owl.")
    )
    stream.finish()
    (error,) = response.errors
    assert (error.offset, error.id, error.reason) == (0, "twice", SUPERSEDED)
    assert error.message == (
        "id 'twice' stands again 2 documents later in the same message; the later one is taken"
    )
    assert response.indexed == 2
    assert caller.get("twice").documents[0].document.text == "A new owl."
    assert caller.found("walruses").count("twice") == 1
    assert caller.held() == {len(TEXTS) + 2}


# --- streams -------------------------------------------------------------------------------------


def test_offsets_with_a_gap_end_the_stream_after_what_was_acknowledged(caller: Caller) -> None:
    stream = caller.stream()
    stream.send(zebra("first"))
    told = "3, expected 1: offsets count up without gaps; open a new stream to start elsewhere"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "first_offset"):
        stream.send(zebra("second"), skip=2)
    assert list(caller.get("first", "second").missing_ids) == ["second"]


def test_text_that_is_not_utf_8_ends_the_stream_after_what_was_acknowledged(
    caller: Caller,
) -> None:
    first = ingest_pb2.IngestDocumentsRequest(
        collection=caller.collection, documents=[zebra("first")]
    ).SerializeToString()

    def message(text: bytes, name: bytes = b"bad") -> bytes:
        good = delimited(4, zebra("good").SerializeToString())
        inner = delimited(1, name) + delimited(2, text)
        return b"\x18\x01" + good + delimited(4, delimited(1, inner))

    told = r"byte 0xfc at position 1 is not UTF-8; decode the text with its own encoding"
    for data, field in (
        (message("f\u00fcr".encode("latin-1")), "documents.1.document.text"),
        (message(b"fine", b"f\xfcr"), "documents.1.document.id"),
        (
            b"\x18\x01" + delimited(4, delimited(1, delimited(3, delimited(1, b"f\xfcr")))),
            "documents.0.document.fields.0.key",
        ),
    ):
        with caller.refuses(Code.INVALID_ARGUMENT, told, field):
            caller.raw_stream(first, data)
    assert list(caller.get("first", "good", "bad").missing_ids) == ["good", "bad"]


def test_an_unknown_field_of_a_stream_ends_it(caller: Caller) -> None:
    first = ingest_pb2.IngestDocumentsRequest(collection=caller.collection, documents=[zebra()])
    told = "knows no such field of nestvec.v1.IngestDocumentsRequest"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "99"):
        caller.raw_stream(first.SerializeToString() + UNKNOWN_FIELD)
    assert caller.held() == {len(TEXTS)}


def test_an_unknown_field_of_a_document_is_refused_with_it(caller: Caller) -> None:
    good = zebra().SerializeToString()
    inner = delimited(1, zebra("bad").document.SerializeToString() + UNKNOWN_FIELD)
    beside = zebra("worse").SerializeToString() + UNKNOWN_FIELD
    name = delimited(1, caller.collection.encode())
    (response,) = caller.raw_stream(
        name + delimited(4, good) + delimited(4, inner) + delimited(4, beside)
    )
    assert [(error.id, error.reason) for error in response.errors] == [
        ("bad", INVALID), ("worse", INVALID),
    ]  # fmt: skip
    assert "document.99: nestvec" in response.errors[0].message
    assert "knows no such field of nestvec.v1.IngestDocument;" in response.errors[1].message
    assert response.indexed == 1
    assert caller.held() == {len(TEXTS) + 1}


def test_a_message_over_the_limit_ends_the_stream_after_what_was_acknowledged(
    caller: Caller,
) -> None:
    stream = caller.stream()
    stream.send(zebra("first"))
    told = r"message larger than max \(2\d{7} vs\. 16777216\)"
    with caller.refuses(Code.RESOURCE_EXHAUSTED, told):
        stream.send(document("large", "x" * 20_000_000))
    assert list(caller.get("first", "large").missing_ids) == ["large"]


# --- clients that go away ------------------------------------------------------------------------

MANY = sentences(600)


def many_documents() -> list[ingest_pb2.IngestDocument]:
    """So many that committing them takes a while, and so few that it is one transaction."""
    return [document(f"many-{number}", text) for number, text in enumerate(MANY)]


def wait_until_held(caller: Caller, *counts: int) -> None:
    """Until store and every tier hold one of these numbers of documents, all the same one."""
    deadline = time.monotonic() + PATIENCE_S
    while (held := caller.held()) not in [{count} for count in counts]:
        assert time.monotonic() < deadline, f"holds {held}, expected {counts}"
        time.sleep(0.02)


def check_whole(caller: Caller) -> None:
    """Of the message that was under way all is there or nothing is; store and index agree."""
    wait_until_held(caller, len(TEXTS) + 1, len(TEXTS) + 1 + len(MANY))
    assert caller.get("acknowledged").documents, "an acknowledged document is gone"
    missing = len(caller.get(*(f"many-{number}" for number in range(len(MANY)))).missing_ids)
    assert missing in (0, len(MANY))
    assert ("many-7" in caller.found(MANY[7])) == (missing == 0)


def test_a_client_that_cancels_mid_stream_leaves_nothing_half_applied(caller: Caller) -> None:
    stream = caller.stream()
    assert stream.send(zebra("acknowledged")).indexed == 1
    stream.put(many_documents())
    stream.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.responses)
    assert caught.value.code() is Code.CANCELLED
    caller.check_serves()
    check_whole(caller)


@pytest.mark.parametrize("moment", ["between messages", "within one", "before its answer"])
def test_a_client_whose_connection_breaks_mid_stream_leaves_nothing_half_applied(
    engine: SharedEngine, caller: Caller, moment: str
) -> None:
    documents = many_documents()
    with Relay(engine.address) as relay:
        broken = Caller(relay.address, caller.collection)
        stream = broken.stream()
        assert stream.send(zebra("acknowledged")).indexed == 1
        if moment == "between messages":
            relay.cut()
        elif moment == "within one":
            relay.cut(after_bytes=sum(one.ByteSize() for one in documents) // 2)
        else:
            relay.mute()
        stream.put(documents)
        if moment == "before its answer":
            wait_until_held(caller, len(TEXTS) + 1 + len(documents))
            relay.cut()
        relay.wait_until_cut(PATIENCE_S)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream.responses)
        assert caught.value.code() is Code.UNAVAILABLE
        stream.cancel()
        broken.close()
    caller.check_serves()
    check_whole(caller)
    # The client comes back and sends again what was not acknowledged.
    again = caller.stream()
    assert again.send(*documents).indexed == len(documents)
    again.finish()
    assert caller.held() == {len(TEXTS) + 1 + len(documents)}


# --- deleting, and collections -------------------------------------------------------------------


def test_a_delete_that_names_nothing_is_refused(caller: Caller) -> None:
    with caller.refuses(Code.INVALID_ARGUMENT, "none given; name at least one document", "ids"):
        caller.delete()
    with caller.refuses(Code.INVALID_ARGUMENT, "0 bytes long, expected 1 to 512", "ids"):
        caller.delete("cat", "")
    with caller.refuses(Code.INVALID_ARGUMENT, "513 bytes long, expected 1 to 512", "ids"):
        caller.delete("x" * 513)
    assert caller.held() == {len(TEXTS)}
    # Ids that name no document are told, not refused.
    assert list(caller.delete("nobody").missing_ids) == ["nobody"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "UPPER",
        "with space",
        "{braces}",
        "a:b",
        ".hidden",
        "-dash",
        "x" * 64,
        "caf\u00e9",
        "a/b",
    ],
)
def test_a_bad_collection_name_is_refused(caller: Caller, name: str) -> None:
    told = "cannot name a collection; expected 1 to 63 of a-z, 0-9, '.', '_', '-', beginning"
    with caller.refuses(Code.INVALID_ARGUMENT, told, "name"):
        caller.create(name=name)


@pytest.mark.parametrize(
    ("design", "told", "field"),
    [
        ({"tiers": [100]}, "tier 100 was not trained for nestvec-static-768; trained: 64", "tiers"),
        ({"tiers": [128, 0]}, "tier 0 was not trained", "tiers"),
        ({"store_dim": 100}, "tier 100 was not trained for", "store_dim"),
        ({"store_dim": -1}, "tier -1 was not trained for", "store_dim"),
        (
            {"store_dim": 128, "tiers": [256]},
            "tier 256 is longer than the 128 dimensions that collection 'new' stores",
            "tiers",
        ),
        ({"store_dtype": 42}, "no dtype has number 42 here; known: fp32, fp16", "store_dtype"),
    ],
)  # fmt: skip
def test_a_bad_design_of_a_collection_is_refused(
    caller: Caller, design: dict[str, object], told: str, field: str
) -> None:
    with caller.refuses(Code.INVALID_ARGUMENT, told, field):
        caller.create(name="new", **design)
    with caller.refuses(Code.NOT_FOUND, "collection 'new' does not exist"):
        caller.at("new").describe()


def test_a_collection_that_exists_with_another_design_is_refused(caller: Caller) -> None:
    with caller.refuses(Code.ALREADY_EXISTS, f"'{caller.collection}' exists already; drop it"):
        caller.create()
    with caller.refuses(Code.ALREADY_EXISTS, r"store_dim is 768, asked 256: drop it, or choose"):
        caller.create(store_dim=256, exist_ok=True)
    assert caller.create(exist_ok=True).store_dim == DIM


def test_a_search_in_a_dropped_collection_is_not_found(caller: Caller) -> None:
    dropped = caller.at(f"{caller.collection}-dropped")
    dropped.create()
    dropped.fill()
    dropped.drop()
    with caller.refuses(Code.NOT_FOUND, "does not exist; collections here"):
        dropped.search()
    with caller.refuses(Code.NOT_FOUND, "does not exist; collections here"):
        dropped.stream().send(zebra())
    dropped.create()
    assert not dropped.found(), "documents of the dropped one"
    dropped.drop()
