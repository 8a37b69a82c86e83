"""One direction of a migration that goes both ways."""

from __future__ import annotations

import asyncio

from nestvec.core.errors import NestvecError
from nestvec.replication.copier import Copier


class Follower:
    """Looks again and again, in a task of its own, until it is closed. So what holds it up (a model
    whose encoder is gone, or takes minutes) does not hold up the other direction.
    """

    def __init__(self, copier: Copier, idle_s: float, retry_s: float) -> None:
        """Seconds between looks that found nothing, and after a failure."""
        self._copier = copier
        self._idle_s = idle_s
        self._retry_s = retry_s
        self._error: NestvecError | None = None
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                moved = await self._copier.look()
            except NestvecError as error:
                self._error = error
                await asyncio.sleep(self._retry_s)
            else:
                self._error = None
                await asyncio.sleep(0.0 if moved else self._idle_s)

    def require_well(self) -> None:
        """Raise what its last look failed with, or the bug that ended it."""
        if self._task.done():
            self._task.result()
        if self._error is not None:
            # Raised often: without the frames of the times before.
            raise self._error.with_traceback(None)

    async def close(self) -> None:
        """Stop, wherever it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
