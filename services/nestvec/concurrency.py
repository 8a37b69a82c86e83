"""Blocking work off the event loop, with a bound on how much of it may wait; and reads of a store
that may be lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from nestvec.core.balance import CircuitBreaker
from nestvec.core.errors import BudgetSpent, Overloaded, StoreUnavailable, WorkerUnavailable
from nestvec.telemetry import metrics, tracing
from nestvec.telemetry.scraped import by_name

Result = TypeVar("Result")

# Around numpy's reading of a file's header: it parses a literal, and the parser of CPython 3.11 may
# fail with a SystemError where two threads are in it at once (github.com/python/cpython, 106905).
READING_HEADERS = threading.Lock()

# Reads of the store that fail slowly in a row before it is left alone for a moment. One that fails
# at once, as where nothing listens, costs a query a millisecond and is tried every time.
_STORE_FAILURES = 3
_STORE_PAUSE_S = 0.5
# What whoever tries it then may wait: all others are refused meanwhile.
_TRIAL_S = 0.25
_SLOWLY_S = 0.05


class BoundedExecutor:
    """Threads for FAISS and models.

    `threads` calls run and `waiting` more may queue; a further one is refused with Overloaded.
    Cancelling an await does not stop its thread, so its place counts until the thread ends; a call
    that still waits for a thread is taken out of the queue.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"nestvec-{name}")
        self._threads = threads
        self._places = threads + waiting
        self._taken = 0
        # Places are taken on the event loop and given back by the threads.
        self._lock = threading.Lock()
        # Where nothing may wait, somebody else keeps a queue before it.
        if waiting:
            metrics.QUEUE_RUNNING.watch(self, lambda one: by_name({name: one.running}))
            metrics.QUEUE_WAITING.watch(self, lambda one: by_name({name: one.waiting}))
            metrics.QUEUE_PLACES.watch(self, lambda _: by_name({name: waiting}))

    async def run(self, stage: str, timeout_s: float | None, work: Callable[[], Result]) -> Result:
        """`work()` in a thread. Raises BudgetSpent(stage) after `timeout_s`, Overloaded at once
        when too many wait, WorkerUnavailable after `close`.
        """
        return await self.wait(stage, timeout_s, self.submit(work))

    async def wait(self, stage: str, timeout_s: float | None, job: Future[Result]) -> Result:
        """What a job gives that was submitted, or that such a one works for. Raises as `run`."""
        future = asyncio.wrap_future(job)
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

    @property
    def threads(self) -> int:
        """Calls that may run at once."""
        return self._threads

    @property
    def running(self) -> int:
        """Calls that have a thread."""
        return min(self._taken, self._threads)

    @property
    def waiting(self) -> int:
        """Calls that wait for one."""
        return max(self._taken - self._threads, 0)

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """`work()` in a thread, not waited for. Raises Overloaded, WorkerUnavailable."""
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


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side. Raises the first error, when the others are done."""
    for error in await asyncio.gather(*work, return_exceptions=True):
        if error is not None:
            raise error


async def within(
    works: Iterable[Coroutine[Any, Any, Result]], timeout_s: float
) -> list[Result | BaseException]:
    """What each has returned or raised, in order; of the late ones, which are cancelled, a
    CancelledError. All of them are cancelled when the caller itself goes away.
    """
    tasks = [asyncio.create_task(work) for work in works]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, timeout=timeout_s)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return results


def _retrieve(future: asyncio.Future[Result]) -> None:
    if not future.cancelled():
        future.exception()


class StoreGate:
    """One stage's reads of the store. One that has gone silent costs the first queries their share
    of time, and after that one query in every half second.
    """

    def __init__(self, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stage = stage
        self._clock = clock
        self._breaker = CircuitBreaker(_STORE_FAILURES, _STORE_PAUSE_S, _STORE_PAUSE_S)

    async def read(self, work: Callable[[], Awaitable[Result]], timeout_s: float) -> Result:
        """What `work` returns within `timeout_s`. Raises BudgetSpent, or StoreUnavailable without
        asking where the last reads have failed.
        """
        breaker = self._breaker
        trial = not breaker.closed
        if trial:
            if not breaker.begin_probe(self._clock()):
                raise StoreUnavailable(
                    f"the store did not answer the last reads, and is asked again within "
                    f"{_STORE_PAUSE_S + _TRIAL_S:g} s"
                )
            timeout_s = min(timeout_s, _TRIAL_S)
        began_s = self._clock()
        try:
            async with asyncio.timeout(timeout_s):
                if tracing.current() is None:
                    result = await work()
                else:
                    result = await tracing.in_part(f"store.{self._stage}", {}, work())
        except (TimeoutError, StoreUnavailable) as error:
            # Whoever hardly waited has learnt nothing of a store that is silent.
            if self._clock() - began_s >= _SLOWLY_S:
                breaker.failed(self._clock())
            if isinstance(error, StoreUnavailable):
                raise
            raise BudgetSpent(self._stage) from None
        else:
            breaker.succeeded()
            return result
        finally:
            if trial:
                # Where there was no verdict.
                breaker.abandon_probe(self._clock())
