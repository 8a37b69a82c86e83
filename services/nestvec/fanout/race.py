"""One question under way at one replica after another, or at several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nestvec.core.errors import (
    BudgetSpent,
    NestvecError,
    NotFound,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.hedging import Hedging
from nestvec.fanout.replica import Peer, Replica
from nestvec.telemetry import metrics, tracing

Result = TypeVar("Result")
Call = Callable[[Peer, float], Awaitable[Result]]

# One that is so much later than another at what both wait for is no longer just a little behind.
_FAR_BEHIND_S = 0.25
CALL, HEDGE, RETRY = "call", "hedge", "retry"
_CALLS, _HEDGES, _RETRIES = map(metrics.FANOUT_CALLS.labels, (CALL, HEDGE, RETRY))


def is_worth_another(error: BaseException) -> bool:
    """Whether another replica may answer what one did not.

    WorkerUnavailable and LeaseLost: that process is ill, or not the one that was meant. Overloaded:
    its queue is full, another's may not be. StoreUnavailable: the way from that one to the store
    may be cut. NotFound of a collection: it may have opened it later than the others. Everything
    else is the same everywhere: wrong input, another space, a tier that is still being built, a
    deadline that has passed.
    """
    if isinstance(error, NotFound):
        return error.kind == "collection"
    return isinstance(error, WorkerUnavailable | Overloaded | StoreUnavailable)


@dataclass(frozen=True, slots=True)
class Question(Generic[Peer, Result]):
    """call: asks one peer, within so many seconds. kind: what takes about as long. stage: for
    BudgetSpent. hedged: whether being late alone is reason to ask another. waits: it may be late
    because of what it waits for, which says little of the replica.
    """

    call: Call[Peer, Result]
    kind: Hashable
    stage: str
    hedged: bool = True
    waits: bool = False


class Group(Protocol[Peer]):
    """What a question is asked of; see asking.ReplicaGroup."""

    hedging: Hedging
    clock: Callable[[], float]

    def ready(self) -> list[Replica[Peer]]:
        """Those that may be asked."""
        ...

    def pick(self, tried: set[Replica[Peer]]) -> Replica[Peer] | None:
        """The next to ask."""
        ...

    def missing(self) -> WorkerUnavailable:
        """For want of anybody to ask."""
        ...


def asked(
    question: Question[Peer, Result], replica: Replica[Peer], left_s: float, kind: str
) -> Awaitable[Result]:
    """One call of one replica. kind: why it is made, as FANOUT_CALLS counts it."""
    asking = question.call(replica.peer, left_s)
    if tracing.current() is None:
        return asking
    attributes = {"nestvec.replica": replica.name, "nestvec.attempt": kind}
    return tracing.in_part(f"{question.stage}.attempt", attributes, asking)


class Attempt(Generic[Peer, Result]):
    """One call of one replica. kind: see `asked`."""

    def __init__(
        self,
        replica: Replica[Peer],
        question: Question[Peer, Result],
        now_s: float,
        left_s: float,
        kind: str,
    ) -> None:
        self.replica = replica
        self.began_s = now_s
        self.judged = False
        # One whose breaker is open already is asked for want of others: that is no news then.
        self.lost: asyncio.Future[None] | None = (
            replica.gone if replica.lost.done() else replica.lost
        )
        self.task = asyncio.ensure_future(asked(question, replica, left_s, kind))
        replica.under_way += 1
        self.task.add_done_callback(self._end)

    def _end(self, task: asyncio.Future[Result]) -> None:
        self.replica.under_way -= 1
        if not task.cancelled():
            # Where it fails just as another wins, nobody asks for the failure.
            task.exception()

    def error(self) -> BaseException | None:
        """Why it failed, once it is done. A connection that is closed cancels its calls."""
        if self.task.cancelled():
            return WorkerUnavailable(f"{self.replica.name} has left the cluster")
        return self.task.exception()

    def blame(self, now_s: float, why: str) -> None:
        """Hold against the replica, once, that it was late."""
        if not self.judged:
            self.judged = True
            self.replica.failed(now_s, why)


class Race(Generic[Peer, Result]):
    """One question under way: `run` once, then `stop`."""

    def __init__(
        self,
        group: Group[Peer],
        question: Question[Peer, Result],
        timeout_s: float,
        tried: Iterable[Replica[Peer]] = (),
    ) -> None:
        """tried: those that failed at it already."""
        self._group = group
        self._question = question
        self._began_s = group.clock()
        self._deadline_s = self._began_s + timeout_s
        self._tried: set[Replica[Peer]] = set(tried)
        self._running: list[Attempt[Peer, Result]] = []
        self._errors: list[NestvecError] = []
        self._hedge_at_s = float("inf")
        self._slice_at_s = float("inf")

    async def run(self) -> Result:
        """The first good answer."""
        hedging = self._group.hedging
        hedging.called()
        _CALLS.inc()
        if not self._start(CALL):
            raise self._group.missing()
        if self._question.hedged:
            self._hedge_at_s = self._began_s + hedging.delay_s(self._question.kind)
        while True:
            await self._wait()
            won = self._collect()
            if won is not None:
                return won.task.result()
            self._go_on()

    async def stop(self) -> None:
        """Cancel what still runs. Not answering for most of the time given speaks against a
        replica, also when it is the caller who stops waiting.
        """
        now_s = self._group.clock()
        for attempt in self._running:
            self._blame_if_slow(attempt, now_s)
            attempt.task.cancel()
        if self._running:
            tasks = [attempt.task for attempt in self._running]
            self._running = []
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self) -> None:
        """Until something happens, or it is time to do something."""
        waited: list[asyncio.Future[Result] | asyncio.Future[None]] = []
        for attempt in self._running:
            waited.append(attempt.task)
            if attempt.lost is not None:
                waited.append(attempt.lost)
        until_s = min(self._hedge_at_s, self._slice_at_s, self._deadline_s)
        await asyncio.wait(
            waited,
            timeout=max(0.0, until_s - self._group.clock()),
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _collect(self) -> Attempt[Peer, Result] | None:
        """The attempt that won, if any. Raises what no other replica can answer."""
        for attempt in [one for one in self._running if one.task.done()]:
            self._running.remove(attempt)
            error = attempt.error()
            if error is None:
                self._judge(attempt)
                return attempt
            if isinstance(error, WorkerUnavailable):
                attempt.blame(self._group.clock(), str(error))
            elif isinstance(error, BudgetSpent):
                self._blame_if_slow(attempt, self._group.clock())
            else:
                attempt.replica.answered()
            if not isinstance(error, NestvecError) or not is_worth_another(error):
                raise error
            self._errors.append(error)
        return None

    def _judge(self, winner: Attempt[Peer, Result]) -> None:
        """Learn from an answer, and from those that it has overtaken."""
        now_s, hedging = self._group.clock(), self._group.hedging
        winner.replica.answered()
        hedging.learn(self._question.kind, now_s - winner.began_s)
        for late in [one for one in self._running if one.began_s < winner.began_s]:
            ran_s = now_s - late.began_s
            hedging.learn(self._question.kind, ran_s)
            if not self._question.waits or ran_s >= _FAR_BEHIND_S:
                late.blame(now_s, f"overtaken after {ran_s:.3f} s")

    def _blame_if_slow(self, attempt: Attempt[Peer, Result], now_s: float) -> None:
        ran_s, given_s = now_s - attempt.began_s, self._deadline_s - attempt.began_s
        if not self._question.waits and ran_s >= given_s / 2:
            attempt.blame(now_s, f"no answer for {ran_s:.3f} s")

    def _go_on(self) -> None:
        """Nobody has answered: ask another one where there is reason to."""
        now_s, hedging = self._group.clock(), self._group.hedging
        lost = [one for one in self._running if one.lost is not None and one.lost.done()]
        for attempt in lost:
            # Its answer still counts, if it comes.
            attempt.lost = None
        if lost or not self._running:
            self._retry(now_s)
        elif now_s >= self._deadline_s:
            raise BudgetSpent(self._question.stage)
        elif now_s >= self._hedge_at_s:
            self._hedge_at_s = float("inf")
            if self._group.pick(self._tried) is not None and hedging.may_hedge():
                _HEDGES.inc()
                tracing.tell({"nestvec.hedged": True})
                self._start(HEDGE)
        elif now_s >= self._slice_at_s:
            self._retry(now_s)

    def _retry(self, now_s: float) -> None:
        if now_s < self._deadline_s and self._start(RETRY):
            self._group.hedging.counts.retries += 1
            _RETRIES.inc()
        elif not self._running:
            raise self._worst()

    def _start(self, kind: str) -> bool:
        """Ask another one. False when there is none."""
        replica = self._group.pick(self._tried)
        if replica is None:
            self._slice_at_s = float("inf")
            return False
        now_s = self._group.clock()
        self._tried.add(replica)
        left_s = self._deadline_s - now_s
        self._running.append(Attempt(replica, self._question, now_s, left_s, kind))
        # What is left, in equal slices for this one and for each that may still be asked.
        others = sum(one not in self._tried for one in self._group.ready())
        self._slice_at_s = now_s + left_s / (others + 1) if others else float("inf")
        return True

    def _worst(self) -> NestvecError:
        """Of several failures, one that says more than that a collection is not there (yet)."""
        telling = [one for one in self._errors if not isinstance(one, NotFound)]
        return (telling or self._errors)[0]
