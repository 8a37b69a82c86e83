"""One run of `index`, without the I/O: documents into messages, acknowledgements into a report.

Both clients drive it the same way: `add` every document and send what it returns, `settle` one
response whenever the run is full, `flush` at the end, then settle what is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from nestvec.client.calls import ack_to_wire, as_invalid
from nestvec.client.values import (
    AckName,
    IngestDocument,
    IngestFailure,
    IngestProgress,
    IngestReason,
    IngestReport,
)
from nestvec.core.clock import MAX_VERSION
from nestvec.core.codec import floats_to_bytes
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.rpc.field_wire import fields_to_wire
from nestvec.v1 import common_pb2, ingest_pb2

IngestMessage = ingest_pb2.IngestDocumentsRequest

# Messages sent and not yet acknowledged. The server prepares three while it commits one.
_IN_FLIGHT = 5
# A message is closed at this size, whatever the batch size: several are in memory on both sides.
_MESSAGE_BYTES = 2 * 1024 * 1024
# What a message holds beside its documents.
_OVERHEAD_BYTES = 4 * 1024
_FAILURES_KEPT = 10_000
_TRANSIENT = (WorkerUnavailable, StoreUnavailable, Overloaded, BudgetSpent)
_REASONS = {
    ingest_pb2.INGEST_ERROR_REASON_INVALID: IngestReason.INVALID,
    ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE: IngestReason.UNAVAILABLE,
    ingest_pb2.INGEST_ERROR_REASON_SUPERSEDED: IngestReason.SUPERSEDED,
    ingest_pb2.INGEST_ERROR_REASON_STALE: IngestReason.STALE,
}


class IngestInterrupted(NestvecError):
    """The stream of an `index` broke; `__cause__` says why.

    Every document up to and including `acknowledged_offset` is searchable (or stored, where that
    was asked), or stands among the report's failures. Later ones may or may not be: send them
    again, from `resume_at` on, with `first_offset=resume_at`; or with a `stream_id`, make the same
    call again. Writing a document twice changes nothing.
    """

    def __init__(self, cause: NestvecError, report: IngestReport) -> None:
        super().__init__(
            f"indexing stopped after offset {report.acknowledged_offset}: {cause}; "
            f"resume at offset {report.acknowledged_offset + 1}"
        )
        self.report = report
        self.acknowledged_offset = report.acknowledged_offset
        self.resume_at = report.acknowledged_offset + 1


def texts_alone(documents: object) -> bool:
    """Whether these may be sent again, and bring no vectors: then it does not matter to them that
    the collection has moved to another model since its space was learnt.
    """
    return isinstance(documents, Sequence) and all(
        getattr(one, "vector", None) is None for one in documents
    )


class IngestRun:
    """Offsets, bounds and counts of one run."""

    def __init__(
        self,
        collection: str,
        fingerprint: str,
        *,
        first_offset: int,
        stream_id: str | None = None,
        ack: AckName = "searchable",
        batch_size: int,
        max_message_bytes: int,
        on_progress: Callable[[IngestProgress], None] | None,
    ) -> None:
        if batch_size < 1:
            raise InvalidRequest("batch_size", f"{batch_size}, expected at least 1")
        if first_offset < 0:
            raise InvalidRequest("first_offset", f"{first_offset}, expected 0 or more")
        if stream_id == "":
            raise InvalidRequest("stream_id", "empty, expected 1 to 128 bytes, or None")
        self._batch_size = batch_size
        self._document_limit = max_message_bytes - _OVERHEAD_BYTES
        self._message_limit = min(_MESSAGE_BYTES, self._document_limit)
        self._on_progress = on_progress
        level = ack_to_wire(ack)
        with as_invalid("collection"):
            # Without a dimension: a collection takes full vectors and those it stores.
            self._message = IngestMessage(
                collection=collection,
                vector_space=common_pb2.SpaceRef(fingerprint=fingerprint),
                first_offset=first_offset,
                ack=level,
            )
        with as_invalid("stream_id"):
            self._message.stream_id = stream_id or ""
        self._resumable = stream_id is not None
        self._first_offset = first_offset
        # The first offset that no earlier call had acknowledged.
        self._resumed_at = first_offset
        self._message_bytes = 0
        self._next_offset = first_offset
        self._acknowledged = first_offset - 1
        self._indexed = 0
        self._failed = 0
        self._failures: list[IngestFailure] = []
        self._answered = False
        self._watermark = b""
        # The last offset of every message that is not acknowledged.
        self._in_flight: deque[int] = deque()
        # Refused here; the server is sent an empty stand-in, so that offsets stay without gaps.
        self._refused: dict[int, IngestFailure] = {}

    # --- sending --------------------------------------------------------------------------------

    def add(self, document: IngestDocument) -> IngestMessage | None:
        """Take the next document. Returns a message when one is complete.

        What an earlier call had acknowledged is sent as well: the server compares it, and neither
        encodes nor writes it again. Left out, a change to it would pass without a word.
        """
        wire, size = self._written(document)
        complete = None
        if self._message.documents and self._message_bytes + size > self._message_limit:
            complete = self.flush()
        self._message.documents.append(wire)
        self._message_bytes += size
        self._next_offset += 1
        if len(self._message.documents) >= self._batch_size:
            # Never both: a batch of one leaves nothing behind that could have been closed above.
            complete = self.flush()
        return complete

    def flush(self) -> IngestMessage | None:
        """The message begun, if any."""
        if not self._message.documents:
            return None
        message = self._message
        self._in_flight.append(self._next_offset - 1)
        self._message = IngestMessage(first_offset=self._next_offset)
        self._message_bytes = 0
        return message

    @property
    def is_full(self) -> bool:
        """Whether a response must be settled before more is sent.

        The first message goes alone: the server refuses a whole stream by it, and grpc.aio loses
        the reason of a refusal that meets another message on its way (grpc issue 36066).
        """
        return len(self._in_flight) >= (_IN_FLIGHT if self._answered else 1)

    def _written(self, document: IngestDocument) -> tuple[ingest_pb2.IngestDocument, int]:
        try:
            wire = _to_wire(document)
            size = wire.ByteSize()
            if size <= self._document_limit:
                return wire, size
            problem = (
                f"{size:,} bytes, at most {self._document_limit:,} fit into a message; "
                f"split it into passages"
            )
        except UnicodeEncodeError as error:
            problem = f"half a character (a lone surrogate) at position {error.start}"
        except (TypeError, ValueError, AttributeError, InvalidRequest) as error:
            problem = str(error)
        self._refused[self._next_offset] = IngestFailure(
            self._next_offset, _printable_id(document), IngestReason.INVALID, problem
        )
        return ingest_pb2.IngestDocument(), 0

    # --- settling -------------------------------------------------------------------------------

    def settle(self, response: ingest_pb2.IngestDocumentsResponse) -> None:
        """Count one acknowledgement, and tell of it."""
        if self._resumable and not self._answered:
            self._resumed_at = response.acknowledged_offset + 1
        self._answered = True
        self._acknowledged = response.acknowledged_offset
        self._watermark = response.watermark
        while self._in_flight and self._in_flight[0] <= self._acknowledged:
            self._in_flight.popleft()
        failures = tuple(self._failure(error) for error in response.errors)
        self._indexed += response.indexed
        self._failed += len(failures)
        self._failures.extend(failures[: _FAILURES_KEPT - len(self._failures)])
        if self._on_progress is not None:
            self._on_progress(
                IngestProgress(self._acknowledged, self._indexed, self._failed, failures)
            )

    def _failure(self, error: ingest_pb2.IngestError) -> IngestFailure:
        mine = self._refused.pop(error.offset, None)
        if mine is not None:
            return mine
        reason = _REASONS.get(error.reason, IngestReason.INVALID)
        return IngestFailure(error.offset, error.id, reason, error.message)

    def report(self) -> IngestReport:
        """What became of all so far."""
        return IngestReport(
            self._acknowledged,
            self._indexed,
            self._failed,
            tuple(self._failures),
            self._watermark,
            min(self._resumed_at, self._next_offset) - self._first_offset,
        )

    def finished(self) -> IngestReport:
        """The report of a stream that ended well. Raises IngestInterrupted when it ended early."""
        if self._in_flight:
            self.fail(WorkerUnavailable("the server ended the stream early"))
        return self.report()

    def fail(self, cause: NestvecError) -> NoReturn:
        """Raise what a broken stream means. A refusal of the whole stream (an unknown collection,
        another space) before anything was acknowledged needs no offset, and is raised as it came.
        """
        if not self._answered and not isinstance(cause, _TRANSIENT):
            raise cause from None
        raise IngestInterrupted(cause, self.report()) from cause


def _to_wire(document: IngestDocument) -> ingest_pb2.IngestDocument:
    """Raises InvalidRequest, UnicodeEncodeError, or ValueError for an integer over 64 bits."""
    wire = ingest_pb2.IngestDocument()
    wire.document.id = _string(document.id, "document.id")
    wire.document.text = _string(document.text, "document.text")
    for name, value in document.fields.items():
        _require_scalar(value, f"document.fields.{name}")
    for name, field in fields_to_wire(document.fields).items():
        wire.document.fields[name].CopyFrom(field)
    if document.vector is not None:
        wire.vector = _vector_bytes(document.vector)
    wire.version = _version(document.version)
    return wire


def _string(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(field, f"a {type(value).__name__}, expected a string")
    return value


def _version(version: object) -> int:
    if not isinstance(version, int) or not 0 <= version <= MAX_VERSION:
        raise InvalidRequest("version", f"{version!r}, expected 0 to 2**63 - 1")
    return version


def _require_scalar(value: object, field: str) -> None:
    if not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise InvalidRequest(field, f"a {kind}, expected a string, integer, double or bool")


def _vector_bytes(vector: NDArray[Any]) -> bytes:
    array = np.asarray(vector)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        raise InvalidRequest(
            "document.vector", f"shape {array.shape} of {array.dtype}, expected (dim,) of floats"
        )
    return floats_to_bytes(array.astype(np.float32, copy=False))


def _printable_id(document: IngestDocument) -> str:
    return str(getattr(document, "id", "")).encode(errors="replace").decode()[:512]
