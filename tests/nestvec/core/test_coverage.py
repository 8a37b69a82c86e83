"""What an answer covered is a fraction that never flatters."""

import re
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.errors import BelowCoverage


@st.composite
def coverages(draw: st.DrawFn) -> Coverage:
    shards = draw(st.integers(0, 100))
    answered = draw(st.integers(0, shards))
    documents = draw(st.integers(0, 10**9))
    # Documents come from shards: where none answered, none did.
    return Coverage(shards, answered, documents, draw(st.integers(0, documents if answered else 0)))


@given(coverages())
def test_the_fraction_lies_between_nothing_and_all(coverage: Coverage) -> None:
    assert 0.0 <= coverage.fraction <= 1.0


@given(coverages(), st.integers(0, 5), st.integers(0, 10**6))
def test_answering_more_never_lowers_the_fraction(
    coverage: Coverage, shards: int, documents: int
) -> None:
    more = replace(
        coverage,
        shards_answered=min(coverage.shards_total, coverage.shards_answered + shards),
        documents_answered=min(coverage.documents_total, coverage.documents_answered + documents),
    )
    assert more.fraction >= coverage.fraction


@pytest.mark.parametrize(
    ("coverage", "fraction"),
    [
        (Coverage(4, 4, 100, 100), 1.0),
        (Coverage(4, 3, 100, 75), 0.75),
        (Coverage(4, 3, 100, 60), 0.6),  # the missing shard was a large one
        (Coverage(4, 0, 100, 0), 0.0),
        (Coverage(4, 3, 0, 0), 0.75),  # no count is known: shards
        (Coverage(4, 0, 0, 0), 0.0),
        (Coverage(1, 1, 1, 0), 0.0),
        (Coverage(1, 0, 0, 0), 0.0),
        (Coverage(4, 4, 0, 0), 1.0),  # an empty collection, wholly searched
        (Coverage(0, 0, 0, 0), 1.0),  # nothing was promised
        (Coverage(4, 4, 100, 103), 1.0),  # written since the map was made
    ],
)
def test_the_fraction_is_of_documents_or_of_shards(coverage: Coverage, fraction: float) -> None:
    assert coverage.fraction == fraction


@given(coverages(), st.floats(0, 1))
def test_less_than_the_minimum_raises_and_nothing_else_does(
    coverage: Coverage, min_coverage: float
) -> None:
    if coverage.fraction >= min_coverage:
        coverage.require(min_coverage)
        return
    with pytest.raises(BelowCoverage) as caught:
        coverage.require(min_coverage)
    assert caught.value.fraction == coverage.fraction
    assert caught.value.required == min_coverage


@given(coverages())
def test_the_fraction_itself_and_zero_are_always_enough(coverage: Coverage) -> None:
    coverage.require(coverage.fraction)
    coverage.require(0.0)


def test_a_refusal_says_how_many_shards_answered() -> None:
    with pytest.raises(BelowCoverage, match="3 of 4 shards answered"):
        Coverage(4, 3, 100, 75).require(0.9)


def test_a_refusal_never_says_that_a_number_is_below_itself() -> None:
    with pytest.raises(BelowCoverage) as caught:
        Coverage(100, 99, 1_000_000, 999_999).require(1.0)
    said = re.search(r"coverage ([\d.]+) is below the required ([\d.]+)", str(caught.value))
    assert said is not None
    assert float(said[1]) < float(said[2])


@given(st.lists(coverages(), max_size=5))
def test_a_sum_adds_each_count(parts: list[Coverage]) -> None:
    total = Coverage.sum(iter(parts))
    assert total == Coverage(
        sum(part.shards_total for part in parts),
        sum(part.shards_answered for part in parts),
        sum(part.documents_total for part in parts),
        sum(part.documents_answered for part in parts),
    )


@given(st.lists(coverages(), min_size=1, max_size=5))
def test_a_sum_lies_between_its_parts_where_all_counts_are_known(parts: list[Coverage]) -> None:
    parts = [replace(part, shards_answered=part.shards_total) for part in parts]
    assume(all(part.documents_total for part in parts))
    fractions = [part.fraction for part in parts]
    assert min(fractions) - 1e-12 <= Coverage.sum(parts).fraction <= max(fractions) + 1e-12


def test_the_sum_of_nothing_promises_nothing() -> None:
    assert Coverage.sum([]) == Coverage(0, 0, 0, 0)
    Coverage.sum([]).require(1.0)


def test_a_missing_part_of_unknown_size_never_sums_to_all() -> None:
    """A region that never answered has shards but no count: the whole is not wholly covered."""
    here, gone = Coverage(4, 4, 1000, 1000), Coverage(4, 0, 0, 0)
    assert Coverage.sum([here, gone]).fraction < 1.0
    nearly_here = replace(here, documents_answered=999)
    assert Coverage.sum([nearly_here, gone]).fraction <= Coverage.sum([here, gone]).fraction


def test_what_was_covered_cannot_be_talked_up() -> None:
    with pytest.raises(FrozenInstanceError):
        Coverage(4, 3, 0, 0).shards_answered = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Degradation(DegradationKind.SHARD_MISSING, "shard 3").detail = ""  # type: ignore[misc]


def test_degradations_keep_their_names() -> None:
    assert [kind.value for kind in DegradationKind] == [
        "shard_missing",
        "region_missing",
        "rerank_skipped",
        "rerank_partial",
        "vector_missing",
        "vector_corrupt",
        "payload_missing",
        "cross_encoder_skipped",
        "target_missed",
        "region_stale",
    ]
    degradation = Degradation(DegradationKind.SHARD_MISSING, "shard 3: no answer in 50 ms")
    assert degradation.kind == "shard_missing"
