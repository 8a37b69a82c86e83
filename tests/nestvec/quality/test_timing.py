import pytest

from nestvec.quality.timing import Timing, median_ratio, median_timing, summarise, timed


def test_percentiles_are_interpolated() -> None:
    timing = summarise([4.0, 1.0, 3.0, 2.0])
    assert timing.p50_ms == pytest.approx(2.5)
    assert timing.p95_ms == pytest.approx(3.85)
    assert timing.count == 4


def test_a_disturbed_round_does_not_move_the_median() -> None:
    rounds = [Timing(1.0, 2.0, 10), Timing(50.0, 90.0, 10), Timing(1.2, 2.2, 10)]
    assert median_timing(rounds) == Timing(1.2, 2.2, 30)


def test_a_ratio_compares_within_a_round() -> None:
    # Each round is slowed by another factor, lane and baseline alike.
    lane = [Timing(3.0, 0, 1), Timing(30.0, 0, 1), Timing(6.0, 0, 1)]
    baseline = [Timing(1.0, 0, 1), Timing(10.0, 0, 1), Timing(2.0, 0, 1)]
    assert median_ratio(lane, baseline) == pytest.approx(3.0)


def test_timed_returns_the_result_and_its_time() -> None:
    result, milliseconds = timed(sorted, [2, 1], reverse=False)
    assert result == [1, 2]
    assert milliseconds >= 0.0
