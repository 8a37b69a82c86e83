"""Calls that fail on demand, and waiting for what must come true."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

PATIENT_S = 30.0

Fault = Callable[[], Awaitable[None]]


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `holds` does; what never does fails the test."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.005)


def raising(error: Exception) -> Fault:
    """A fault that raises."""

    async def fault() -> None:
        raise error

    return fault


def waiting_for(event: asyncio.Event) -> Fault:
    """A fault that is late: it waits for `event`."""

    async def fault() -> None:
        await event.wait()

    return fault


async def hanging() -> None:
    """A fault that never answers."""
    await asyncio.Event().wait()


@dataclass(slots=True)
class Faults:
    """What befalls calls by name: `before` a call does its work, or `after`, when only its answer
    is lost. A list of faults is used up one a call; a call without one goes well.
    """

    before: defaultdict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    after: defaultdict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    calls: list[str] = field(default_factory=list)

    async def begin(self, name: str) -> None:
        self.calls.append(name)
        if self.before[name]:
            await self.before[name].pop(0)()

    async def end(self, name: str) -> None:
        if self.after[name]:
            await self.after[name].pop(0)()

    def always(self, name: str, fault: Fault) -> None:
        """From now on, before every call of `name`, until `heal`."""
        self.before[name] = list(itertools.repeat(fault, 1000))

    def heal(self) -> None:
        """No more faults."""
        self.before.clear()
        self.after.clear()
