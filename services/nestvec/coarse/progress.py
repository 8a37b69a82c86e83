"""How far in the ingest log a shard is, and who waits for it to get further.

Everything here runs on the event loop; nothing here awaits while it changes something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from nestvec.core.errors import BudgetSpent, NestvecError
from nestvec.core.watermark import Watermark, split_sequence

_STAGE = "watermark"


@dataclass(slots=True, eq=False)
class _Waiter:
    """left: partition -> the sequence to pass, without those passed already."""

    left: dict[int, int]
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Lap:
    """Waits for what the store has when the follower looks next. left: None until it looks."""

    done: asyncio.Future[None]
    left: dict[int, int] | None = None


@dataclass(slots=True, eq=False)
class Progress:
    """positions: partition -> the last sequence that is indexed. there: the store's, as they were
    at the last look. poked: somebody waits.
    """

    positions: dict[int, int] = field(default_factory=dict)
    there: Mapping[int, int] = field(default_factory=dict)
    poked: asyncio.Event = field(default_factory=asyncio.Event)
    _waiters: list[_Waiter] = field(default_factory=list)
    _laps: list[_Lap] = field(default_factory=list)
    _ended: NestvecError | None = None

    def position(self, partition: int) -> int:
        """Where this partition stands; 0 is its beginning."""
        return self.positions.get(partition, 0)

    @property
    def lag(self) -> int:
        """How many changes the store had at the last look that are not indexed."""
        return sum(
            max(split_sequence(sequence)[1] - split_sequence(self.position(partition))[1], 0)
            for partition, sequence in self.there.items()
        )

    # --- waiting --------------------------------------------------------------------------------

    async def reach(self, watermark: Watermark, timeout_s: float) -> None:
        """Raises BudgetSpent, or what `end` was told."""
        if watermark.reached_by(self.positions):
            return
        waiter = _Waiter(dict(watermark.sequences), asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await self._wait(waiter.done, timeout_s)
        finally:
            # Whoever was woken is off the list already.
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def catch_up(self) -> None:
        """Until `lap` is done. Raises what `end` was told."""
        await self._wait(self.lap(), None)

    def lap(self) -> asyncio.Future[None]:
        """Done when all is indexed that the store holds when the follower looks next. What the
        store turns out to have lost is not waited for.
        """
        lap = _Lap(asyncio.get_running_loop().create_future())
        self._laps = [one for one in self._laps if not one.done.cancelled()]
        self._laps.append(lap)
        return lap.done

    async def _wait(self, done: asyncio.Future[None], timeout_s: float | None) -> None:
        if self._ended is not None:
            raise self._ended
        self.poked.set()
        try:
            async with asyncio.timeout(timeout_s):
                await done
        except TimeoutError:
            raise BudgetSpent(_STAGE) from None

    # --- for the follower -----------------------------------------------------------------------

    def wanted(self) -> list[int]:
        """The partitions that somebody waits for."""
        return sorted({partition for waiter in self._waiters for partition in waiter.left})

    def looking(self) -> list[_Lap]:
        """Call before the store's positions are read, and pass the result to `looked`."""
        return [lap for lap in self._laps if lap.left is None]

    def looked(self, laps: list[_Lap], there: Mapping[int, int]) -> None:
        """there: the store's positions."""
        self.there = there
        for lap in laps:
            lap.left = {p: s for p, s in there.items() if s > self.position(p)}
        self.wake()

    def advance(self, positions: Mapping[int, int]) -> None:
        """All up to here is indexed."""
        self.positions.update(positions)
        self.wake()

    def reset(self, partition: int, position: int) -> None:
        """A partition was compared with the store as it was at `position`: maybe before where it
        stood, since the store may have lost its last writes.
        """
        self.positions[partition] = position
        for lap in self._laps:
            if lap.left is not None:
                lap.left.pop(partition, None)
        self.wake()

    def wake(self) -> None:
        """Tell those who have waited long enough."""
        self._waiters = [one for one in self._waiters if not self._passed(one.left, one.done)]
        self._laps = [
            one for one in self._laps if one.left is None or not self._passed(one.left, one.done)
        ]

    def _passed(self, left: dict[int, int], done: asyncio.Future[None]) -> bool:
        for partition in [p for p, sequence in left.items() if self.position(p) >= sequence]:
            del left[partition]
        if not left and not done.done():
            done.set_result(None)
        return not left

    def end(self, error: NestvecError) -> None:
        """Nobody goes on with this: fail whoever waits, now or later."""
        self._ended = error
        waiting = [one.done for one in self._waiters] + [one.done for one in self._laps]
        for done in waiting:
            if not done.done():
                done.set_exception(error)
        self._waiters, self._laps = [], []
