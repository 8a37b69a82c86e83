"""Versions never go back, whatever the wall clock does, and two regions never make the same one."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.clock import MAX_REGION, MAX_VERSION, HybridClock, made_by_clock
from nestvec.wall_clock import wall_clock_ms

MILLISECONDS = st.integers(0, 4_000_000_000_000)  # until 2096


@given(st.lists(st.tuples(MILLISECONDS, st.one_of(st.none(), st.integers(1, MAX_VERSION // 4)))))
def test_every_version_is_greater_than_all_made_or_seen_before(
    steps: list[tuple[int, int | None]],
) -> None:
    """Jumps of the wall clock in either direction, and versions of other clocks among them."""
    now = [0]
    clock = HybridClock(lambda: now[0])
    highest = 0
    for milliseconds, seen in steps:
        now[0] = milliseconds
        if seen is not None:
            clock.observe(seen)
            highest = max(highest, seen)
        version = clock.tick()
        assert version > highest
        highest = version


@given(MILLISECONDS, st.integers(0, MAX_REGION))
def test_a_version_tells_when_it_was_made(milliseconds: int, region: int) -> None:
    assert HybridClock(lambda: milliseconds, region).tick() >> (13 + 8) == milliseconds


@given(
    st.lists(MILLISECONDS, min_size=1, max_size=20), st.lists(MILLISECONDS, min_size=1, max_size=20)
)
def test_two_regions_never_make_the_same_version(here: list[int], there: list[int]) -> None:
    one = [HybridClock(lambda now=now: now, 3).tick() for now in here]  # type: ignore[misc]
    other = [HybridClock(lambda now=now: now, 4).tick() for now in there]  # type: ignore[misc]
    assert not set(one) & set(other)


def test_many_in_one_millisecond_and_the_end_of_the_scale() -> None:
    clock = HybridClock(lambda: 5)
    versions = [clock.tick() for _ in range(20_000)]
    assert versions == sorted(set(versions))
    clock.observe(MAX_VERSION)
    assert clock.tick() == MAX_VERSION


def test_the_scale_reaches_beyond_our_time() -> None:
    now_ms = int(time.time() * 1000)
    assert HybridClock(lambda: now_ms * 2).tick() < MAX_VERSION


def test_a_version_that_a_caller_chose_is_told_from_a_clocks() -> None:
    assert made_by_clock(HybridClock(wall_clock_ms, 7).tick())
    seconds = time.time()
    chosen = [0, 1, 10**6, int(seconds), int(seconds * 1e3), int(seconds * 1e6), time.time_ns()]
    assert [one for one in chosen if made_by_clock(one)] == []
