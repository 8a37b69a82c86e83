"""When a late call is asked again elsewhere: after a delay learned from its peers, within a budget.

Source: Dean and Barroso 2013, The Tail at Scale, CACM 56(2): a second request after the 95th
percentile of the first ones shortens the tail and adds about one call in twenty. The budget holds
that share also when everything has become slow, where more calls would make it slower.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

QUANTILE = 0.95
# At most so many extra calls for each call, and so many in one go after a quiet time.
EXTRA_SHARE = 0.05
BURST = 10

_WINDOW = 256
# Fewer say nothing of a 95th percentile.
_LEAST_SAMPLES = 20
# The percentile is looked up again after so many samples: sorting the window takes 20 µs.
_REFRESH = 16
_LEAST_DELAY_S = 0.001
_FIRST_DELAY_S = 0.05
# Kinds of calls whose times are kept apart; beyond it the one not seen for longest is forgotten.
_MOST_KINDS = 64


class RecentDelays:
    """The last `window` durations of one kind of call, in seconds."""

    def __init__(self, window: int = _WINDOW) -> None:
        assert window >= 1
        self._window = window
        self._values: list[float] = []
        self._next = 0
        self._fresh = 0
        self._quantile_s: float | None = None

    def add(self, seconds: float) -> None:
        """One more; the oldest one beyond the window is forgotten."""
        if len(self._values) < self._window:
            self._values.append(seconds)
        else:
            self._values[self._next] = seconds
        self._next = (self._next + 1) % self._window
        self._fresh += 1

    def quantile_s(self) -> float | None:
        """The 95th percentile as of the last refresh; None while there are too few samples."""
        if len(self._values) < min(_LEAST_SAMPLES, self._window):
            return None
        if self._quantile_s is None or self._fresh >= _REFRESH:
            # The nearest rank: at most 5 % are greater.
            rank = math.ceil(QUANTILE * len(self._values)) - 1
            self._quantile_s = sorted(self._values)[rank]
            self._fresh = 0
        return self._quantile_s


class HedgeBudget:
    """A bucket of permits for extra calls. Each call adds `share` of one, up to `burst`.

    After n calls at most `share * n + burst` extra ones were granted.
    """

    def __init__(self, share: float = EXTRA_SHARE, burst: int = BURST) -> None:
        assert 0.0 <= share <= 1.0
        assert burst >= 0
        self._share = share
        self._burst = float(burst)
        self._permits = float(burst)

    def called(self) -> None:
        """A first call was made."""
        self._permits = min(self._burst, self._permits + self._share)

    def take(self) -> bool:
        """Whether an extra call may be made now; if so, it is counted."""
        # Twenty twentieths are a hair less than one.
        if self._permits < 1.0 - 1e-9:
            return False
        self._permits = max(0.0, self._permits - 1.0)
        return True


@dataclass(slots=True)
class CallCounts:
    """What was asked. calls: first ones. hedges: extra ones, within the budget. retries: after a
    failure, a stage timeout or a replica's loss. probes: copies sent to a replica that failed.
    """

    calls: int = 0
    hedges: int = 0
    retries: int = 0
    probes: int = 0


class Hedging:
    """Delays, budget and counts of one group of peers."""

    def __init__(self, budget: HedgeBudget | None = None) -> None:
        self.budget = budget or HedgeBudget()
        self.counts = CallCounts()
        self._kinds: dict[Hashable, RecentDelays] = {}

    def called(self) -> None:
        """A first call was made."""
        self.counts.calls += 1
        self.budget.called()

    def may_hedge(self) -> bool:
        """Whether an extra call may be made now; if so, it is counted."""
        granted = self.budget.take()
        self.counts.hedges += granted
        return granted

    def learn(self, kind: Hashable, seconds: float) -> None:
        """What a call took. Of one that was overtaken, how long it had run: it would have taken
        longer, and leaving it out would shorten the delay again and again.
        """
        delays = self._kinds.pop(kind, None)
        if delays is None:
            delays = RecentDelays()
            if len(self._kinds) >= _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
        # Last, as the one seen last.
        self._kinds[kind] = delays
        delays.add(seconds)

    def delay_s(self, kind: Hashable) -> float:
        """How long a call of this kind is left alone."""
        delays = self._kinds.get(kind)
        learned = None if delays is None else delays.quantile_s()
        return _FIRST_DELAY_S if learned is None else max(learned, _LEAST_DELAY_S)
