"""Pauses between tries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.adapters.models.retries import Retries, wait_asked_for


@given(st.integers(1, 8), st.floats(0, 10), st.none() | st.floats(0, 1e6))
def test_no_pause_is_longer_than_allowed(
    attempt: int, backoff_s: float, asked_s: float | None
) -> None:
    assert 0.0 <= Retries(9, backoff_s, 20.0).pause_s(attempt, asked_s) <= 20.0


def test_the_first_try_does_not_wait_and_later_ones_wait_longer() -> None:
    retries = Retries(5, 0.1, 60.0)
    assert retries.pause_s(0, None) == 0.0
    assert retries.pause_s(4, None) > retries.pause_s(1, None)


def test_what_the_other_side_asks_for_outranks_our_own_pause() -> None:
    assert Retries(5, 0.1, 60.0).pause_s(3, 7.0) == 7.0


def test_a_date_is_a_wait() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    wait_s = wait_asked_for(in_a_minute)
    assert wait_s is not None
    assert 30.0 < wait_s <= 60.0
    assert wait_asked_for("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_header_is_read_or_ignored(header: str | None, seconds: float | None) -> None:
    assert wait_asked_for(header) == seconds
