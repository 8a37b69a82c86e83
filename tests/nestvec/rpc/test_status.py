"""One table in both directions: what a server raised is what its caller catches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core import errors
from nestvec.rpc.status import code_of, error_from, message_of, trailers_of

Code = grpc.StatusCode

EXAMPLES: dict[type[errors.NestvecError], errors.NestvecError] = {
    errors.InvalidRequest: errors.InvalidRequest("options.k", "0, expected 1 to 1000"),
    errors.TierNotTrained: errors.TierNotTrained("coarse_dim", 100, "m", (64, 128, 256)),
    errors.DegenerateVector: errors.DegenerateVector("query.vector", "zero vector"),
    errors.SpaceMismatch: errors.SpaceMismatch("00112233aabbccdd", "ffeeddcc44556677", "the query"),
    errors.NotCalibrated: errors.NotCalibrated("no plan reaches a recall of 0.99"),
    errors.NotFound: errors.NotFound("collection", "docs", "create it first"),
    errors.AlreadyExists: errors.AlreadyExists("collection", "docs", "drop it first"),
    errors.Overloaded: errors.Overloaded("too many wait", retry_after_s=0.25),
    errors.StoreUnavailable: errors.StoreUnavailable("the store does not answer"),
    errors.WorkerUnavailable: errors.WorkerUnavailable("shard 3 does not answer"),
    errors.LeaseLost: errors.LeaseLost("shard 3 lost its lease"),
    errors.BelowCoverage: errors.BelowCoverage(0.5, 0.875, "2 of 4 shards answered"),
    errors.BudgetSpent: errors.BudgetSpent("coarse"),
    errors.WouldNotFit: errors.WouldNotFit("cross_encode", 0.2, 0.05),
    errors.CorruptVector: errors.CorruptVector("doc 7", "3 bytes, expected 136"),
    errors.Unauthenticated: errors.Unauthenticated("no token"),
    errors.Forbidden: errors.Forbidden("the token does not cover writing"),
    errors.StreamConflict: errors.StreamConflict("nightly", 17),
    errors.StreamTakenOver: errors.StreamTakenOver("nightly"),
    errors.SnapshotFailed: errors.SnapshotFailed("no space left"),
    errors.MigrationRefused: errors.MigrationRefused("it is switched already"),
    errors.ConfigError: errors.ConfigError("two faiss wheels"),
}
CODES = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.TierNotTrained: Code.INVALID_ARGUMENT,
    errors.DegenerateVector: Code.INVALID_ARGUMENT,
    errors.SpaceMismatch: Code.FAILED_PRECONDITION,
    errors.NotCalibrated: Code.FAILED_PRECONDITION,
    errors.NotFound: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.StoreUnavailable: Code.UNAVAILABLE,
    errors.WorkerUnavailable: Code.UNAVAILABLE,
    errors.LeaseLost: Code.UNAVAILABLE,
    errors.BelowCoverage: Code.UNAVAILABLE,
    errors.BudgetSpent: Code.DEADLINE_EXCEEDED,
    errors.WouldNotFit: Code.DEADLINE_EXCEEDED,
    errors.CorruptVector: Code.DATA_LOSS,
    errors.Unauthenticated: Code.UNAUTHENTICATED,
    errors.Forbidden: Code.PERMISSION_DENIED,
    errors.StreamConflict: Code.FAILED_PRECONDITION,
    errors.StreamTakenOver: Code.ABORTED,
    errors.SnapshotFailed: Code.FAILED_PRECONDITION,
    errors.MigrationRefused: Code.FAILED_PRECONDITION,
    errors.ConfigError: Code.FAILED_PRECONDITION,
}


class Call(grpc.RpcError):
    """A finished call, as a client sees it."""

    def __init__(self, code: Code, details: str | None, trailers: Any = ()) -> None:
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> Code:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


def over_the_wire(error: errors.NestvecError) -> errors.NestvecError:
    return error_from(Call(code_of(error), message_of(error), trailers_of(error)), "peer")


def status_of(error: errors.NestvecError) -> status_pb2.Status:
    (value,) = [v for k, v in trailers_of(error) if k == "grpc-status-details-bin"]
    assert isinstance(value, bytes)
    return status_pb2.Status.FromString(value)


def details_of(error: errors.NestvecError, kind: Any) -> Any:
    for packed in status_of(error).details:
        detail = kind()
        if packed.Is(detail.DESCRIPTOR):
            packed.Unpack(detail)
            return detail
    return None


def kinds(root: type[errors.NestvecError] = errors.NestvecError) -> Iterator[type]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from kinds(kind)


# --- there and back -------------------------------------------------------------------------------


def test_the_examples_are_the_whole_tree() -> None:
    assert set(kinds()) == EXAMPLES.keys() == CODES.keys()


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_of_the_tree_has_its_status(kind: type[errors.NestvecError]) -> None:
    assert code_of(EXAMPLES[kind]) is CODES[kind]
    assert status_of(EXAMPLES[kind]).code == CODES[kind].value[0]


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_comes_back_as_itself_with_its_attributes(
    kind: type[errors.NestvecError],
) -> None:
    error = EXAMPLES[kind]
    back = over_the_wire(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert {key: type(value) for key, value in vars(back).items()} == {
        key: type(value) for key, value in vars(error).items()
    }
    assert over_the_wire(back).args == back.args, "and may be passed on"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(texts, texts)
def test_any_text_comes_back(field: str, message: str) -> None:
    error = errors.InvalidRequest(field, message)
    back = over_the_wire(error)
    assert isinstance(back, errors.InvalidRequest)
    if len(str(error).encode()) <= 600:
        assert (str(back), back.field, back.message) == (str(error), field, message)


@given(st.lists(st.integers(1, 1 << 16), max_size=8), st.floats(0, 1), st.floats(0, 1e6))
def test_any_numbers_come_back(trained: list[int], fraction: float, seconds: float) -> None:
    tier = over_the_wire(errors.TierNotTrained("f", 3, "m", tuple(trained)))
    assert isinstance(tier, errors.TierNotTrained)
    assert tier.trained == tuple(trained)
    coverage = over_the_wire(errors.BelowCoverage(fraction, 1.0, "x"))
    assert isinstance(coverage, errors.BelowCoverage)
    assert (coverage.fraction, coverage.required) == (fraction, 1.0)
    full = over_the_wire(errors.Overloaded("x", seconds))
    assert isinstance(full, errors.Overloaded)
    assert full.retry_after_s == seconds


# --- details for clients that are not ours --------------------------------------------------------


def test_a_bad_request_names_the_field() -> None:
    detail = details_of(EXAMPLES[errors.TierNotTrained], error_details_pb2.BadRequest)
    (violation,) = detail.field_violations
    assert violation.field == "coarse_dim"
    assert violation.description.startswith("tier 100 was not trained for m")


@pytest.mark.parametrize("kind", [errors.NotFound, errors.AlreadyExists])
def test_a_resource_is_named(kind: type[errors.NestvecError]) -> None:
    detail = details_of(EXAMPLES[kind], error_details_pb2.ResourceInfo)
    assert (detail.resource_type, detail.resource_name) == ("collection", "docs")


def test_overload_says_when_to_retry() -> None:
    detail = details_of(EXAMPLES[errors.Overloaded], error_details_pb2.RetryInfo)
    assert detail.retry_delay.ToMilliseconds() == 250


def test_a_mismatch_carries_both_fingerprints() -> None:
    info = details_of(EXAMPLES[errors.SpaceMismatch], error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("nestvec", "SPACE_MISMATCH")
    assert dict(info.metadata) == {"expected": "00112233aabbccdd", "got": "ffeeddcc44556677"}


def test_below_coverage_alone_tells_clients_not_to_retry() -> None:
    for kind, error in EXAMPLES.items():
        pushback = dict(trailers_of(error)).get("grpc-retry-pushback-ms")
        assert pushback == ("-1" if kind is errors.BelowCoverage else None)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("collection", "x" * 100_000),
        errors.InvalidRequest("options.search_class", f"no class {'ü' * 50_000!r}"),
        errors.InvalidRequest("🜁" * 50_000, "🜁" * 50_000),
        errors.SpaceMismatch("0" * 16, "f" * 100_000, "q" * 100_000),
        errors.TierNotTrained("f", 1, "m" * 100_000, tuple(range(1, 10_000))),
    ],
)
def test_whatever_a_caller_sent_the_status_fits_into_its_headers(
    error: errors.NestvecError,
) -> None:
    """A client refuses 8 KiB of trailers, and would see INTERNAL instead of the message."""
    message = message_of(error)
    percent_encoded = 3 * len(message.encode())
    details = sum(len(v) if isinstance(v, bytes) else 0 for _, v in trailers_of(error))
    assert percent_encoded + details * 4 / 3 < 7_500
    assert str(error).startswith(message.removesuffix("..."))
    assert message.endswith("...")
    assert status_of(error).message == message, "clients hold the two against each other"
    assert type(over_the_wire(error)) is type(error)


# --- statuses that are not ours -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, errors.WorkerUnavailable),
        (Code.UNIMPLEMENTED, errors.WorkerUnavailable),
        (Code.CANCELLED, errors.WorkerUnavailable),
        (Code.INTERNAL, errors.WorkerUnavailable),
        (Code.UNKNOWN, errors.WorkerUnavailable),
        (Code.DEADLINE_EXCEEDED, errors.BudgetSpent),
        (Code.RESOURCE_EXHAUSTED, errors.Overloaded),
        (Code.INVALID_ARGUMENT, errors.InvalidRequest),
    ],
)
def test_a_bare_status_names_the_peer(code: Code, kind: type[errors.NestvecError]) -> None:
    error = error_from(Call(code, "connection refused"), "shard 3")
    assert type(error) is kind
    assert "shard 3" in str(error)
    assert isinstance(code_of(error), Code)


def test_a_status_without_details_or_metadata_is_still_an_error() -> None:
    error = error_from(Call(Code.UNAVAILABLE, None, None), "encoder")
    assert str(error).startswith("encoder answered UNAVAILABLE")


@pytest.mark.parametrize(
    ("domain", "reason"), [("elsewhere.example", "NOT_FOUND"), ("nestvec", "NEW")]
)
def test_details_of_others_and_reasons_from_the_future_count_as_bare(
    domain: str, reason: str
) -> None:
    status = status_pb2.Status(code=14, message="m")
    packed = status.details.add()
    packed.Pack(error_details_pb2.ErrorInfo(domain=domain, reason=reason))
    trailers = (("x-request-id", "1"), ("grpc-status-details-bin", status.SerializeToString()))
    error = error_from(Call(Code.UNAVAILABLE, "m", trailers), "peer")
    assert type(error) is errors.WorkerUnavailable
    assert code_of(error) is Code.UNAVAILABLE
