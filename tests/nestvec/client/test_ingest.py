"""The run of one `index`: bounds and counts without I/O, then streams that break."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.client import IngestDocument, IngestInterrupted, IngestReason, NestvecClient
from nestvec.client.ingest import IngestRun
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    NotFound,
    StoreUnavailable,
    StreamConflict,
    WorkerUnavailable,
)
from nestvec.rpc.status import code_of, trailers_of
from nestvec.v1 import ingest_pb2, query_pb2
from tests.support.clients import Kind
from tests.support.scripted import Script, scripted_server

Connect = Callable[..., NestvecClient]
LIMIT = 64 * 1024

ids = st.text(max_size=8)
texts = st.one_of(
    st.text(max_size=40), st.just("\ud800"), st.integers(0, LIMIT * 2).map(lambda n: "x" * n)
)
documents = st.lists(st.builds(IngestDocument, ids, texts), max_size=30)


def _run(batch_size: int = 4, first_offset: int = 0, **named: Any) -> IngestRun:
    return IngestRun(
        "docs",
        "f" * 16,
        first_offset=first_offset,
        batch_size=batch_size,
        max_message_bytes=LIMIT,
        on_progress=named.pop("on_progress", None),
        **named,
    )


def _messages(run: IngestRun, given: list[IngestDocument]) -> list[Any]:
    complete = [run.add(document) for document in given]
    return [message for message in (*complete, run.flush()) if message is not None]


@given(documents, st.integers(1, 9), st.integers(0, 5))
def test_every_document_has_one_offset_and_no_message_is_too_large(
    given: list[IngestDocument], batch_size: int, first_offset: int
) -> None:
    messages = _messages(_run(batch_size, first_offset), given)
    expected = first_offset
    for number, message in enumerate(messages):
        assert message.first_offset == expected
        assert 1 <= len(message.documents) <= batch_size
        assert message.ByteSize() <= LIMIT
        assert message.HasField("vector_space") == (number == 0)
        expected += len(message.documents)
    assert expected == first_offset + len(given)


@given(documents, st.integers(1, 9))
def test_what_the_server_refuses_and_what_is_refused_here_are_told_apart_by_offset(
    given: list[IngestDocument], batch_size: int
) -> None:
    run = _run(batch_size)
    for message in _messages(run, given):
        # A server that refuses every document without an id, as the real one does.
        errors = [
            ingest_pb2.IngestError(
                offset=offset,
                id=one.document.id,
                reason=ingest_pb2.INGEST_ERROR_REASON_INVALID,
                message="from the server",
            )
            for offset, one in enumerate(message.documents, message.first_offset)
            if not one.document.id
        ]
        run.settle(
            ingest_pb2.IngestDocumentsResponse(
                acknowledged_offset=message.first_offset + len(message.documents) - 1,
                errors=errors,
                indexed=len(message.documents) - len(errors),
            )
        )
    report = run.finished()
    assert report.indexed + report.failed == len(given)
    for failure in report.failures:
        document = given[failure.offset]
        assert failure.id == document.id
        own = document.text == "\ud800" or len(document.text) > LIMIT // 2
        if failure.message != "from the server":
            assert own
        else:
            assert not document.id


def _sent_until_full(run: IngestRun) -> int:
    for sent in range(1, 100):
        run.add(IngestDocument(f"d{sent}", "text"))
        if run.is_full:
            return sent
    raise AssertionError("never full")


def test_a_run_is_full_after_one_message_and_later_after_several() -> None:
    run = _run(batch_size=1)
    assert _sent_until_full(run) == 1
    run.settle(ingest_pb2.IngestDocumentsResponse(acknowledged_offset=0, indexed=1))
    several = _sent_until_full(run)
    assert 2 <= several <= 10
    # One response may settle several messages.
    run.settle(ingest_pb2.IngestDocumentsResponse(acknowledged_offset=several, indexed=several))
    assert _sent_until_full(run) == several


def test_a_document_of_a_wrong_kind_is_reported_with_what_was_expected() -> None:
    bad: list[Any] = [
        IngestDocument("a", 7),  # type: ignore[arg-type]
        IngestDocument(None, "text"),  # type: ignore[arg-type]
        IngestDocument("b", "text", {"f": None}),  # type: ignore[dict-item]
        IngestDocument("c", "text", vector="no"),  # type: ignore[arg-type]
        "not a document",
    ]
    run = _run(batch_size=len(bad))
    message = _messages(run, bad)[0]
    assert [one.document.id for one in message.documents] == [""] * len(bad)
    errors = [ingest_pb2.IngestError(offset=offset) for offset in range(len(bad))]
    run.settle(ingest_pb2.IngestDocumentsResponse(acknowledged_offset=len(bad) - 1, errors=errors))
    assert [failure.message for failure in run.finished().failures] == [
        "document.text: a int, expected a string",
        "document.id: a NoneType, expected a string",
        "document.fields.f: a NoneType, expected a string, integer, double or bool",
        "document.vector: shape () of <U2, expected (dim,) of floats",
        "'str' object has no attribute 'id'",
    ]


# --- streams that break -------------------------------------------------------------------------


def _endless() -> Iterator[IngestDocument]:
    for number in itertools.count():
        yield IngestDocument(f"d{number}", "text")


def _acknowledge(message: Any) -> ingest_pb2.IngestDocumentsResponse:
    count = len(message.documents)
    return ingest_pb2.IngestDocumentsResponse(
        acknowledged_offset=message.first_offset + count - 1, indexed=count
    )


def _abort(context: grpc.ServicerContext, error: NestvecError) -> None:
    context.set_trailing_metadata(trailers_of(error))
    context.abort(code_of(error), str(error))


def _breaking_after(acknowledged: int, error: NestvecError) -> Callable[[Any, Any], Any]:
    def ingest(requests: Any, context: Any) -> Iterator[Any]:
        for message in itertools.islice(requests, acknowledged):
            yield _acknowledge(message)
        next(requests)
        _abort(context, error)

    return ingest


def _is_cause(error: IngestInterrupted, kind: Kind, expected: type[Exception]) -> bool:
    """The server's own error, unless grpc.aio lost it."""
    lost = kind == "async" and "lost the reason" in str(error.__cause__)
    return lost or isinstance(error.__cause__, expected)


def test_a_stream_that_breaks_tells_where_to_resume(connect: Connect, kind: Kind) -> None:
    script = Script(ingest=_breaking_after(2, StoreUnavailable("store is down")))
    with scripted_server(script) as address, pytest.raises(IngestInterrupted) as caught:
        connect(address).index("docs", _endless(), batch_size=10)
    error = caught.value
    assert (error.acknowledged_offset, error.resume_at, error.report.indexed) == (19, 20, 20)
    assert _is_cause(error, kind, StoreUnavailable)
    assert "resume at offset 20" in str(error)


def test_a_transient_failure_before_anything_was_acknowledged_resumes_at_the_start(
    connect: Connect,
) -> None:
    script = Script(ingest=_breaking_after(0, StoreUnavailable("store is down")))
    with scripted_server(script) as address, pytest.raises(IngestInterrupted) as caught:
        connect(address).index("docs", _endless(), first_offset=40)
    assert caught.value.resume_at == 40


def test_a_stream_refused_as_a_whole_raises_the_refusal_itself(connect: Connect) -> None:
    script = Script(ingest=_breaking_after(0, NotFound("collection", "docs")))
    with scripted_server(script) as address, pytest.raises(NotFound) as caught:
        connect(address).index("docs", _endless())
    assert (caught.value.kind, caught.value.name) == ("collection", "docs")


def test_a_collection_that_goes_in_the_middle_still_tells_the_offset(
    connect: Connect, kind: Kind
) -> None:
    script = Script(ingest=_breaking_after(1, NotFound("collection", "docs")))
    with scripted_server(script) as address, pytest.raises(IngestInterrupted) as caught:
        connect(address).index("docs", _endless(), batch_size=3)
    assert caught.value.resume_at == 3
    assert _is_cause(caught.value, kind, NotFound)


def test_a_stream_that_ends_early_is_no_success(connect: Connect) -> None:
    def ingest(requests: Any, _: Any) -> Iterator[Any]:
        yield _acknowledge(next(requests))

    few = [IngestDocument(f"d{number}", "text") for number in range(6)]
    with (
        scripted_server(Script(ingest=ingest)) as address,
        pytest.raises(IngestInterrupted) as caught,
    ):
        connect(address).index("docs", few, batch_size=2)
    assert caught.value.resume_at == 2
    assert isinstance(caught.value.__cause__, WorkerUnavailable)


def test_a_server_that_goes_away_interrupts(connect: Connect) -> None:
    """The connection closes in the middle of the stream."""
    script = Script()

    def ingest(requests: Any, _: Any) -> Iterator[Any]:
        yield _acknowledge(next(requests))
        script.done.wait(30)
        yield from map(_acknowledge, requests)

    script.ingest = ingest
    with ExitStack() as stack:
        address = stack.enter_context(scripted_server(script))

        def stop(_: Any) -> None:
            threading.Thread(target=stack.close).start()

        with pytest.raises(IngestInterrupted) as caught:
            connect(address).index("docs", _endless(), batch_size=5, on_progress=stop)
    assert caught.value.resume_at >= 5
    assert isinstance(caught.value.__cause__, WorkerUnavailable)


def test_a_server_that_acknowledges_nothing_is_given_up_and_not_flooded(connect: Connect) -> None:
    script = Script()
    arrived: list[int] = []

    def ingest(requests: Any, _: Any) -> Iterator[Any]:
        arrived.extend(message.first_offset for message in requests)
        yield from ()

    script.ingest = ingest
    taken = [0]

    def counted() -> Iterator[IngestDocument]:
        for document in _endless():
            taken[0] += 1
            yield document

    with scripted_server(script) as address:
        started = time.monotonic()
        with pytest.raises(IngestInterrupted) as caught:
            connect(address).index("docs", counted(), batch_size=10, timeout_s=0.5)
        assert 0.4 < time.monotonic() - started < 15.0
    assert isinstance(caught.value.__cause__, BudgetSpent)
    assert caught.value.resume_at == 0
    # Bounded in flight: the caller's documents are not read ahead of the server.
    assert taken[0] <= 20
    assert arrived == [0]


def test_responses_are_read_while_messages_are_written(connect: Connect) -> None:
    """A server whose refusals fill its side of the connection must not lock the client up."""

    def ingest(requests: Any, _: Any) -> Iterator[Any]:
        for message in requests:
            response = _acknowledge(message)
            response.indexed = 0
            for offset, one in enumerate(message.documents, message.first_offset):
                response.errors.add(offset=offset, id=one.document.id, message="no " * 1000)
            yield response

    given = [IngestDocument(f"d{number}", "text " * 400) for number in range(600)]
    with scripted_server(Script(ingest=ingest)) as address:
        report = connect(address).index("docs", given, batch_size=50, timeout_s=10.0)
    assert report.failed == 600


def test_the_report_keeps_a_bounded_number_of_failures() -> None:
    run = _run(batch_size=20_000)
    for number in range(12_000):
        run.add(IngestDocument(f"d{number}", ""))
    run.flush()
    errors = [ingest_pb2.IngestError(offset=offset) for offset in range(12_000)]
    seen: list[Any] = []
    run._on_progress = seen.append
    run.settle(ingest_pb2.IngestDocumentsResponse(acknowledged_offset=11_999, errors=errors))
    assert run.report().failed == 12_000
    assert len(run.report().failures) == 10_000
    assert len(seen[0].failures) == 12_000


# --- streams that can be resumed ------------------------------------------------------------------


class Memory:
    """A server that remembers a stream, as far as a client can tell. breaks_after: messages of one
    connection.
    """

    def __init__(self) -> None:
        self.next = 0
        self.messages: list[Any] = []
        self.breaks_after = 1000

    def __call__(self, requests: Any, context: Any) -> Iterator[Any]:
        yield from self._greeting(first := next(requests))
        for number, message in enumerate(itertools.chain([first], requests)):
            self.messages.append(message)
            if number >= self.breaks_after:
                _abort(context, StoreUnavailable("down"))
            assert message.first_offset <= self.next, "a gap"
            stop = message.first_offset + len(message.documents)
            fresh = max(stop - self.next, 0)
            self.next += fresh
            yield ingest_pb2.IngestDocumentsResponse(
                acknowledged_offset=self.next - 1, indexed=fresh, watermark=b"%d" % self.next
            )

    def _greeting(self, first: Any) -> Iterator[Any]:
        assert first.stream_id == "s"
        yield ingest_pb2.IngestDocumentsResponse(
            acknowledged_offset=self.next - 1, watermark=b"%d" % self.next
        )

    def offsets(self) -> list[int]:
        return [message.first_offset for message in self.messages]


def _some(count: int) -> list[IngestDocument]:
    return [IngestDocument(f"d{number}", f"text {number}") for number in range(count)]


def test_a_stream_is_resumed_by_the_same_call_and_sends_all_to_be_compared(
    connect: Connect,
) -> None:
    memory = Memory()
    with scripted_server(Script(ingest=memory)) as address:
        client = connect(address)
        memory.breaks_after = 3
        with pytest.raises(IngestInterrupted) as caught:
            client.index("docs", _some(100), batch_size=10, stream_id="s")
        assert caught.value.acknowledged_offset == 29
        memory.breaks_after = 1000
        memory.messages.clear()
        report = client.index("docs", _some(100), batch_size=10, stream_id="s")
    assert memory.offsets() == list(range(0, 100, 10)), "what is acknowledged, to be compared"
    assert (report.indexed, report.failed, report.skipped) == (70, 0, 30)
    assert (report.acknowledged_offset, report.watermark) == (99, b"100")


def test_a_stream_that_is_done_writes_nothing_again(connect: Connect) -> None:
    memory = Memory()
    memory.next = 100
    with scripted_server(Script(ingest=memory)) as address:
        report = connect(address).index("docs", _some(100), batch_size=10, stream_id="s")
    assert memory.offsets() == list(range(0, 100, 10))
    assert (report.indexed, report.skipped) == (0, 100)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9), st.integers(0, 5))
def test_wherever_a_stream_was_every_document_is_sent_once(
    count: int, acknowledged: int, batch_size: int, first_offset: int
) -> None:
    """Also where large documents close a message before its batch is full."""
    run = _run(batch_size, first_offset, stream_id="s")
    memory = Memory()
    memory.next = first_offset + acknowledged
    sent: list[Any] = []

    def send(message: Any) -> None:
        if message is None:
            return
        sent.append(message)
        if len(sent) == 1:
            run.settle(next(memory._greeting(message)))

    for number in range(count):
        size = LIMIT // 2 if number % 3 == 0 else 1
        send(run.add(IngestDocument(f"d{number}", "x" * size)))
    send(run.flush())
    offsets = [
        offset
        for message in sent
        for offset in range(message.first_offset, message.first_offset + len(message.documents))
    ]
    assert offsets == list(range(first_offset, first_offset + count))
    by_offset = {
        message.first_offset + number: one.document.id
        for message in sent
        for number, one in enumerate(message.documents)
    }
    assert all(name == f"d{offset - first_offset}" for offset, name in by_offset.items())
    assert run.report().skipped == (min(acknowledged, count) if count else 0)


def test_a_stream_id_used_for_other_documents_raises_the_conflict_itself(connect: Connect) -> None:
    script = Script(ingest=_breaking_after(0, StreamConflict("s", 3)))
    with scripted_server(script) as address, pytest.raises(StreamConflict) as caught:
        connect(address).index("docs", _some(5), stream_id="s")
    assert caught.value.stream_id == "s"


def test_acknowledgements_versions_and_stream_ids_are_sent_as_asked(connect: Connect) -> None:
    seen: list[Any] = []

    def ingest(requests: Any, _: Any) -> Iterator[Any]:
        for message in requests:
            seen.append(message)
            yield _acknowledge(message)

    with scripted_server(Script(ingest=ingest)) as address:
        client = connect(address)
        client.index("docs", [IngestDocument("a", "text", version=7)], ack="stored")
        client.index("docs", [IngestDocument("a", "text")])
    assert [message.ack for message in seen] == [
        ingest_pb2.ACK_LEVEL_STORED,
        ingest_pb2.ACK_LEVEL_SEARCHABLE,
    ]
    assert [message.documents[0].version for message in seen] == [7, 0]
    assert [message.stream_id for message in seen] == ["", ""]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"ack": "found"}, "ack: 'found', expected one of stored, searchable"),
        ({"stream_id": ""}, "stream_id: empty"),
        ({"stream_id": "\ud800"}, "stream_id: half a character"),
    ],
)
def test_what_no_server_could_take_is_refused_before_anything_is_sent(
    named: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        _run(**named)


@pytest.mark.parametrize("version", [-1, 2**63, "1"])
def test_an_impossible_version_is_reported_for_its_document(version: Any) -> None:
    run = _run(batch_size=1)
    run.add(IngestDocument("a", "text", version=version))
    error = ingest_pb2.IngestError(offset=0, message="from the server")
    run.settle(ingest_pb2.IngestDocumentsResponse(acknowledged_offset=0, errors=[error]))
    (failure,) = run.finished().failures
    assert failure.message == f"version: {version!r}, expected 0 to 2**63 - 1"


def test_a_stale_document_is_told_by_its_own_reason() -> None:
    run = _run(batch_size=1)
    run.add(IngestDocument("a", "text", version=1))
    stale = ingest_pb2.INGEST_ERROR_REASON_STALE
    error = ingest_pb2.IngestError(offset=0, id="a", reason=stale, message="older")
    run.settle(ingest_pb2.IngestDocumentsResponse(acknowledged_offset=0, errors=[error]))
    (failure,) = run.finished().failures
    assert failure.reason is IngestReason.STALE


def test_a_delete_takes_a_version_and_brings_back_what_stayed(connect: Connect) -> None:
    seen: list[Any] = []

    def delete(request: Any, _: Any) -> ingest_pb2.DeleteDocumentsResponse:
        seen.append(request)
        return ingest_pb2.DeleteDocumentsResponse(
            deleted=1, missing_ids=["m"], stale_ids=["s"], watermark=b"w"
        )

    with scripted_server(Script(delete=delete)) as address:
        client = connect(address)
        result = client.delete("docs", ["a", "m", "s"], version=9, ack="stored")
        client.delete("docs", ["a"])
        with pytest.raises(InvalidRequest, match="version"):
            client.delete("docs", ["a"], version=2**63)
    assert (result.deleted, result.missing_ids, result.stale_ids) == (1, ("m",), ("s",))
    assert result.watermark == b"w"
    assert [(one.version, one.ack) for one in seen] == [
        (9, ingest_pb2.ACK_LEVEL_STORED),
        (0, ingest_pb2.ACK_LEVEL_SEARCHABLE),
    ]


def test_a_search_passes_the_watermark_on(connect: Connect) -> None:
    seen: list[bytes] = []

    def search(request: Any, _: Any) -> query_pb2.SearchResponse:
        seen.append(request.options.watermark)
        return query_pb2.SearchResponse()

    with scripted_server(Script(search=search)) as address:
        connect(address).search("docs", "text", watermark=b"mark")
    assert seen == [b"mark"]
