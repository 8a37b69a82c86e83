"""Several servers behind one client: which is asked, when another one is, and which is left alone.

Only reads are asked twice. What was written may have been done by a server that did not answer, so
a write goes to one server and its failure is the caller's to see.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nestvec.core.balance import CircuitBreaker, less_loaded_of_two
from nestvec.core.errors import NestvecError, WorkerUnavailable
from nestvec.core.hedging import Hedging

# A call that has run for so many usual delays, and at least for so long, is held for lost: asking
# another server is then no hedge, which there is a budget for, but a retry.
_LOST_DELAYS = 5.0
_LEAST_LOST_S = 0.25
# When every server has refused: the pause before they are asked again; it doubles each time.
_FIRST_PAUSE_S = 0.05
_MOST_ROUNDS = 4
# A wait may end a hair before the time that it was computed from.
_CLOCK_GRAIN_S = 1e-6


def read_elsewhere(error: NestvecError) -> bool:
    """Whether another server may do better: this one is gone, going, or was cut off."""
    return isinstance(error, WorkerUnavailable)


@dataclass(slots=True)
class _Server:
    under_way: int = 0
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)


class FrontEnds:
    """What one client knows of its servers. Safe to use from several threads."""

    def __init__(
        self,
        count: int,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[int], int] = random.randrange,
    ) -> None:
        self._servers = [_Server() for _ in range(count)]
        self._hedging = Hedging()
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._servers)

    def now_s(self) -> float:
        """On the clock that all times here are on."""
        return self._clock()

    def pick(self, tried: frozenset[int] | set[int] = frozenset()) -> int:
        """A server for the next attempt; one that was not tried where there is one."""
        with self._lock:
            left = [i for i in range(len(self._servers)) if i not in tried] or list(
                range(len(self._servers))
            )
            due = next((i for i in left if self._begin_probe(i)), None)
            if due is None:
                well = [i for i in left if self._servers[i].breaker.closed] or left
                loads = [self._servers[i].under_way for i in well]
                due = well[less_loaded_of_two(loads, self._draw)]
            self._servers[due].under_way += 1
            return due

    def _begin_probe(self, number: int) -> bool:
        return self._servers[number].breaker.begin_probe(self._clock())

    @contextmanager
    def one(self) -> Iterator[int]:
        """A server for a call that must not be made twice. What comes of it is noted."""
        if len(self._servers) == 1:
            yield 0
            return
        server = self.pick()
        try:
            yield server
        except NestvecError as error:
            self.ended(server, error)
            raise
        except BaseException:
            # Interrupted: that says nothing of the server.
            self.ended(server, None, certain=False)
            raise
        self.ended(server, None)

    def ended(self, number: int, error: NestvecError | None, certain: bool = True) -> None:
        """A call that was not an Attempt has ended so. certain: whether that says anything."""
        with self._lock:
            server = self._servers[number]
            server.under_way -= 1
            if error is not None and read_elsewhere(error):
                server.breaker.failed(self._clock())
            elif certain:
                server.breaker.succeeded()
            else:
                server.breaker.abandon_probe(self._clock())

    def called(self) -> None:
        """A call began, with its first attempt."""
        with self._lock:
            self._hedging.called()

    def may_hedge(self) -> bool:
        """Whether the budget allows one more attempt for a call that is merely late."""
        with self._lock:
            return self._hedging.may_hedge()

    def delay_s(self, kind: Hashable) -> float:
        """After how long a call of this kind is late."""
        with self._lock:
            return self._hedging.delay_s(kind)

    def answered(self, number: int, kind: Hashable, seconds: float) -> None:
        """A server answered, were it with a refusal of the request."""
        with self._lock:
            server = self._servers[number]
            server.under_way -= 1
            server.breaker.succeeded()
            self._hedging.learn(kind, seconds)

    def failed(self, number: int) -> None:
        """A server could not be reached, or was held for lost."""
        with self._lock:
            server = self._servers[number]
            server.under_way -= 1
            server.breaker.failed(self._clock())

    def overtaken(self, number: int, kind: Hashable, seconds: float) -> None:
        """Another server was faster, or the caller went away."""
        with self._lock:
            server = self._servers[number]
            server.under_way -= 1
            server.breaker.abandon_probe(self._clock())
            self._hedging.learn(kind, seconds)


@dataclass(slots=True)
class Attempt:
    """One server asked once."""

    server: int
    began_s: float


class Attempts:
    """The attempts of one read. Without any I/O: the clients start, wait, and tell.

    start -> (wait up to `patience_s`) -> `failed`, `answered` or nothing -> `next_server` -> ...
    """

    def __init__(self, front_ends: FrontEnds, kind: Hashable) -> None:
        self._front_ends = front_ends
        self._kind = kind
        self._tried: set[int] = set()
        self._running: list[Attempt] = []
        self._late_s = front_ends.delay_s(kind)
        self._lost_s = max(_LOST_DELAYS * self._late_s, _LEAST_LOST_S)
        self._hedged = False
        self._rounds = 0
        self._resume_s: float | None = None
        front_ends.called()

    def start(self) -> Attempt:
        """The next attempt. Also after a pause, in another round over all servers."""
        self._resume_s = None
        if len(self._tried) == len(self._front_ends):
            self._tried = {one.server for one in self._running}
        attempt = Attempt(self._front_ends.pick(self._tried), self._front_ends.now_s())
        self._tried.add(attempt.server)
        self._running.append(attempt)
        return attempt

    def patience_s(self) -> float | None:
        """How long to wait for the running attempts before `another_is_due`; None: to the end."""
        now = self._front_ends.now_s()
        if self._resume_s is not None:
            return max(0.0, self._resume_s - now)
        if not self._running or len(self._tried) == len(self._front_ends):
            return None
        patience = self._lost_s if self._hedged else self._late_s
        return max(0.0, self._running[-1].began_s + patience - now)

    def another_is_due(self) -> bool:
        """Whether to `start` one more now, after `patience_s` or a failure."""
        now = self._front_ends.now_s()
        if self._resume_s is not None:
            return now + _CLOCK_GRAIN_S >= self._resume_s
        if not self._running:
            return True
        if len(self._tried) == len(self._front_ends):
            return False
        waited = now - self._running[-1].began_s + _CLOCK_GRAIN_S
        if waited >= self._lost_s:
            return True
        if self._hedged or waited < self._late_s:
            return False
        self._hedged = True
        return self._front_ends.may_hedge()

    def failed(self, attempt: Attempt) -> bool:
        """It could not be reached. Returns whether it is worth going on with this read."""
        self._running.remove(attempt)
        self._front_ends.failed(attempt.server)
        if self._running or len(self._tried) < len(self._front_ends):
            return True
        self._rounds += 1
        if self._rounds >= _MOST_ROUNDS:
            return False
        self._resume_s = self._front_ends.now_s() + _FIRST_PAUSE_S * 2 ** (self._rounds - 1)
        return True

    def answered(self, attempt: Attempt) -> None:
        """Its answer is the read's; the others are given up."""
        self._running.remove(attempt)
        seconds = self._front_ends.now_s() - attempt.began_s
        self._front_ends.answered(attempt.server, self._kind, seconds)
        self.give_up()

    def give_up(self) -> None:
        """Nobody waits for what still runs."""
        now = self._front_ends.now_s()
        for attempt in self._running:
            ran_s = now - attempt.began_s
            if ran_s >= self._lost_s:
                self._front_ends.failed(attempt.server)
            else:
                self._front_ends.overtaken(attempt.server, self._kind, ran_s)
        self._running = []
