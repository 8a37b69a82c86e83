"""Which calls are traced."""

from __future__ import annotations

import itertools

from nestvec.telemetry.sampling import Sampler
from nestvec.telemetry.traceparent import Remote

SAMPLED, UNSAMPLED = Remote(1, 1, sampled=True), Remote(1, 1, sampled=False)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_sampler(share: float, callers_per_s: float = 0.0, clock: Clock | None = None) -> Sampler:
    """Draws 0.00, 0.01, ..., 0.99 again and again."""
    draws = itertools.cycle(n / 100 for n in range(100))
    return Sampler(share, callers_per_s, lambda: next(draws), clock or Clock())


def wanted(sampler: Sampler, remote: Remote | None, calls: int = 1000) -> int:
    return sum(sampler.wants(remote, begins=True, trusted=False) for _ in range(calls))


def test_calls_that_nobody_has_decided_on_are_drawn() -> None:
    assert wanted(a_sampler(0.03), None) == 30
    assert wanted(a_sampler(0.0), None) == 0
    assert wanted(a_sampler(1.0), None) == 1000


def test_an_inner_service_begins_no_trace() -> None:
    assert not a_sampler(1.0).wants(None, begins=False, trusted=True)


def test_what_a_caller_has_left_out_is_left_out() -> None:
    assert wanted(a_sampler(1.0, callers_per_s=1e9), UNSAMPLED) == 0


def test_strangers_are_followed_so_often_in_a_second_and_then_drawn_like_others() -> None:
    clock = Clock()
    sampler = a_sampler(0.03, callers_per_s=10.0, clock=clock)
    assert wanted(sampler, SAMPLED, 110) == 10 + 3
    clock.now_s = 0.5
    assert wanted(sampler, SAMPLED, 105) == 5 + 3
    clock.now_s = 1000.0
    assert wanted(sampler, SAMPLED, 10) == 10


def test_a_rate_below_one_still_lets_one_through() -> None:
    clock = Clock()
    sampler = a_sampler(0.0, callers_per_s=0.1, clock=clock)
    assert wanted(sampler, SAMPLED) == 1
    clock.now_s = 9.0
    assert wanted(sampler, SAMPLED) == 0
    clock.now_s = 10.5
    assert wanted(sampler, SAMPLED) == 1


def test_callers_decide_nothing_where_the_settings_say_so() -> None:
    assert wanted(a_sampler(0.0, callers_per_s=0.0), SAMPLED) == 0


def test_nestvecs_own_processes_are_always_followed() -> None:
    sampler = a_sampler(0.0)
    assert all(sampler.wants(SAMPLED, begins=False, trusted=True) for _ in range(1000))
    assert not sampler.wants(UNSAMPLED, begins=False, trusted=True)
