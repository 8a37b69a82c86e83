"""One table between the error tree and gRPC statuses, read in both directions."""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from nestvec.core import errors

_DETAILS_KEY = "grpc-status-details-bin"
# Tells a gRPC client's retry policy not to try again (gRFC A6): the same shards would be missing.
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")
_DOMAIN = "nestvec"

# Subclasses before their bases: the first match holds.
_CODES: tuple[tuple[type[errors.NestvecError], grpc.StatusCode], ...] = (
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.SpaceMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.BelowCoverage, grpc.StatusCode.UNAVAILABLE),
    (errors.StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.WorkerUnavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.BudgetSpent, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.CorruptVector, grpc.StatusCode.DATA_LOSS),
    (errors.ConfigError, grpc.StatusCode.FAILED_PRECONDITION),
)


def code_of(error: errors.NestvecError) -> grpc.StatusCode:
    """The gRPC status of an error of the tree."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def trailers_of(error: errors.NestvecError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: google.rpc details, and retry push-back where retrying is pointless."""
    status = status_pb2.Status(code=code_of(error).value[0], message=str(error))
    for detail in _details_of(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers: list[tuple[str, str | bytes]] = [(_DETAILS_KEY, status.SerializeToString())]
    if isinstance(error, errors.BelowCoverage):
        trailers.append(_NO_RETRY)
    return tuple(trailers)


def _details_of(error: errors.NestvecError) -> list[Any]:
    """ErrorInfo always, so that a client can tell the error's class; more where there is more."""
    facts = {key: str(value) for key, value in vars(error).items()}
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=_reason(type(error)), domain=_DOMAIN, metadata=facts)
    ]
    if isinstance(error, errors.InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, errors.NotFound | errors.AlreadyExists):
        details.append(
            error_details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.name)
        )
    elif isinstance(error, errors.Overloaded):
        delay = duration_pb2.Duration(nanos=0)
        delay.FromMilliseconds(round(error.retry_after_s * 1e3))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _reason(kind: type[errors.NestvecError]) -> str:
    """TierNotTrained -> TIER_NOT_TRAINED, as google.rpc.ErrorInfo asks."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()


# --- the way back -------------------------------------------------------------------------------


def error_from(call: grpc.RpcError, peer: str) -> errors.NestvecError:
    """The error that a server raised, as one of the tree.

    A status with our details gets its own class back; a bare one, such as gRPC's own UNAVAILABLE
    when nothing listens, becomes WorkerUnavailable naming the peer.
    """
    code = call.code()
    message = call.details() or ""
    info = _info_of(call)
    if info is not None:
        return _rebuilt(info, message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.BudgetSpent(peer)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.Overloaded(f"{peer}: {message}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidRequest("", f"{peer}: {message}")
    return errors.WorkerUnavailable(f"{peer} answered {code.name}: {message}")


def _info_of(call: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    # Pairs, whatever the stubs say of grpc.RpcError; None on a call that never reached a server.
    trailers: Any = call.trailing_metadata()
    for key, value in trailers or ():
        if key != _DETAILS_KEY:
            continue
        status = status_pb2.Status.FromString(value)
        for packed in status.details:
            info = error_details_pb2.ErrorInfo()
            if packed.Is(info.DESCRIPTOR) and packed.Unpack(info) and info.domain == _DOMAIN:
                return info
    return None


_BY_REASON: dict[str, type[errors.NestvecError]] = {
    _reason(kind): kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.NestvecError)
}


def _rebuilt(info: error_details_pb2.ErrorInfo, message: str) -> errors.NestvecError:
    """An instance with the message that was sent; attributes come back as they were."""
    kind = _BY_REASON.get(info.reason, errors.NestvecError)
    rebuilt = kind.__new__(kind)
    Exception.__init__(rebuilt, message)
    for key, value in info.metadata.items():
        setattr(rebuilt, key, _number(value) if key in _NUMBERS else value)
    return rebuilt


_NUMBERS = {"retry_after_s", "fraction", "required", "dim"}


def _number(value: str) -> float | int:
    return int(value) if value.lstrip("-").isdigit() else float(value)
