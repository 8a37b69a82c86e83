"""One deadline, split over the stages of a query.

The deadline is gRPC's own. A call without one gets the server's cap. Stages take what they need of
what is left, less what the stages after them are promised; nobody waits past the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nestvec.core.errors import BudgetSpent


@dataclass(frozen=True, slots=True)
class Budget:
    """Time left until a monotonic deadline.

    deadline_s: on `clock`'s scale, in seconds.
    """

    deadline_s: float
    clock: Callable[[], float]

    @classmethod
    def of(cls, seconds: float, clock: Callable[[], float]) -> Budget:
        """A budget that ends `seconds` from now."""
        return cls(clock() + seconds, clock)

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline_s - self.clock())

    def stage_s(self, stage: str, keep_s: float = 0.0) -> float:
        """Seconds that `stage` may take when `keep_s` is promised to the stages after it.

        Where less than twice `keep_s` is left, it is halved between this stage and the rest:
        a tight deadline shrinks every stage, it starves none. Raises BudgetSpent at the end.
        """
        assert keep_s >= 0.0
        left = self.left_s()
        if left <= 0.0:
            raise BudgetSpent(stage)
        return max(left - keep_s, left / 2.0)
