"""A store that is down, full, slow or damaged: what callers of a real engine see meanwhile.

Redis that is down, full (`maxmemory`), slow or returns a truncated value, each with a real server.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from nestvec.adapters import opening
from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.config import load_settings
from nestvec.v1 import common_pb2, ingest_pb2, query_pb2
from nestvec_cluster.background import background_engine
from tests.support.caller import (
    PATIENCE_S,
    QUESTION,
    RIGHT,
    TEXTS,
    Caller,
    IngestStream,
    document,
    facts_of,
)
from tests.support.sentences import sentences
from tests.support.store_server import StoreServer

Code = grpc.StatusCode
UNAVAILABLE = ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE
NONE = common_pb2.CERTIFICATE_NONE
# Of one round trip. A search needs at most two in turn, and hangs if it takes ten.
STORE_TIMEOUT_S = 0.5
BOUND_S = 10 * STORE_TIMEOUT_S
_numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def address(store: StoreServer) -> Iterator[str]:
    """One engine over that store: each test leaves both as it found them."""
    settings = load_settings(
        None,
        {
            "server.port": 0,
            "store.url": store.url,
            "store.timeout_s": STORE_TIMEOUT_S,
            # One that would rather fail than answer in coarse order.
            "classes.strict": {"coarse_dim": 256, "k": 10, "candidates": 100, "degrade": False},
        },
    )
    with background_engine(settings) as address:
        yield address


@pytest.fixture
def caller(address: str) -> Iterator[Caller]:
    caller = Caller(address, f"bad-store-{next(_numbers)}")
    caller.create()
    caller.fill()
    yield caller
    caller.check_serves()
    caller.drop()
    caller.close()


@contextmanager
def fails(code: grpc.StatusCode, message: str) -> Iterator[None]:
    """The call within fails so, and soon. (Nothing good can be asked before the store is back.)"""
    started = time.monotonic()
    with pytest.raises(grpc.RpcError, match=message) as caught:
        yield
    assert caught.value.code() is code
    assert time.monotonic() - started < BOUND_S


def check_ids_alone(response: query_pb2.SearchResponse, told: str) -> None:
    """The right ids in coarse order, and all that is lacking admitted. told: why."""
    assert response.hits[0].id == RIGHT
    assert {hit.id for hit in response.hits} <= {*TEXTS, "before"}
    assert {hit.text for hit in response.hits} == {""}
    kinds = [degradation.kind for degradation in response.degradations]
    assert kinds[-1] == common_pb2.DEGRADATION_KIND_PAYLOAD_MISSING
    assert set(kinds[:-1]) <= {common_pb2.DEGRADATION_KIND_RERANK_SKIPPED}
    assert re.search(told, response.degradations[-1].detail)
    assert response.certificate == NONE


def check_whole_again(caller: Caller) -> None:
    """Soon, without a restart: a store that was silent is tried again every half second."""
    deadline = time.monotonic() + PATIENCE_S
    while caller.search().degradations:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    caller.check_serves()


def check_unavailable(stream: IngestStream, told: str) -> None:
    """The stream lives, and reports each document as one that may be sent again."""
    response = stream.send(*new_documents())
    assert [error.id for error in response.errors] == ["owl", "fox"]
    for error in response.errors:
        assert error.reason == UNAVAILABLE
        assert told in error.message
    assert response.indexed == 0


def new_documents() -> list[ingest_pb2.IngestDocument]:
    return [document("owl", "An owl hunts at night."), document("fox", "A fox digs its den.")]


def check_goes_in_now(caller: Caller, stream: IngestStream) -> None:
    """The same documents, on the same stream."""
    response = stream.send(*new_documents())
    assert response.indexed == 2
    assert not response.errors
    stream.finish()
    assert caller.found("an owl at night")[0] == "owl"
    assert caller.held() == {len(TEXTS) + 2}


# --- down ----------------------------------------------------------------------------------------


def test_a_store_that_is_down_leaves_ids_in_coarse_order_and_fails_the_rest_until_it_is_back(
    store: StoreServer, caller: Caller
) -> None:
    told = r"the store at 127\.0\.0\.1:\d+ cannot be reached .*; see that it runs"
    stream = caller.stream()
    stream.send(document("before", "Written before it went down."))
    caller.delete("before")
    store.kill()
    try:
        with fails(Code.UNAVAILABLE, told):
            caller.search(search_class="strict")
        for search_class in ("search", "autocomplete", "analyst"):
            check_ids_alone(caller.search(search_class=search_class), told)
        check_ids_alone(caller.batch(texts=[QUESTION]).responses[0], told)
        with fails(Code.UNAVAILABLE, told):
            caller.get(RIGHT)
        with fails(Code.UNAVAILABLE, told):
            caller.delete(RIGHT)
        with fails(Code.UNAVAILABLE, told):
            caller.describe()
        with fails(Code.UNAVAILABLE, told):
            caller.create(name="bad-store-new")
        check_unavailable(stream, "cannot be reached")
    finally:
        store.start_again()
    caller.check_serves()
    check_goes_in_now(caller, stream)


def test_a_store_that_is_down_costs_hot_documents_their_order_alone(
    store: StoreServer, caller: Caller
) -> None:
    """Where all payloads of an answer are at hand, it is given, and what it lacks is admitted."""
    caller.check_serves()
    complete = caller.search(search_class="autocomplete")
    store.kill()
    try:
        response = caller.search()
        assert response.hits[0].id == RIGHT
        assert response.hits[0].text == TEXTS[RIGHT]
        (degradation,) = response.degradations
        assert degradation.kind == common_pb2.DEGRADATION_KIND_RERANK_SKIPPED
        assert "the order of estimates: the store at" in degradation.detail
        assert response.certificate == NONE
        # What is never reranked lacks nothing.
        assert caller.search(search_class="autocomplete") == complete
    finally:
        store.start_again()


def test_an_embedded_store_that_was_killed_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[EmbeddedValkey] = []

    class Noted(EmbeddedValkey):
        def start(self) -> Noted:
            started.append(self)
            return super().start()

    monkeypatch.setattr(opening, "EmbeddedValkey", Noted)
    with background_engine(load_settings(None, {"server.port": 0})) as address:
        caller = Caller(address, "docs")
        caller.create()
        caller.fill()
        os.kill(started[0].pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while started[0].running:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        told = r"the store at unix:\S+ cannot be reached .* nestvec started it, start nestvec again"
        check_ids_alone(caller.search(), told)
        with fails(Code.UNAVAILABLE, told):
            caller.get(RIGHT)
        check_unavailable(caller.stream(), "start nestvec again")
        # What needs no store is answered all the same.
        assert caller.encode(QUESTION).space.dim == 768
        caller.close()


# --- full ----------------------------------------------------------------------------------------


def test_a_full_store_refuses_documents_and_serves_searches(
    store: StoreServer, caller: Caller
) -> None:
    stream = caller.stream()
    before = store.values(caller.collection)
    with store.full():
        check_unavailable(stream, "is full (maxmemory reached) and nothing was written; delete")
        caller.check_serves()
        told = r"is full \(maxmemory reached\).* give it more memory, then retry"
        with fails(Code.RESOURCE_EXHAUSTED, told):
            caller.create(name="bad-store-new")
        assert store.values(caller.collection) == before
        assert sorted(caller.get("owl", "fox").missing_ids) == ["fox", "owl"]
    check_goes_in_now(caller, stream)


def test_a_store_that_becomes_full_has_taken_each_document_whole_or_not_at_all(
    store: StoreServer, caller: Caller
) -> None:
    texts = sentences(1500)
    documents: list[ingest_pb2.IngestDocument] = []
    refused: set[str] = set()
    stream = caller.stream()
    with store.room_for(384 << 10):
        # How many that takes varies: the server is still freeing what was dropped before.
        while not refused:
            next_ones = [document(f"n{len(documents) + i}", texts.pop()) for i in range(30)]
            documents += next_ones
            response = stream.send(*next_ones)
            refused = {error.id for error in response.errors}
            assert all(error.reason == UNAVAILABLE for error in response.errors)
        caller.check_serves()
        taken = {one.document.id for one in documents} - refused
        assert taken
        assert set(caller.get(*(one.document.id for one in documents)).missing_ids) == refused
        whole = len(TEXTS) + len(taken)
        assert caller.held() == {whole}
        counts = store.values(caller.collection)
        assert counts == {"vectors": whole, "payloads": whole, "ids": whole}
        # Deleting is what a full store must still allow.
        assert caller.delete(*sorted(taken)).deleted == len(taken)
    again = stream.send(*documents)
    assert again.indexed == len(documents)
    stream.finish()
    assert caller.found(documents[7].document.text)[0] == "n7"
    assert caller.held() == {len(TEXTS) + len(documents)}


# --- slow ----------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_waited_for_no_longer_than_the_deadline(
    store: StoreServer, caller: Caller
) -> None:
    told = r"the store at \S+ did not answer in time; it is overloaded, stopped or out of reach"
    stream = caller.stream()
    stream.send(document("before", "Written before it slowed down."))
    caller.delete("before")
    with store.stopped():
        # The caller's deadline ends it, or else the store's own time limit.
        with fails(Code.DEADLINE_EXCEEDED, "[Dd]eadline"):
            caller.search(search_class="strict", timeout_s=STORE_TIMEOUT_S / 2)
        with fails(Code.UNAVAILABLE, told):
            caller.search(search_class="strict")
        for search_class in ("search", "autocomplete", "search", "search"):
            check_ids_alone(caller.search(search_class=search_class), "answer")
        with fails(Code.UNAVAILABLE, told):
            caller.get(RIGHT)
        with fails(Code.UNAVAILABLE, told):
            caller.delete(RIGHT)
        check_unavailable(stream, "did not answer in time")
    check_whole_again(caller)
    check_goes_in_now(caller, stream)


# Before the write, while it is on its way, and after it: which is which depends on the machine.
@pytest.mark.parametrize("later_s", [0.0, 0.03, 0.06, 0.1])
def test_a_store_that_stops_during_a_write_and_the_index_agree_in_the_end(
    store: StoreServer, caller: Caller, later_s: float
) -> None:
    """Whether the write was done is unknown to all; that half of it shows is not to happen."""
    texts = sentences(600)
    documents = [document(f"n{number}", text) for number, text in enumerate(texts)]
    stream = caller.stream()
    stream.put(documents)
    time.sleep(later_s)
    with store.stopped():
        # Longer than the server waits for one answer.
        time.sleep(1.5 * STORE_TIMEOUT_S)
    response = next(stream.responses)
    assert response.indexed in (0, len(documents))
    assert {error.reason for error in response.errors} <= {UNAVAILABLE}
    deadline = time.monotonic() + PATIENCE_S
    while (held := caller.held()) not in ({len(TEXTS)}, {len(TEXTS) + len(documents)}):
        assert time.monotonic() < deadline, f"store and tiers hold {held}"
        time.sleep(0.05)
    caller.check_serves()
    assert stream.send(*documents).indexed == len(documents)
    stream.finish()
    assert caller.found(texts[7])[0] == "n7"
    assert caller.held() == {len(TEXTS) + len(documents)}


# --- damaged -------------------------------------------------------------------------------------


def truncated(value: bytes) -> bytes:
    return value[:100]


def empty(value: bytes) -> bytes:
    return b""


def of_another_space(value: bytes) -> bytes:
    return value[:4] + b"\0\0\0\0" + value[8:]


def of_another_program(value: bytes) -> bytes:
    return b'{"vector": [0.1, 0.2]}'


def not_numbers(value: bytes) -> bytes:
    return value[:8] + b"\xff\x7f" * ((len(value) - 8) // 2)


@contextmanager
def damaged(store: StoreServer, key: bytes, value: bytes | None) -> Iterator[None]:
    """None: gone."""
    before = store.redis.get(key)
    assert before
    assert before != value
    if value is None:
        store.redis.unlink(key)
    else:
        store.redis.set(key, value)
    try:
        yield
    finally:
        store.redis.set(key, before)


def check_left_out(response: query_pb2.SearchResponse, kind: str, told: str) -> None:
    """The answer is OK, complete but for the damaged one, and says so."""
    assert sorted(hit.id for hit in response.hits) == sorted(set(TEXTS) - {RIGHT})
    (degradation,) = response.degradations
    assert degradation.kind == common_pb2.DegradationKind.Value(f"DEGRADATION_KIND_{kind}")
    assert told in degradation.detail
    assert response.coverage.fraction == 1.0


@pytest.mark.parametrize(
    "damage", [truncated, empty, of_another_space, of_another_program, not_numbers]
)
def test_a_stored_vector_that_is_truncated_or_foreign_is_left_out_and_admitted(
    store: StoreServer, caller: Caller, damage: object
) -> None:
    assert callable(damage)
    key = store.vector_key(caller.collection, RIGHT)
    with damaged(store, key, damage(store.redis.get(key))):
        response = caller.search()
        told = "1 candidates had a damaged vector and were left out; ingest them again"
        check_left_out(response, "VECTOR_CORRUPT", told)
        assert response.certificate == NONE
        # What was asked is there, and only the vector is lost.
        assert caller.get(RIGHT).documents[0].document.text == TEXTS[RIGHT]
        with fails(Code.DATA_LOSS, f"document {RIGHT} is corrupt: .*; ingest the document again"):
            caller.get("cat", RIGHT, include_vectors=True)
        with pytest.raises(grpc.RpcError) as caught:
            caller.get(RIGHT, include_vectors=True)
        assert facts_of(caught.value) == {"document": RIGHT}
        assert len(caller.get("cat", include_vectors=True).documents) == 1


def test_a_missing_vector_is_left_out_and_admitted(store: StoreServer, caller: Caller) -> None:
    with damaged(store, store.vector_key(caller.collection, RIGHT), None):
        response = caller.search()
        check_left_out(response, "VECTOR_MISSING", "1 candidates had no stored vector")
        assert response.certificate == NONE
        with fails(Code.DATA_LOSS, f"document {RIGHT} is corrupt: .*; ingest the document again"):
            caller.get(RIGHT, include_vectors=True)


@pytest.mark.parametrize("value", [None, b"", b'[1,"bicycle","How to', b"\xff\xfe", b"[7]", b"{}"])
@pytest.mark.parametrize("search_class", ["search", "autocomplete"])
def test_a_missing_or_damaged_payload_is_left_out_and_admitted(
    store: StoreServer, caller: Caller, value: bytes | None, search_class: str
) -> None:
    with damaged(store, store.payload_key(caller.collection, RIGHT), value):
        response = caller.search(search_class=search_class, k=6)
        check_left_out(response, "PAYLOAD_MISSING", "1 hits were left out: their payloads are gone")
        if value is None:
            assert list(caller.get("cat", RIGHT).missing_ids) == [RIGHT]
        else:
            with fails(Code.DATA_LOSS, f"document {RIGHT} is corrupt: payload"):
                caller.get("cat", RIGHT)


def test_a_damaged_document_is_healed_by_ingesting_it_again(
    store: StoreServer, caller: Caller
) -> None:
    store.redis.set(store.vector_key(caller.collection, RIGHT), b"short")
    store.redis.set(store.payload_key(caller.collection, "cat"), b"short")
    store.redis.hset(store.map_key(caller.collection, "bread"), "bread", b"?")
    with fails(Code.DATA_LOSS, "document 'bread' is corrupt: its id map entry cannot be read"):
        caller.get("bread")
    assert len(caller.search().degradations) == 2
    caller.fill()
    caller.check_serves()
    response = caller.get(*TEXTS, include_vectors=True)
    assert {one.document.id: one.document.text for one in response.documents} == TEXTS
    assert sorted(caller.found()) == sorted(TEXTS)
