"""Blocking work off the event loop, with a bound on how much of it may wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from nestvec.core.errors import BudgetSpent, Overloaded, WorkerUnavailable

Result = TypeVar("Result")


class BoundedExecutor:
    """Threads for FAISS and models.

    `threads` calls run and `waiting` more may queue; a further one is refused with Overloaded.
    Cancelling an await does not stop its thread, so its place counts until the thread ends; a call
    that still waits for a thread is taken out of the queue.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"nestvec-{name}")
        self._places = threads + waiting
        self._taken = 0
        # Places are taken on the event loop and given back by the threads.
        self._lock = threading.Lock()

    async def run(self, stage: str, timeout_s: float | None, work: Callable[[], Result]) -> Result:
        """`work()` in a thread. Raises BudgetSpent(stage) after `timeout_s`, Overloaded at once
        when too many wait, WorkerUnavailable after `close`.
        """
        future = asyncio.wrap_future(self._submit(work))
        # Where it fails just as its caller goes away, nobody is left to retrieve the failure.
        future.add_done_callback(_retrieve)
        try:
            done, _ = await asyncio.wait((future,), timeout=timeout_s)
        finally:
            future.cancel()
        if not done:
            raise BudgetSpent(stage)
        if future.cancelled():
            raise self._closed()
        return future.result()

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self._taken == 0

    def _submit(self, work: Callable[[], Result]) -> Future[Result]:
        with self._lock:
            if self._taken >= self._places:
                raise Overloaded(
                    f"{self._name}: {self._places} calls are running or waiting; retry later, or "
                    f"raise its thread or queue limit",
                    retry_after_s=0.1,
                )
            try:
                job = self._pool.submit(work)
            except RuntimeError:
                raise self._closed() from None
            self._taken += 1
        # Runs when the thread ends, or when the call is taken out of the queue.
        job.add_done_callback(self._leave)
        return job

    def _leave(self, _job: Future[Result]) -> None:
        with self._lock:
            self._taken -= 1

    def _closed(self) -> WorkerUnavailable:
        return WorkerUnavailable(f"{self._name} is closed")

    def close(self) -> None:
        """Wait for running work; what waits is cancelled. Blocks."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _retrieve(future: asyncio.Future[Result]) -> None:
    if not future.cancelled():
        future.exception()
