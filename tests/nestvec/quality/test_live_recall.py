import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.sampled import SampledAnswer
from nestvec.quality.attribution import Cause
from nestvec.quality.exact_pass import Exact
from nestvec.quality.live_recall import Outcome, Window, hold, outcome, summarise, wilson
from tests.nestvec.quality.test_exact_pass import a_sample

VECTOR = np.full(64, 0.125, np.float32)


def held_against(
    hits: Sequence[int], scores: Sequence[float], k: int = 4, gone: Sequence[int] = ()
) -> tuple[SampledAnswer, Exact]:
    """Documents 0, 1, 2 and so on have these scores, descending."""
    column = np.array(scores, np.float32)
    sample = a_sample(VECTOR, hits, k=k)
    best = np.arange(min(k, len(column)))
    of_hits = [math.nan if hit in gone else column[hit] for hit in hits]
    exact = Exact(best, column[best], column[best], 0.0, np.array(of_hits, np.float32))
    return sample, exact


def missed(hits: Sequence[int], scores: Sequence[float], **more: object) -> list[int]:
    held = hold(*held_against(hits, scores, **more))  # type: ignore[arg-type]
    assert held is not None
    return [int(place) for place in held.missed]


SCORES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def test_what_exact_search_finds_and_the_answer_has_not_is_missed() -> None:
    assert missed([0, 1, 2, 3], SCORES) == []
    assert missed([3, 2, 1, 0], SCORES) == []
    assert missed([0, 2, 4, 5], SCORES) == [1, 3]


def test_documents_that_tie_at_the_edge_are_equally_right() -> None:
    tied = (0.9, 0.8, 0.7, 0.6, 0.6, 0.6 - 5e-7)
    assert missed([0, 1, 2, 5], tied) == []
    assert missed([0, 1, 4, 5], tied) == [2]


def test_a_hit_that_is_gone_takes_its_place_with_it() -> None:
    # The answer was 0, 1, 9 and 2 when 9 was there: exactly right.
    sample, exact = held_against([0, 1, 5, 2], SCORES, gone=[5])
    held = hold(sample, exact)
    assert held is not None
    assert (held.wanted, held.missed.tolist(), held.recall) == (3, [], 1.0)
    # It was not right about 2, whatever 9 was.
    assert missed([0, 1, 5, 3], SCORES, gone=[5]) == [2]


def test_nothing_left_to_compare_is_no_measurement() -> None:
    assert hold(*held_against([4, 5], SCORES, k=2, gone=[4, 5])) is None
    assert hold(*held_against([], (), k=2)) is None


def test_an_outcome_is_recall_and_what_each_cause_took() -> None:
    held = hold(*held_against([0], SCORES))
    assert held is not None
    found = outcome(held, [Cause.ANN, Cause.ANN, Cause.DAMAGE], 1.0)
    assert found.recall == pytest.approx(0.25)
    assert found.lost == {Cause.ANN: 0.5, Cause.DAMAGE: 0.25}


def outcomes(recalls: Sequence[float], cause: Cause = Cause.ANN) -> list[Outcome]:
    return [
        Outcome(10, recall, {} if recall == 1.0 else {cause: 1.0 - recall}, 5.0)
        for recall in recalls
    ]


def test_an_interval_without_a_miss_holds_one_and_has_a_width() -> None:
    found = summarise(outcomes([1.0] * 2000))
    assert (found.recall.mean, found.recall.high) == (1.0, 1.0)
    assert 0.997 < found.recall.low < 0.9985
    assert not found.below(1.0)
    assert found.lost == {}


def test_two_points_less_are_noticed_within_two_thousand_queries_however_they_lie() -> None:
    # Spread over queries, and all in a few of them: the case that tells least.
    for recalls in ([0.9] * 400 + [1.0] * 1600, [0.0] * 40 + [1.0] * 1960):
        found = summarise(outcomes(recalls))
        assert found.recall.mean == pytest.approx(0.98)
        assert found.below(0.99)
        assert found.lost[Cause.ANN].low > 0.005
    # Half as much is not known for certain where it lies worst.
    assert not summarise(outcomes([0.0] * 20 + [1.0] * 1980)).below(0.99)


def test_no_outcomes_are_no_alarm() -> None:
    assert not summarise([]).below(0.99)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=200))
def test_an_interval_holds_its_mean_and_is_no_wider_than_one_of_so_many_coin_tosses(
    found: list[int],
) -> None:
    shares = [one / 10 for one in found]
    estimate = wilson(shares, [10] * len(shares))
    assert 0.0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean - 1e-12 <= estimate.high <= 1.0
    spread = 1.96**2 / len(shares)
    widest = math.sqrt(4 * estimate.mean * (1 - estimate.mean) * spread + spread**2) / (1 + spread)
    assert estimate.high - estimate.low <= widest + 1e-3


@pytest.mark.parametrize("rate", [0.995, 0.98, 0.85])
@pytest.mark.parametrize("together", [False, True])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    rate: float, together: bool
) -> None:
    """Documents found each by itself, or all of a query's with one toss."""
    generator = np.random.default_rng(3)
    shape = (300, 500, 1) if together else (300, 500, 10)
    shares = (generator.random(shape) < rate).mean(axis=2)
    covered = [one.low <= rate <= one.high for one in (wilson(row, [10] * 500) for row in shares)]
    assert 0.91 <= np.mean(covered) <= 0.995


def test_a_window_keeps_the_newest_and_forgets_the_old() -> None:
    window = Window(3, age_s=10.0)
    for second in (0.0, 1.0, 8.0, 9.0):
        window.add(Outcome(10, 1.0, {}, second))
    assert [one.at_s for one in window.recent(9.0)] == [1.0, 8.0, 9.0]
    assert [one.at_s for one in window.recent(12.0)] == [8.0, 9.0]
