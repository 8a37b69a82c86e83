"""One read, asked of several servers where one is late or gone: for each kind of client."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Hashable
from typing import Any

import grpc

from nestvec.client.front_ends import Attempt, Attempts, FrontEnds, read_elsewhere
from nestvec.core.errors import BudgetSpent, NestvecError

# (which server, seconds) -> a call under way.
Starter = Callable[[int, float], Any]


class _Read:
    """What both kinds do with an attempt that has ended."""

    def __init__(
        self, front_ends: FrontEnds, kind: Hashable, timeout_s: float, start: Starter
    ) -> None:
        self._front_ends = front_ends
        self._start = start
        self._deadline_s = front_ends.now_s() + timeout_s
        self.attempts = Attempts(front_ends, kind)

    def begin(self) -> tuple[Attempt, Any]:
        attempt = self.attempts.start()
        # gRPC refuses a deadline that has passed with a status of its own.
        left_s = max(self._deadline_s - self._front_ends.now_s(), 0.001)
        return attempt, self._start(attempt.server, left_s)

    def refused(self, attempt: Attempt, error: NestvecError) -> bool:
        """Whether to go on."""
        if read_elsewhere(error):
            return self.attempts.failed(attempt)
        if isinstance(error, BudgetSpent):
            self.attempts.failed(attempt)
        else:
            self.attempts.answered(attempt)
        return False


def ask_blocking(
    front_ends: FrontEnds,
    kind: Hashable,
    timeout_s: float,
    start: Starter,
    error_of: Callable[[grpc.RpcError], NestvecError],
) -> Any:
    """The first good answer. start: returns grpc futures. Raises the error of the last attempt."""
    read = _Read(front_ends, kind, timeout_s, start)
    attempts = read.attempts
    ended: queue.SimpleQueue[tuple[Attempt, Any]] = queue.SimpleQueue()
    calls: list[Any] = []

    def begin() -> None:
        attempt, call = read.begin()
        calls.append(call)
        call.add_done_callback(lambda done: ended.put((attempt, done)))

    try:
        begin()
        while True:
            try:
                attempt, call = ended.get(timeout=attempts.patience_s())
            except queue.Empty:
                if attempts.another_is_due():
                    begin()
                continue
            error = call.exception()
            if error is None:
                attempts.answered(attempt)
                return call.result()
            mapped = error_of(error)
            if not read.refused(attempt, mapped):
                raise mapped from None
            if attempts.another_is_due():
                begin()
    finally:
        attempts.give_up()
        for call in calls:
            call.cancel()


async def ask_async(
    front_ends: FrontEnds,
    kind: Hashable,
    timeout_s: float,
    start: Starter,
    error_of: Callable[[grpc.RpcError], NestvecError],
) -> Any:
    """As `ask_blocking`. start: returns grpc.aio calls."""
    read = _Read(front_ends, kind, timeout_s, start)
    attempts = read.attempts
    calls: dict[asyncio.Future[Any], Attempt] = {}

    def begin() -> None:
        attempt, call = read.begin()
        calls[asyncio.ensure_future(call)] = attempt

    try:
        begin()
        while True:
            patience_s = attempts.patience_s()
            if calls:
                done, _ = await asyncio.wait(
                    calls, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
            else:
                await asyncio.sleep(patience_s or 0.0)
                done = set()
            for call in done:
                attempt = calls.pop(call)
                error = call.exception()
                if error is None:
                    attempts.answered(attempt)
                    return call.result()
                if not isinstance(error, grpc.RpcError):
                    raise error
                mapped = error_of(error)
                if not read.refused(attempt, mapped):
                    raise mapped from None
            if attempts.another_is_due():
                begin()
    finally:
        attempts.give_up()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
