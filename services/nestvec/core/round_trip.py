"""What the way to a far peer and back takes, learnt from calls as they come."""

from __future__ import annotations

# Nothing is faster than the way itself: less is believed at once, more only when it stays.
_LESS = 0.5
_MORE = 0.05


class RoundTrip:
    """seconds: near the least of what was seen lately. Where a call waited in a queue, or its
    connection had to be made first, that says little of the way.
    """

    def __init__(self, expected_s: float = 0.0) -> None:
        """expected_s: what holds until the first is seen."""
        assert expected_s >= 0.0
        self.seconds = expected_s
        self.measured = False

    def observe(self, seconds: float) -> None:
        """One call: from sending to its answer, without what was done at the other end."""
        seconds = max(0.0, seconds)
        if not self.measured:
            self.seconds, self.measured = seconds, True
            return
        share = _LESS if seconds < self.seconds else _MORE
        self.seconds += share * (seconds - self.seconds)
