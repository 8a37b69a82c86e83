"""Everything nestvec refuses or fails with, as one tree.

    NestvecError
    ├── InvalidRequest          the caller's input is wrong; names the field
    │   ├── TierNotTrained      a dimension the model was never trained at
    │   └── DegenerateVector    NaN, infinite, zero, or too short to normalise
    ├── SpaceMismatch           vectors of two models, prompts or recipes would meet
    ├── NotCalibrated           no measured plan stands for the recall that was asked for
    ├── NotFound                a collection, or (Get and Delete only) a document
    ├── AlreadyExists           a collection of that name
    ├── Overloaded              a bounded queue or the store is full; says when to retry
    ├── StoreUnavailable        the store does not answer, or not in time
    ├── WorkerUnavailable       an encoder, coarse or rerank worker does not answer
    │   └── LeaseLost           this process no longer belongs to the cluster; it joins again
    ├── BelowCoverage           fewer shards or documents answered than the caller demands
    ├── BudgetSpent             the deadline passed; names the stage it passed in
    │   └── WouldNotFit         it would pass before the stage ends, so the stage did not begin
    ├── CorruptVector           a stored vector that cannot be what was written; names the document
    ├── StreamConflict          another document at an offset that was acknowledged
    ├── StreamTakenOver         another connection goes on with the same stream id
    ├── SnapshotFailed          a snapshot or backup cannot be written or read
    ├── MigrationRefused        a step that does not fit where a migration stands
    ├── Unauthenticated, Forbidden
    └── ConfigError             settings that cannot be served; raised before anything listens

A message says what was wrong, what was expected and what to do. rpc/status.py maps each class to
one gRPC status; anything outside the tree becomes INTERNAL with the request id and nothing else.
"""

from __future__ import annotations

import typing


class NestvecError(Exception):
    """The root. Never raised itself."""

    def __reduce__(self) -> tuple[typing.Any, ...]:
        # Exceptions copy by calling their class with the message alone; ours take its parts.
        return rebuilt, (type(self), str(self), vars(self))


def rebuilt(kind: type[NestvecError], message: str, facts: dict[str, typing.Any]) -> NestvecError:
    """An error of `kind` as it was when it left another process."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    vars(error).update(facts)
    return error


def told(error: BaseException) -> str:
    """For logs and callers: this tree's own messages are made to be read; of others the kind alone,
    since their text may hold anything, a document's too.
    """
    return str(error) if isinstance(error, NestvecError) else type(error).__name__


class InvalidRequest(NestvecError):
    """The caller's input is wrong. `field` is the path of the offending field, dots between."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class TierNotTrained(InvalidRequest):
    """A dimension was asked for that the model was never trained at."""

    def __init__(self, field: str, dim: int, model: str, trained: tuple[int, ...]) -> None:
        way_out = (
            "measure its tiers first, or give it a card that lists them"
            if len(trained) == 1
            else f"ask for one of {', '.join(map(str, trained))}"
        )
        super().__init__(
            field,
            f"tier {dim} was not trained for {model}; "
            f"trained: {', '.join(map(str, trained))}; {way_out}",
        )
        self.dim = dim
        self.trained = trained


class DegenerateVector(InvalidRequest):
    """A vector that has no direction: NaN, infinite, zero, or a prefix too short to normalise."""


_IS_IN = " is in space"


class SpaceMismatch(NestvecError):
    """Vectors of two spaces would be compared. Both fingerprints are kept."""

    def __init__(self, expected: str, got: str, what: str) -> None:
        super().__init__(
            f"{what}{_IS_IN} {got or '(none given)'}, expected {expected}: vectors of "
            f"different models, prompts or recipes cannot be compared; encode again with the "
            f"expected one"
        )
        self.expected = expected
        self.got = got

    def naming(self, more: str) -> SpaceMismatch:
        """The same, with more about the other side in brackets."""
        what = str(self).partition(_IS_IN)[0]
        return SpaceMismatch(self.expected, self.got, f"{what} ({more})")


class NotCalibrated(NestvecError):
    """A recall was asked for, and nothing that was measured here reaches it, or still holds."""


class NotFound(NestvecError):
    """`kind` ("collection", "document") and `name` of what does not exist."""

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        super().__init__(f"{kind} {name!r} does not exist{'; ' + hint if hint else ''}")
        self.kind = kind
        self.name = name


class AlreadyExists(NestvecError):
    """`kind` and `name` of what exists already, with other settings than those asked for."""

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        super().__init__(f"{kind} {name!r} exists already{'; ' + hint if hint else ''}")
        self.kind = kind
        self.name = name


class Overloaded(NestvecError):
    """A bounded resource is full. Retry after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(NestvecError):
    """The store refuses, does not answer, or answers too late."""


class WorkerUnavailable(NestvecError):
    """A worker behind gRPC (encoder, coarse, rerank) cannot be reached."""


class LeaseLost(WorkerUnavailable):
    """A process whose lease has ended, or whose name another one has taken, may not answer."""


class BelowCoverage(NestvecError):
    """Less of the collection answered than the caller's `min_coverage`."""

    def __init__(self, fraction: float, required: float, detail: str) -> None:
        super().__init__(
            f"coverage {fraction:.12g} is below the required {required:.12g}: {detail}; "
            f"lower min_coverage to accept partial answers, or retry later"
        )
        self.fraction = fraction
        self.required = required


class BudgetSpent(NestvecError):
    """The caller's deadline passed in `stage`."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"the deadline passed in stage {stage!r}; allow more time or ask for less")
        self.stage = stage


class WouldNotFit(BudgetSpent):
    """`stage` was not begun: by what it took before, the deadline would pass in it."""

    def __init__(self, stage: str, expected_s: float, left_s: float) -> None:
        NestvecError.__init__(
            self,
            f"{stage} would take about {expected_s * 1e3:.0f} ms, and {left_s * 1e3:.0f} ms are "
            f"left for it; allow more time or ask for less",
        )
        self.stage = stage


class CorruptVector(NestvecError):
    """A stored value cannot be the vector that was written. Names the document."""

    def __init__(self, document: str, reason: str) -> None:
        super().__init__(
            f"stored vector of document {document} is corrupt: {reason}; ingest the document again"
        )
        self.document = document


class StreamConflict(NestvecError):
    """A stream id was used again for other documents."""

    def __init__(self, stream_id: str, offset: int) -> None:
        super().__init__(
            f"stream {stream_id!r}: the document at offset {offset} is not the one that was "
            f"acknowledged there; send what was sent before, or take another stream id"
        )
        self.stream_id = stream_id
        self.offset = offset


class StreamTakenOver(NestvecError):
    """A later connection goes on with this stream."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(
            f"stream {stream_id!r} was taken over by a later connection with the same id; "
            f"go on there, or take another id for another stream"
        )
        self.stream_id = stream_id


class SnapshotFailed(NestvecError):
    """A snapshot or backup cannot be written, or cannot be used. Names it and says why."""


class MigrationRefused(NestvecError):
    """A migration cannot begin, or take this step, as things stand. Says how they do."""


class Unauthenticated(NestvecError):
    """No credentials, or credentials that do not verify."""


class Forbidden(NestvecError):
    """The credentials do not cover this call."""


class ConfigError(NestvecError):
    """Settings that cannot be served. Raised before anything listens."""
