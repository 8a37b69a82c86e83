"""A late call is asked again after what most calls take, and never more often than the budget."""

from __future__ import annotations

import math
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.hedging import BURST, EXTRA_SHARE, HedgeBudget, Hedging, RecentDelays
from tests.support.long_runs import examples

seconds = st.floats(0.0001, 10.0)


@settings(max_examples=examples(200))
@given(st.lists(seconds, max_size=100), st.integers(1, 40))
def test_the_percentile_is_of_the_window_and_at_most_five_in_a_hundred_are_longer(
    values: list[float], window: int
) -> None:
    delays = RecentDelays(window)
    naive: deque[float] = deque(maxlen=window)
    for value in values:
        delays.add(value)
        naive.append(value)
    found = delays.quantile_s()
    if len(naive) < min(20, window):
        assert found is None
        return
    assert found == sorted(naive)[math.ceil(0.95 * len(naive)) - 1]
    assert sum(value > found for value in naive) <= 0.05 * len(naive)


def test_the_percentile_follows_what_has_become_slower() -> None:
    delays = RecentDelays(64)
    for value in [0.01] * 64:
        delays.add(value)
    assert delays.quantile_s() == 0.01
    for value in [0.2] * 64:
        delays.add(value)
    assert delays.quantile_s() == 0.2


@settings(max_examples=examples(200))
@given(st.lists(st.booleans(), max_size=400), st.integers(0, 12))
def test_the_budget_never_grants_more_than_its_share_and_its_burst(
    wishes: list[bool], burst: int
) -> None:
    """Whatever the order of calls (True) and wishes for extra ones (False)."""
    budget = HedgeBudget(EXTRA_SHARE, burst)
    calls = granted = 0
    for is_call in wishes:
        if is_call:
            budget.called()
            calls += 1
        else:
            granted += budget.take()
        assert granted <= EXTRA_SHARE * calls + burst + 1e-6


def test_a_budget_that_is_spent_grants_one_extra_call_in_twenty() -> None:
    budget = HedgeBudget()
    while budget.take():
        pass
    granted = 0
    for _ in range(1000):
        budget.called()
        granted += budget.take()
    assert granted == 50


def test_quiet_times_save_up_no_more_than_the_burst() -> None:
    budget = HedgeBudget()
    for _ in range(100_000):
        budget.called()
    assert sum(budget.take() for _ in range(1000)) == BURST


def test_kinds_of_calls_learn_apart_and_the_one_not_seen_longest_is_forgotten() -> None:
    hedging = Hedging()
    unknown_s = hedging.delay_s("deep")
    for _ in range(64):
        hedging.learn("fast", 0.003)
        hedging.learn("deep", 0.2)
    assert hedging.delay_s("fast") == 0.003
    assert hedging.delay_s("deep") == 0.2
    for number in range(63):
        hedging.learn(number, 0.1)
    assert hedging.delay_s("fast") == unknown_s
    assert hedging.delay_s("deep") == 0.2


@given(st.floats(0.0, 1e-4))
def test_a_delay_is_never_shorter_than_a_timer_can_hold(taken_s: float) -> None:
    hedging = Hedging()
    for _ in range(64):
        hedging.learn("fast", taken_s)
    assert hedging.delay_s("fast") == 0.001


def test_what_was_granted_is_counted() -> None:
    hedging = Hedging(HedgeBudget(0.5, burst=1))
    for _ in range(4):
        hedging.called()
    assert [hedging.may_hedge() for _ in range(3)] == [True, False, False]
    assert (hedging.counts.calls, hedging.counts.hedges) == (4, 1)
