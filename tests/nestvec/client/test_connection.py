"""How the clients speak: what is tried again, what is not, and what travels with each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.errors import (
    BelowCoverage,
    BudgetSpent,
    NestvecError,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.rpc.status import code_of, trailers_of
from nestvec.v1 import query_pb2
from tests.support.scripted import Script, scripted_server
from tests.support.stores import free_port

Connect = Callable[..., NestvecClient]


def _failing(error: NestvecError, *more: tuple[str, str]) -> Callable[[Any, Any], Any]:
    """A behaviour that refuses as a nestvec server does."""

    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((*trailers_of(error), *more))
        context.abort(code_of(error), str(error))

    return refuse


def _failing_times(times: int, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    left = [times]

    def act(request: Any, context: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            return behaviour(request, context)
        return query_pb2.SearchResponse(search_class="after all")

    return act


def test_a_read_is_tried_again_when_the_server_is_unavailable(connect: Connect) -> None:
    script = Script(search=_failing_times(2, _failing(StoreUnavailable("store is down"))))
    with scripted_server(script) as address:
        assert connect(address).search("docs", "text").search_class == "after all"
    assert script.calls == ["Search"] * 3


def test_a_read_that_keeps_failing_gives_the_servers_own_error(connect: Connect) -> None:
    script = Script(search=_failing(StoreUnavailable("store is down")))
    with (
        scripted_server(script) as address,
        pytest.raises(StoreUnavailable, match="store is down"),
    ):
        connect(address).search("docs", "text")
    assert script.calls == ["Search"] * 4


def test_a_server_that_pushes_back_is_obeyed(connect: Connect) -> None:
    script = Script(search=_failing(BelowCoverage(0.5, 1.0, "1 of 2 shards answered")))
    with scripted_server(script) as address, pytest.raises(BelowCoverage) as caught:
        connect(address).search("docs", "text")
    assert script.calls == ["Search"]
    assert (caught.value.fraction, caught.value.required) == (0.5, 1.0)


def test_a_server_that_names_a_delay_is_waited_for(connect: Connect) -> None:
    refusal = _failing(StoreUnavailable("store is down"), ("grpc-retry-pushback-ms", "400"))
    script = Script(search=_failing_times(1, refusal))
    with scripted_server(script) as address:
        started = time.monotonic()
        connect(address).search("docs", "text")
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize(
    ("method", "write"),
    [
        ("CreateCollection", lambda client: client.create_collection("docs")),
        ("DeleteDocuments", lambda client: client.delete("docs", ["a"])),
        ("IngestDocuments", lambda client: client.index("docs", [IngestDocument("a", "text")])),
    ],
)
def test_a_write_is_never_tried_again(
    connect: Connect, method: str, write: Callable[[NestvecClient], object]
) -> None:
    refusal = _failing(StoreUnavailable("store is down"))
    script = Script(create=refusal, delete=refusal, ingest=refusal)
    # grpc.aio drops the status of a stream that ends while it is being written to (grpc#36066).
    said = "store is down|lost the reason" if method == "IngestDocuments" else "store is down"
    with scripted_server(script) as address, pytest.raises(NestvecError, match=said):
        write(connect(address))
    assert script.calls.count(method) == 1


def test_other_statuses_are_not_tried_again(connect: Connect) -> None:
    script = Script(search=_failing(Overloaded("busy", retry_after_s=2.5)))
    with scripted_server(script) as address, pytest.raises(Overloaded, match="busy") as caught:
        connect(address).search("docs", "text")
    assert script.calls == ["Search"]
    assert caught.value.retry_after_s == 2.5


def test_a_status_without_details_names_method_and_address(connect: Connect) -> None:
    def bug(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.INTERNAL, "internal error; quote request id 7")

    with scripted_server(Script(search=bug)) as address:
        with pytest.raises(WorkerUnavailable) as caught:
            connect(address).search("docs", "text")
        assert str(caught.value) == (
            f"Search at {address} answered INTERNAL: internal error; quote request id 7"
        )


def test_every_call_brings_its_deadline_and_its_id(connect: Connect) -> None:
    remaining: list[float] = []

    def tell(_: Any, context: grpc.ServicerContext) -> Any:
        remaining.append(context.time_remaining() or 0.0)
        return query_pb2.SearchResponse()

    script = Script(search=tell)
    with scripted_server(script) as address:
        client = connect(address, timeout_s=70.0, request_id=lambda: "mine")
        client.search("docs", "text")
        assert script.metadata["x-request-id"] == "mine"
        client.search("docs", "text", timeout_s=30.0)
        without = connect(address)
        without.search("docs", "text")
        assert "x-request-id" not in script.metadata
    assert 40.0 < remaining[0] < 70.1
    assert 15.0 < remaining[1] < 30.1
    assert 5.0 < remaining[2] < 10.1


def test_the_deadline_ends_a_call_to_a_server_that_says_nothing(connect: Connect) -> None:
    script = Script(search=lambda _, context: script.done.wait(30))
    with scripted_server(script) as address:
        started = time.monotonic()
        with pytest.raises(BudgetSpent):
            connect(address).search("docs", "text", timeout_s=0.3)
        assert time.monotonic() - started < 15.0


def test_wait_for_ready_waits_for_a_server_that_is_still_starting(connect: Connect) -> None:
    port = free_port()
    script = Script()
    started = threading.Event()
    finished = threading.Event()

    def serve_late() -> None:
        time.sleep(0.3)
        with scripted_server(script, port):
            started.set()
            finished.wait(90)

    thread = threading.Thread(target=serve_late)
    thread.start()
    try:
        connect(f"127.0.0.1:{port}", wait_for_ready=True, timeout_s=60.0).search("docs", "text")
        assert started.is_set()
    finally:
        finished.set()
        thread.join()


def test_an_unknown_degradation_is_admitted_as_unknown(connect: Connect) -> None:
    def newer(*_: Any) -> Any:
        response = query_pb2.SearchResponse()
        response.degradations.add(kind=99, detail="something new")
        response.certificate = 99  # type: ignore[assignment]
        return response

    with scripted_server(Script(search=newer)) as address:
        result = connect(address).search("docs", "text")
    assert [(one.kind, one.detail) for one in result.degradations] == [("unknown", "something new")]
    assert result.certificate == "none"
