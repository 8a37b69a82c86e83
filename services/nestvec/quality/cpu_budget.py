"""Work in the background that may take no more than a share of one core's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

# A pause is never longer: whoever stops the work need not wait.
_LONGEST_PAUSE_S = 5.0
# Bytes arrive between the steps of who waits for them: reads of the store, measured against all
# that their event loop did.
_AROUND = 1.75


@dataclass(slots=True)
class CpuBudget:
    """Counts CPU seconds and pauses until they are no more than `share` of the time that passed.

    share: above 0; from 1 on there are no pauses. around: what a second of metered steps costs with
    all that the event loop does for them. spent_s, elapsed_s: of all work so far.
    """

    share: float
    around: float = _AROUND
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    spent_s: float = 0.0
    elapsed_s: float = 0.0
    _owed_s: float = field(default=0.0)
    _since_s: float = field(default=0.0)

    def begin(self) -> None:
        """A piece of work begins now. What the time before it has not used is not saved up."""
        self._owed_s, self._since_s = 0.0, self.clock()

    def charge(self, cpu_s: float) -> None:
        """It has taken so much more."""
        self.spent_s += cpu_s
        self._owed_s += cpu_s / self.share

    async def pause(self) -> None:
        """Return once the budget allows more."""
        while self.share < 1.0:
            left_s = self._owed_s - (self.clock() - self._since_s)
            if left_s <= 0.0:
                return
            await self.sleep(min(left_s, _LONGEST_PAUSE_S))

    def end(self) -> None:
        """It is done, or given up: whoever is told to stop does not pause first."""
        self.elapsed_s += self.clock() - self._since_s

    def metered(self, work: Awaitable[Result]) -> Awaitable[Result]:
        """`work`, with its steps on this thread charged, and what goes on around them."""
        return _Metered(work, self)


class _Metered(Generic[Result]):
    """Awaits another, and times each of its steps by the thread's own clock."""

    def __init__(self, work: Awaitable[Result], budget: CpuBudget) -> None:
        self._work = work
        self._budget = budget

    def __await__(self) -> Generator[Any, Any, Result]:
        steps: Any = self._work.__await__()
        send: Any = None
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waits = steps.send(send) if error is None else steps.throw(error)
            except StopIteration as ended:
                result: Result = ended.value
                return result
            finally:
                self._budget.charge(self._budget.around * (time.thread_time() - began))
            try:
                send, error = (yield waits), None
            except BaseException as raised:  # noqa: BLE001  passed on to the work
                send, error = None, raised
