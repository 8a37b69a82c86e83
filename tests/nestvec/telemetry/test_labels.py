"""Nothing that a caller sends makes a series: not a class, a collection, an id, a key or a path."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest

from nestvec import NestvecClient
from nestvec.core.errors import NestvecError
from nestvec.telemetry.metrics import UNKNOWN_CLASS
from nestvec.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)
from tests.support.engine import SharedEngine
from tests.support.faults import PATIENT_S
from tests.support.scrape import all_series, value

HOSTILE = ["x" * 200, 'a"b', "a\nb", "a{b}", "\u202e", "search ", "SEARCH", "(unknown)", "(others)"]


def call_with(channel: grpc.Channel, word: str) -> None:
    """Every place in a message, in metadata and in a path where a word may stand."""
    query: Any = query_pb2_grpc.QueryServiceStub(channel)
    admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
    options = query_pb2.SearchOptions(search_class=word, coarse_dim=len(word))
    metadata = (("x-request-id", word.encode().hex()), ("x-client", word.encode().hex()))
    vector = query_pb2.QueryVector(values=np.ones(4, "<f4").tobytes())
    vector.space.fingerprint, vector.space.dim = word, 4
    for request in (
        query_pb2.SearchRequest(collection="labels", text="a", options=options),
        query_pb2.SearchRequest(collection=word, text="a"),
        query_pb2.SearchRequest(collection="labels", vector=vector, options=options),
    ):
        with suppress(grpc.RpcError):
            query.Search(request, metadata=metadata, timeout=20)
    with suppress(grpc.RpcError):
        batch = query_pb2.BatchSearchRequest(collection=word, texts=["a"], options=options)
        query.BatchSearch(batch, timeout=20)
    others: list[tuple[Any, Any]] = [
        (query.GetDocuments, query_pb2.GetDocumentsRequest(collection=word, ids=[word])),
        (admin.DescribeCollection, admin_pb2.DescribeCollectionRequest(name=word)),
        (admin.CreateCollection, admin_pb2.CreateCollectionRequest(name=word)),
        (admin.DropCollection, admin_pb2.DropCollectionRequest(name=word)),
    ]
    for ask, asked in others:
        with suppress(grpc.RpcError):
            ask(asked, timeout=20)
    with suppress(grpc.RpcError):
        first = ingest_pb2.IngestDocumentsRequest(collection=word, stream_id=word)
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        list(stub.IngestDocuments(iter([first]), timeout=20))
    unheard_of: Any = channel.unary_unary(f"/nestvec.v1.QueryService/{word.encode().hex()}")
    with suppress(grpc.RpcError):
        unheard_of(b"", timeout=20)


@pytest.fixture(scope="module")
def collection(engine: SharedEngine) -> str:
    with NestvecClient(engine.address) as client, suppress(NestvecError):
        client.create_collection("labels")
    return "labels"


@contextmanager
def a_stream_to(collection: str, channel: grpc.Channel) -> Iterator[None]:
    """Open for as long: the queue of a stream is told of while there is one, and then no more."""
    over = threading.Event()

    def messages() -> Iterator[ingest_pb2.IngestDocumentsRequest]:
        yield ingest_pb2.IngestDocumentsRequest(collection=collection, stream_id="held-open")
        over.wait()

    answers: Any = ingest_pb2_grpc.IngestServiceStub(channel).IngestDocuments(messages())
    next(answers)
    try:
        yield
    finally:
        over.set()
        answers.cancel()


def test_hostile_names_make_no_series(engine: SharedEngine, collection: str) -> None:
    with grpc.insecure_channel(engine.address) as channel, a_stream_to(collection, channel):
        # Whatever series there are for refusals of that kind are there after these.
        for word in ("first", "No Good", "", "y" * 200):
            call_with(channel, word)
        before = all_series()
        for word in HOSTILE:
            call_with(channel, word)
        after = all_series()
    assert after.keys() == before.keys()
    grown = [series for series in after if after[series] > before[series]]
    assert any(name == "nestvec_rpcs_total" for name, _ in grown)
    names = {label for _, labels in after for _, label in labels}
    assert not names & (set(HOSTILE) - {UNKNOWN_CLASS})


def test_an_unknown_class_is_counted_as_one_that_is_unknown(
    engine: SharedEngine, collection: str
) -> None:
    labels = {"search_class": UNKNOWN_CLASS, "status": "INVALID_ARGUMENT"}
    before = value("nestvec_search_seconds_count", **labels) or 0.0
    with NestvecClient(engine.address) as client:
        for word in ("no-such-class", UNKNOWN_CLASS):
            with pytest.raises(NestvecError, match=r"no-such-class|unknown"):
                client.search(collection, "a", search_class=word)
    # Counted once the response is on its way.
    until = time.monotonic() + PATIENT_S
    while value("nestvec_search_seconds_count", **labels) != before + 2:
        assert time.monotonic() < until
        time.sleep(0.005)
    assert value("nestvec_queries_under_way", search_class=UNKNOWN_CLASS) == 0.0


def test_a_collection_that_is_dropped_leaves_no_series(engine: SharedEngine) -> None:
    with NestvecClient(engine.address) as client:
        client.create_collection("labels-gone")
        dims = [one.dim for one in client.describe("labels-gone").tier_status]
        assert dims
        for dim in dims:
            assert (
                value("nestvec_coarse_bytes", collection="labels-gone", coarse_dim=str(dim))
                is not None
            )
        client.drop_collection("labels-gone")
    assert not any(("collection", "labels-gone") in labels for _, labels in all_series())
