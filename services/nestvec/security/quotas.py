"""The most that each caller may ask of one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nestvec.core.errors import Overloaded
from nestvec.security.grants import Who
from nestvec.security.identity import Identity

# Callers whose use is remembered: with nothing under way, the one seen longest ago is forgotten.
_MOST_REMEMBERED = 10_000
# When one of its calls has ended, nobody knows; it is not asked to come back at once.
_BUSY_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Quota:
    """calls_per_s: None for no bound; burst: calls at once after a pause. concurrent: calls under
    way; None for no bound.
    """

    calls_per_s: float | None = None
    burst: int = 1
    concurrent: int | None = None


class Use:
    """Of one caller: a token bucket (RFC 2697 calls such a one a meter) and a count."""

    __slots__ = ("_at_s", "_clock", "_left", "_quota", "under_way")

    def __init__(self, quota: Quota, clock: Callable[[], float]) -> None:
        self._quota = quota
        self._clock = clock
        self._left = float(quota.burst)
        self._at_s = clock()
        self.under_way = 0

    def begin(self, who: str) -> None:
        """Raise Overloaded where the call is one too many; else it counts, until `end`."""
        quota = self._quota
        if quota.concurrent is not None and self.under_way >= quota.concurrent:
            raise Overloaded(
                f"{who} has {self.under_way} calls under way here, as many as it may have; wait "
                f"for one to end",
                _BUSY_RETRY_S,
            )
        if quota.calls_per_s is not None:
            now_s = self._clock()
            gained = (now_s - self._at_s) * quota.calls_per_s
            self._left = min(self._left + gained, float(quota.burst))
            self._at_s = now_s
            if self._left < 1.0:
                raise Overloaded(
                    f"{who} may make {quota.calls_per_s:g} calls a second here; make fewer, or "
                    f"several queries in one",
                    (1.0 - self._left) / quota.calls_per_s,
                )
            self._left -= 1.0
        self.under_way += 1

    def end(self) -> None:
        """The call is over."""
        self.under_way -= 1


class Quotas:
    """Each caller's use. The first rule that includes a caller holds for it."""

    def __init__(
        self,
        rules: Sequence[tuple[Who | None, Quota]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """rules: None stands for everybody."""
        self._rules = tuple(rules)
        self._clock = clock
        self._uses: OrderedDict[str, Use] = OrderedDict()

    def use_of(self, identity: Identity) -> Use | None:
        """None where nothing bounds it."""
        use = self._uses.get(identity.name)
        if use is None:
            quota = next(
                (quota for who, quota in self._rules if who is None or who.includes(identity)), None
            )
            if quota is None:
                return None
            use = self._uses[identity.name] = Use(quota, self._clock)
            self._forget()
        else:
            self._uses.move_to_end(identity.name)
        return use

    def replace(self, rules: Sequence[tuple[Who | None, Quota]]) -> None:
        """Of now on. Every caller begins anew; calls under way are counted no more."""
        self._rules = tuple(rules)
        self._uses.clear()

    def _forget(self) -> None:
        while len(self._uses) > _MOST_REMEMBERED:
            idle = next((name for name, use in self._uses.items() if not use.under_way), None)
            if idle is None:
                return
            del self._uses[idle]
