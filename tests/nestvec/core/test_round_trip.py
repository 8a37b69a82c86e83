"""The way to a far peer, learnt from calls that wait in queues and make connections."""

from nestvec.core.round_trip import RoundTrip


def test_what_is_expected_holds_until_the_first_is_seen() -> None:
    way = RoundTrip(0.15)
    assert (way.seconds, way.measured) == (0.15, False)
    way.observe(0.08)
    assert (way.seconds, way.measured) == (0.08, True)


def test_a_slow_call_hardly_counts_and_a_quick_one_does() -> None:
    way = RoundTrip()
    # The first one also made the connection.
    for seconds in (0.24, 0.08, 0.08, 0.08, 0.08, 0.08):
        way.observe(seconds)
    assert 0.08 <= way.seconds < 0.09
    way.observe(1.0)
    assert way.seconds < 0.14


def test_a_way_that_has_become_longer_is_believed_in_time() -> None:
    way = RoundTrip()
    way.observe(0.08)
    for _ in range(60):
        way.observe(0.3)
    assert 0.28 < way.seconds <= 0.3


def test_nothing_takes_less_than_no_time() -> None:
    way = RoundTrip()
    way.observe(-1.0)
    assert way.seconds == 0.0
