"""What a member tells of its load."""

from __future__ import annotations

import platform
import time

import pytest

from nestvec.membership.measures import Load, give_back, resident_bytes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only element is the time."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def took(load: Load, clock: list[float], milliseconds: float) -> None:
    with load.one():
        clock[0] += milliseconds / 1000


def test_nothing_asked_has_no_time() -> None:
    assert (Load(2).p95_ms, Load(2).queue) == (0.0, 0)


def test_the_p95_is_of_the_last_calls_and_those_that_failed_do_not_count(
    clock: list[float],
) -> None:
    load = Load(2)
    for _ in range(1000):
        took(load, clock, 900.0)
    for milliseconds in range(1, 501):
        took(load, clock, float(milliseconds))
    with pytest.raises(ZeroDivisionError), load.one():
        clock[0] /= 0
    assert load.p95_ms == pytest.approx(475.0, abs=1.0)


def test_what_is_more_than_can_be_worked_on_waits() -> None:
    load = Load(1)
    with load.one(), load.one(), load.one():
        assert load.queue == 2
    assert load.queue == 0


def test_the_memory_of_this_process_is_told_in_bytes() -> None:
    before = resident_bytes()
    held = bytearray(64 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    assert resident_bytes() - before > 48 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep nothing that they tell")
def test_freed_memory_is_given_back() -> None:
    blocks = [bytearray(b"x") * 60_000 for _ in range(1000)]
    # What lies above them keeps them in the heap.
    above = bytearray(b"x") * 60_000
    del blocks
    before = resident_bytes()
    give_back()
    assert before - resident_bytes() > 40 << 20
    assert len(above) == 60_000
