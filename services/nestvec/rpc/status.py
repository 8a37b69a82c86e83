"""One table between the error tree and gRPC statuses, read in both directions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from nestvec.core import errors

_DETAILS_KEY = "grpc-status-details-bin"
# Tells a gRPC client's retry policy not to try again (gRFC A6): the same shards would be missing.
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")
_DOMAIN = "nestvec"
# How gRPC itself, at either end, refuses a message over its limit, under RESOURCE_EXHAUSTED.
_TOO_LARGE = "message larger than max"
# A status travels in headers, and gRPC clients refuse more than 8 KiB of them. A message may quote
# a caller's input and stands in the details up to six times, so each text is cut here, in bytes.
_LONGEST_TEXT = 600

# Subclasses before their bases: the first match holds.
_CODES: tuple[tuple[type[errors.NestvecError], grpc.StatusCode], ...] = (
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.SpaceMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NotCalibrated, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.BelowCoverage, grpc.StatusCode.UNAVAILABLE),
    (errors.StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.WorkerUnavailable, grpc.StatusCode.UNAVAILABLE),  # and LeaseLost
    (errors.BudgetSpent, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.CorruptVector, grpc.StatusCode.DATA_LOSS),
    (errors.StreamConflict, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.StreamTakenOver, grpc.StatusCode.ABORTED),
    (errors.SnapshotFailed, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.MigrationRefused, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ConfigError, grpc.StatusCode.FAILED_PRECONDITION),
)


def code_of(error: errors.NestvecError) -> grpc.StatusCode:
    """The gRPC status of an error of the tree."""
    return code_of_kind(type(error))


def code_of_kind(kind: type[errors.NestvecError]) -> grpc.StatusCode:
    """Of all errors of a class, and of those that it is a base of where they have none of their
    own.
    """
    return next(code for known, code in _CODES if issubclass(kind, known))


def first_of(error: BaseException) -> BaseException:
    """Of a TaskGroup's errors, the one that says why."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def code_of_end(error: BaseException) -> grpc.StatusCode:
    """Of whatever a call ended with: what is none of these errors is INTERNAL."""
    error = first_of(error)
    if isinstance(error, errors.NestvecError):
        return code_of(error)
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code()
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.INTERNAL


def code_by_number(number: int) -> grpc.StatusCode:
    """As a google.rpc.Status has it. One that no version of gRPC knows is UNKNOWN."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def message_of(error: errors.NestvecError) -> str:
    """What the caller reads: the error's message, cut where it quotes too much."""
    return _clipped(str(error))


def status_of(error: errors.NestvecError) -> status_pb2.Status:
    """Code, message and google.rpc details: all that `error_from_status` needs."""
    status = status_pb2.Status(code=code_of(error).value[0], message=message_of(error))
    for detail in _details_of(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def trailers_of(
    error: errors.NestvecError, status: status_pb2.Status | None = None
) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: google.rpc details, and retry push-back where retrying is pointless.
    status: of this error, where it is made already.
    """
    if status is None:
        status = status_of(error)
    trailers: list[tuple[str, str | bytes]] = [(_DETAILS_KEY, status.SerializeToString())]
    if isinstance(error, errors.BelowCoverage):
        trailers.append(_NO_RETRY)
    return tuple(trailers)


def _details_of(error: errors.NestvecError) -> list[Any]:
    """ErrorInfo always, so that a client can tell the error's class; more where there is more."""
    facts = {key: _clipped(_fact(value)) for key, value in vars(error).items()}
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=_reason(type(error)), domain=_DOMAIN, metadata=facts)
    ]
    if isinstance(error, errors.InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_clipped(error.field), description=_clipped(error.message)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, errors.NotFound | errors.AlreadyExists):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=error.kind, resource_name=_clipped(error.name)
            )
        )
    elif isinstance(error, errors.Overloaded):
        delay = duration_pb2.Duration(nanos=0)
        delay.FromMilliseconds(round(error.retry_after_s * 1e3))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _clipped(text: str) -> str:
    data = text.encode(errors="replace")
    if len(data) <= _LONGEST_TEXT:
        return text
    return data[: _LONGEST_TEXT - 3].decode(errors="ignore") + "..."


def _fact(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _reason(kind: type[errors.NestvecError]) -> str:
    """TierNotTrained -> TIER_NOT_TRAINED, as google.rpc.ErrorInfo asks."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()


# --- the way back -------------------------------------------------------------------------------


def error_from(call: grpc.RpcError, peer: str) -> errors.NestvecError:
    """The error that a server raised, as one of the tree.

    A status with our details gets its own class back; a bare one, such as gRPC's own UNAVAILABLE
    when nothing listens, becomes WorkerUnavailable naming the peer.
    """
    return _rebuilt(call.code(), call.details() or "", _info_of(call), peer)


def error_from_status(status: status_pb2.Status, peer: str) -> errors.NestvecError:
    """As `error_from`, of what `status_of` made."""
    return _rebuilt(code_by_number(status.code), status.message, _info_in(status), peer)


def _rebuilt(
    code: grpc.StatusCode, message: str, info: error_details_pb2.ErrorInfo | None, peer: str
) -> errors.NestvecError:
    kind = None if info is None else _BY_REASON.get(info.reason)
    if info is not None and kind is not None:
        facts = {key: _READERS.get(key, str)(value) for key, value in info.metadata.items()}
        return errors.rebuilt(kind, message, facts)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.BudgetSpent(peer)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LARGE in message:
            return errors.InvalidRequest("", f"{peer}: {message} bytes; send less in one call")
        return errors.Overloaded(f"{peer}: {message}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidRequest("", f"{peer}: {message}")
    return errors.WorkerUnavailable(f"{peer} answered {code.name}: {message}")


def _info_of(call: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    trailers: Any = call.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS_KEY:
            return _info_in(status_pb2.Status.FromString(value))
    return None


def _info_in(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Is(info.DESCRIPTOR) and packed.Unpack(info) and info.domain == _DOMAIN:
            return info
    return None


def _kinds(root: type[errors.NestvecError]) -> Iterator[type[errors.NestvecError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_BY_REASON = {_reason(kind): kind for kind in _kinds(errors.NestvecError)}


def _numbers(value: str) -> tuple[int, ...]:
    # The last one may have been cut.
    return tuple(int(number) for number in value.split(",") if number.isdigit())


# Attributes of the tree that are not texts.
_READERS: dict[str, Callable[[str], Any]] = {
    "retry_after_s": float,
    "fraction": float,
    "required": float,
    "dim": int,
    "offset": int,
    "trained": _numbers,
}
