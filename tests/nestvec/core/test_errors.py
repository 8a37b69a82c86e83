"""One tree, as its first docstring draws it; a message says what, what else, and the way out."""

import copy
import inspect
import re

import pytest

from nestvec.core import errors
from nestvec.core.errors import (
    AlreadyExists,
    BelowCoverage,
    BudgetSpent,
    ConfigError,
    CorruptVector,
    DegenerateVector,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    MigrationRefused,
    NestvecError,
    NotCalibrated,
    NotFound,
    Overloaded,
    SnapshotFailed,
    SpaceMismatch,
    StoreUnavailable,
    StreamConflict,
    StreamTakenOver,
    TierNotTrained,
    Unauthenticated,
    WorkerUnavailable,
    WouldNotFit,
)

_BRANCH = re.compile(
    r"^ {4}(?P<indent>[ │]*)[├└]── (?P<names>[A-Z]\w+(?:, [A-Z]\w+)*)", re.MULTILINE
)

ONE_OF_EACH: list[NestvecError] = [
    InvalidRequest("query.k", "0, expected 1 to 1000"),
    TierNotTrained("coarse_dim", 100, "nomic-embed-text-v1.5", (64, 128, 256)),
    DegenerateVector("vector", "zero vector; expected unit length"),
    SpaceMismatch("a" * 16, "b" * 16, "the query"),
    NotCalibrated("no plan reaches a recall of 0.99"),
    NotFound("collection", "news", "create it first"),
    AlreadyExists("collection", "news", "drop it first"),
    Overloaded("the queue is full", retry_after_s=2.5),
    StoreUnavailable("the store does not answer"),
    WorkerUnavailable("the encoder does not answer"),
    LeaseLost("the lease has ended"),
    BelowCoverage(0.5, 0.9, "1 of 2 shards answered"),
    BudgetSpent("coarse"),
    WouldNotFit("cross_encode", 0.5, 0.1),
    CorruptVector("7", "3 bytes, expected 24"),
    StreamConflict("nightly", 17),
    StreamTakenOver("nightly"),
    SnapshotFailed("no space left on the device"),
    MigrationRefused("it is switched already"),
    Unauthenticated("no token"),
    Forbidden("the token may only read"),
    ConfigError("tiers is empty"),
]


def drawn_tree() -> dict[str, str]:
    """Class name -> parent's name, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    path = ["NestvecError"]
    for branch in _BRANCH.finditer(inspect.getdoc(errors) or ""):
        depth = 1 + len(branch["indent"]) // 4
        names = branch["names"].split(", ")
        path[depth:] = [names[-1]]
        parents |= dict.fromkeys(names, path[depth - 1])
    return parents


def test_the_docstring_draws_the_tree_that_is_there() -> None:
    there = {
        name: value.__mro__[1].__name__
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value is not NestvecError
    }
    assert drawn_tree() == there
    assert {type(error).__name__ for error in ONE_OF_EACH} == set(there)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_error_is_of_the_tree_and_says_something(error: NestvecError) -> None:
    assert isinstance(error, NestvecError)
    assert str(error)
    assert type(error).__doc__


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_survives_being_rebuilt(error: NestvecError) -> None:
    """Ray and process pools rebuild an error just as `copy` does: from its class and its args."""
    rebuilt = copy.copy(error)
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)
    assert vars(rebuilt) == vars(error)


def test_an_invalid_request_names_its_field_first() -> None:
    error = InvalidRequest("query.k", "0, expected 1 to 1000")
    assert str(error) == "query.k: 0, expected 1 to 1000"
    assert (error.field, error.message) == ("query.k", "0, expected 1 to 1000")


def test_an_invalid_request_without_a_field_has_no_stray_colon() -> None:
    assert str(InvalidRequest("", "the stream is empty")) == "the stream is empty"


def test_an_untrained_tier_names_the_model_the_trained_ones_and_the_way_out() -> None:
    error = TierNotTrained("coarse_dim", 100, "nomic-embed-text-v1.5", (64, 128, 256))
    assert str(error) == (
        "coarse_dim: tier 100 was not trained for nomic-embed-text-v1.5; "
        "trained: 64, 128, 256; ask for one of 64, 128, 256"
    )
    assert (error.field, error.dim, error.trained) == ("coarse_dim", 100, (64, 128, 256))


def test_a_model_without_a_card_is_told_to_be_measured() -> None:
    message = str(TierNotTrained("coarse_dim", 100, "some-model", (384,)))
    assert "tier 100 was not trained for some-model; trained: 384" in message
    assert "measure its tiers first" in message
    assert "ask for one of" not in message


def test_a_space_mismatch_keeps_and_tells_both_fingerprints() -> None:
    error = SpaceMismatch("a" * 16, "b" * 16, "the query")
    assert (error.expected, error.got) == ("a" * 16, "b" * 16)
    assert str(error).startswith(f"the query is in space {'b' * 16}, expected {'a' * 16}")
    assert "encode again" in str(error)


def test_a_missing_fingerprint_is_called_missing() -> None:
    assert "is in space (none given), expected" in str(SpaceMismatch("a" * 16, "", "the query"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotFound("document", "a b"), "document 'a b' does not exist"),
        (NotFound("collection", "n", "create it"), "collection 'n' does not exist; create it"),
        (AlreadyExists("collection", "n"), "collection 'n' exists already"),
        (AlreadyExists("collection", "n", "drop it"), "collection 'n' exists already; drop it"),
    ],
)
def test_what_is_missing_or_there_is_quoted_and_hints_follow(
    error: NotFound | AlreadyExists, message: str
) -> None:
    assert str(error) == message
    assert f"{error.kind} {error.name!r}" in message


def test_overload_says_when_to_retry() -> None:
    assert Overloaded("full").retry_after_s == 1.0
    assert Overloaded("full", retry_after_s=2.5).retry_after_s == 2.5


def test_too_little_coverage_tells_what_was_reached_required_and_possible() -> None:
    error = BelowCoverage(0.5, 0.9, "1 of 2 shards answered")
    assert (error.fraction, error.required) == (0.5, 0.9)
    assert re.fullmatch(
        r"coverage 0\.50* is below the required 0\.90*: 1 of 2 shards answered; "
        r"lower min_coverage to accept partial answers, or retry later",
        str(error),
    )


def test_a_spent_budget_names_its_stage() -> None:
    assert BudgetSpent("coarse").stage == "coarse"
    assert str(BudgetSpent("coarse")) == (
        "the deadline passed in stage 'coarse'; allow more time or ask for less"
    )


def test_a_corrupt_vector_names_its_document_the_reason_and_the_way_out() -> None:
    error = CorruptVector("7", "3 bytes, expected 24")
    assert error.document == "7"
    assert "document 7 is corrupt: 3 bytes, expected 24; ingest the document again" in str(error)
