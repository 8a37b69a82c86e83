"""Work that is finished whatever becomes of who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Finishing:
    """Runs changes to their end: a caller that is cancelled leaves its change to itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    async def run(self, change: Coroutine[Any, Any, Result]) -> Result:
        """The result of `change`."""
        return await asyncio.shield(self.begin(change))

    def begin(self, change: Coroutine[Any, Any, Result]) -> asyncio.Future[Result]:
        """Start `change`; nobody needs to wait for it."""
        task = asyncio.ensure_future(change)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Where the caller went away, nobody else looks at what it failed with.
            task.exception()

    async def close(self) -> None:
        """Wait for all that was begun."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
