"""What a front end passes on arrives whole, and comes back as its server ended it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import grpc
import pytest

from nestvec.client import IngestDocument, IngestInterrupted, NestvecClient
from nestvec.core.errors import (
    AlreadyExists,
    BudgetSpent,
    InvalidRequest,
    NotFound,
    WorkerUnavailable,
)
from nestvec.rpc.clients import channel_to
from nestvec.rpc.forwarding import forwarded
from nestvec.rpc.server import Server, ServerLimits
from nestvec.v1 import admin_pb2, admin_pb2_grpc, ingest_pb2, query_pb2
from tests.support.engine import SharedEngine
from tests.support.stores import free_port

SERVICES = (
    (ingest_pb2.DESCRIPTOR, "IngestService"),
    (admin_pb2.DESCRIPTOR, "AdminService"),
    (query_pb2.DESCRIPTOR, "QueryService"),
)
MESSAGE_BYTES = 16 * 1024 * 1024


class FrontEnd(threading.Thread):
    """Passes all public services on to `target`; None for nobody."""

    def __init__(self, target: str | None) -> None:
        super().__init__(name="front-end")
        self._target = target
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self.address = ""

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        channel = channel_to(self._target or "", MESSAGE_BYTES) if self._target else None

        def there() -> grpc.aio.Channel:
            if channel is None:
                raise WorkerUnavailable("nobody takes writes")
            return channel

        mounted = [forwarded(file, service, there) for file, service in SERVICES]
        server = Server(mounted, ServerLimits(MESSAGE_BYTES, drain_s=0.2))
        self.address = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
        self._listening.set()
        await self._stopping.wait()
        await server.stop()
        if channel is not None:
            await channel.close()

    def __enter__(self) -> FrontEnd:
        self.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self.join(10)
        assert not self.is_alive()


@pytest.fixture(scope="module")
def front_end(engine: SharedEngine) -> Iterator[FrontEnd]:
    with FrontEnd(engine.address) as running:
        yield running


@pytest.fixture
def client(front_end: FrontEnd) -> Iterator[NestvecClient]:
    with NestvecClient(front_end.address) as opened:
        yield opened


def test_a_collection_lives_its_whole_life_through_a_front_end(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    documents = [IngestDocument(f"d{n}", f"text number {n} about cats") for n in range(600)]
    report = client.index(collection_name, documents, batch_size=100)
    assert report.indexed == 600
    assert not report.failures
    assert client.search(collection_name, "cats").hits
    assert client.delete(collection_name, ["d1"]).deleted == 1
    assert client.describe(collection_name).documents == 599
    client.drop_collection(collection_name)
    assert collection_name not in [one.name for one in client.collections()]


def test_errors_keep_their_class_their_text_and_their_request_id(
    client: NestvecClient, engine: SharedEngine, collection_name: str
) -> None:
    with pytest.raises(NotFound) as missing:
        client.describe("nowhere")
    assert any("request id" in note for note in missing.value.__notes__)
    with NestvecClient(engine.address) as direct, pytest.raises(NotFound) as straight:
        direct.describe("nowhere")
    assert str(missing.value) == str(straight.value)
    client.create_collection(collection_name)
    with pytest.raises(AlreadyExists):
        client.create_collection(collection_name)
    with pytest.raises(InvalidRequest, match="k"):
        client.search(collection_name, "cats", k=0)


def test_a_request_id_of_the_caller_is_the_one_that_the_server_logs(front_end: FrontEnd) -> None:
    with grpc.insecure_channel(front_end.address) as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).DescribeServer.with_call
        _, ended = call(
            admin_pb2.DescribeServerRequest(), timeout=10, metadata=(("x-request-id", "mine"),)
        )
        assert ("x-request-id", "mine") in list(ended.trailing_metadata())


def test_a_deadline_travels_with_the_call(client: NestvecClient, collection_name: str) -> None:
    client.create_collection(collection_name)
    with pytest.raises(BudgetSpent):
        client.search(collection_name, "cats", timeout_s=0.0005)


def test_a_bad_document_fails_by_itself_in_a_stream_that_is_passed_on(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    report = client.index(
        collection_name, [IngestDocument("good", "a cat"), IngestDocument("bad", "  ")]
    )
    assert report.indexed == 1
    assert [one.id for one in report.failures] == ["bad"]


@pytest.mark.parametrize("nobody", ["unknown", "gone"])
def test_where_nobody_serves_it_the_caller_is_told(nobody: str) -> None:
    target = None if nobody == "unknown" else f"127.0.0.1:{free_port()}"
    with FrontEnd(target) as front_end, NestvecClient(front_end.address, timeout_s=5) as client:
        with pytest.raises(WorkerUnavailable):
            client.drop_collection("docs")
        with pytest.raises(IngestInterrupted) as interrupted:
            client.index("docs", [IngestDocument("a", "a cat")], fingerprint="0" * 16)
        assert isinstance(interrupted.value.__cause__, WorkerUnavailable)
