"""The less busy of two is asked; who fails again and again is left alone for a while."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.balance import BreakerState, CircuitBreaker, less_loaded_of_two
from tests.support.long_runs import examples


@settings(max_examples=examples(300))
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 1 << 20))
def test_the_most_loaded_is_chosen_only_where_nobody_else_could_be(
    loads: list[int], seed: int
) -> None:
    chosen = less_loaded_of_two(loads, Random(seed).randrange)
    others = loads[:chosen] + loads[chosen + 1 :]
    # Two different ones are drawn: the chosen is no more loaded than some other.
    assert not others or loads[chosen] <= max(others)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5))
def test_every_pair_of_draws_gives_the_less_loaded_one_and_two_different_ones_are_drawn(
    loads: list[int],
) -> None:
    count = len(loads)
    for first, second in itertools.product(range(count), range(count - 1)):
        draws = iter([first, second])
        chosen = less_loaded_of_two(loads, lambda _, draws=draws: next(draws))  # type: ignore[misc]
        other = [one for one in range(count) if one != first][second]
        assert chosen in (first, other)
        assert loads[chosen] == min(loads[first], loads[other])


def test_equal_loads_are_asked_equally_often() -> None:
    random = Random(1)
    asked = Counter(less_loaded_of_two([3, 3, 3, 3], random.randrange) for _ in range(8000))
    assert all(1800 < asked[one] < 2200 for one in range(4))


def test_two_choices_keep_the_fullest_queue_far_shorter_than_one_choice() -> None:
    random = Random(1)
    one, two = [0] * 100, [0] * 100
    for _ in range(10_000):
        one[random.randrange(100)] += 1
        two[less_loaded_of_two(two, random.randrange)] += 1
    assert max(two) <= 104 < 120 < max(one)


events = st.lists(st.sampled_from(["fail", "succeed", "probe", "wait"]), max_size=60)


@settings(max_examples=examples(300))
@given(events, st.integers(1, 5))
def test_a_breaker_does_what_its_rules_say(happens: list[str], limit: int) -> None:
    """Against a model that keeps the whole history."""
    breaker = CircuitBreaker(limit, pause_s=1.0)
    now, in_a_row, open_until, pause = 0.0, 0, None, 1.0
    probing = False
    for event in happens:
        now += 0.4
        if event == "wait":
            now += 2.0
        elif event == "succeed":
            breaker.succeeded()
            in_a_row, open_until, pause, probing = 0, None, 1.0, False
        elif event == "probe":
            due = open_until is not None and not probing and now >= open_until
            assert breaker.begin_probe(now) == due
            probing = probing or due
        else:
            opened = breaker.failed(now)
            if probing:
                probing, pause = False, min(2 * pause, 15.0)
                open_until = now + pause
                assert not opened
            elif open_until is None:
                in_a_row += 1
                assert opened == (in_a_row == limit)
                if opened:
                    open_until = now + pause
        assert breaker.closed == (open_until is None)
        assert (breaker.state is BreakerState.HALF_OPEN) == probing


def test_a_breaker_opens_only_after_failures_in_a_row() -> None:
    breaker = CircuitBreaker(3)
    for _ in range(10):
        assert not breaker.failed(0.0)
        assert not breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.closed


def test_only_one_probe_is_under_way_and_one_without_a_verdict_makes_room_for_the_next() -> None:
    breaker = CircuitBreaker(1, pause_s=1.0)
    assert breaker.failed(0.0)
    assert not breaker.begin_probe(0.9)
    assert breaker.begin_probe(1.0)
    assert not breaker.begin_probe(50.0)
    breaker.abandon_probe(50.0)
    assert not breaker.begin_probe(50.9)
    assert breaker.begin_probe(51.0)
    breaker.succeeded()
    assert breaker.closed


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_success() -> None:
    breaker = CircuitBreaker(1, pause_s=1.0)
    now, pauses = 0.0, []
    breaker.failed(now)
    for _ in range(7):
        began = now
        while not breaker.begin_probe(now):
            now += 0.25
        pauses.append(now - began)
        breaker.failed(now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    breaker.succeeded()
    breaker.failed(now)
    assert breaker.begin_probe(now + 1.0)
