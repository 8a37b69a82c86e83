"""Blocking work off the event loop, with a bound on how much of it may wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nestvec.core.errors import BudgetSpent, Overloaded

Result = TypeVar("Result")


class BoundedExecutor:
    """Threads for FAISS and models.

    `threads` calls run and `waiting` more may queue; a further one is refused with Overloaded.
    Cancelling an await does not stop its thread, so its place counts until the thread ends.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"nestvec-{name}")
        self._places = threads + waiting
        self._taken = 0

    async def run(self, stage: str, timeout_s: float | None, work: Callable[[], Result]) -> Result:
        """`work()` in a thread. Raises BudgetSpent(stage) after `timeout_s`, Overloaded at once
        when too many wait.
        """
        if self._taken >= self._places:
            raise Overloaded(
                f"{self._name}: {self._places} calls are running or waiting; retry later, or raise "
                f"its thread or queue limit",
                retry_after_s=0.1,
            )
        self._taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._leave)
        if timeout_s is None:
            return await future
        done, _ = await asyncio.wait((future,), timeout=timeout_s)
        if not done:
            future.cancel()
            raise BudgetSpent(stage)
        return future.result()

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self._taken == 0

    def _leave(self, future: asyncio.Future[Result]) -> None:
        self._taken -= 1
        if not future.cancelled():
            # Retrieved here as well, so that a late failure of an abandoned call is not reported
            # as "never retrieved": its caller was told BudgetSpent.
            future.exception()

    def close(self) -> None:
        """Wait for running work; what waits is cancelled."""
        self._pool.shutdown(wait=True, cancel_futures=True)
