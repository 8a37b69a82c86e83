"""One question to a group of equal replicas: the first good answer, as early as may be.

The less busy of two random replicas is asked. When it has not answered after a delay learned from
recent calls, another one is asked too, while the budget of extra calls lasts; whatever the budget
says, another is asked when the first one fails, is lost, or has used up its slice of the time. The
first answer counts, and the other calls are cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Generic

from nestvec.core.balance import less_loaded_of_two
from nestvec.core.errors import BudgetSpent, NestvecError, WorkerUnavailable
from nestvec.core.hedging import Hedging
from nestvec.core.members import MemberState
from nestvec.fanout.race import CALL, Question, Race, Result, asked
from nestvec.fanout.replica import Peer, Replica
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger

# How long a replica that failed before may take to show that it is well again.
_PROBE_S = 2.0
PROBE = "probe"
_CALLS, _PROBES = map(metrics.FANOUT_CALLS.labels, (CALL, PROBE))
_log = logger()


class ReplicaGroup(Generic[Peer]):
    """Replicas that can all answer the same questions. `members` is set by whoever follows the
    cluster. what: for messages, as "shard 2 of docs/4".
    """

    def __init__(
        self,
        what: str,
        hedging: Hedging | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.what = what
        self._members: list[Replica[Peer]] = []
        self._ready: list[Replica[Peer]] = []
        self.hedging = hedging or Hedging()
        self.clock = clock
        self._draw = (random or Random()).randrange
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Replica[Peer]]:
        """All of them, whatever their state. Set again whenever one's state changes."""
        return self._members

    @members.setter
    def members(self, members: list[Replica[Peer]]) -> None:
        self._members = members
        self._ready = [one for one in members if one.is_ready] or [
            one for one in members if one.member.state is MemberState.DRAINING
        ]

    def ready(self) -> list[Replica[Peer]]:
        """Those that are asked. Where none is ready, those that are about to leave: they answer
        until they do.
        """
        return self._ready

    def missing(self) -> WorkerUnavailable:
        """For want of anybody to ask."""
        there = ", ".join(f"{one.name} is {one.member.state}" for one in self.members)
        return WorkerUnavailable(
            f"{self.what} has no replica that is ready ({there or 'no member of the cluster'}); "
            f"`nestvec status` shows who is there"
        )

    async def ask(self, question: Question[Peer, Result], timeout_s: float) -> Result:
        """Raises what a replica raised that no other can answer better, WorkerUnavailable at once
        when there is nobody to ask, and BudgetSpent.
        """
        tried: set[Replica[Peer]] = set()
        if len(self._ready) == 1:
            only, deadline_s = self._ready[0], self.clock() + timeout_s
            try:
                return await self._ask_only(only, question, timeout_s)
            except WorkerUnavailable:
                timeout_s = deadline_s - self.clock()
                if timeout_s <= 0.0 or self.pick({only}) is None:
                    raise
                # Another one has joined meanwhile.
                tried.add(only)
        race = Race(self, question, timeout_s, tried)
        self._probe(question)
        try:
            return await race.run()
        finally:
            await race.stop()

    async def _ask_only(
        self, replica: Replica[Peer], question: Question[Peer, Result], timeout_s: float
    ) -> Result:
        """As a race of one: there is nobody else to ask, so nothing to watch while it runs."""
        began_s = self.clock()
        self.hedging.called()
        _CALLS.inc()
        replica.under_way += 1
        try:
            answer = await asked(question, replica, timeout_s, CALL)
        except WorkerUnavailable as error:
            replica.failed(self.clock(), str(error))
            raise
        except (BudgetSpent, asyncio.CancelledError):
            ran_s = self.clock() - began_s
            if not question.waits and ran_s >= timeout_s / 2:
                replica.failed(self.clock(), f"no answer for {ran_s:.3f} s")
            if not replica.gone.done():
                raise
            raise self.missing() from None
        except NestvecError:
            replica.answered()
            raise
        finally:
            replica.under_way -= 1
        replica.answered()
        self.hedging.learn(question.kind, self.clock() - began_s)
        return answer

    def pick(self, tried: set[Replica[Peer]]) -> Replica[Peer] | None:
        """The next to ask. Those whose breaker is open come last."""
        untried = [one for one in self._ready if one not in tried]
        trusted = [one for one in untried if one.breaker.closed] or untried
        if not trusted:
            return None
        return trusted[less_loaded_of_two([one.under_way for one in trusted], self._draw)]

    async def close(self) -> None:
        """Stop what nobody waits for."""
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    # --- probes -------------------------------------------------------------------------------

    def _probe(self, question: Question[Peer, Result]) -> None:
        """Send replicas that failed a copy of the question when it is time. Nobody waits for the
        answer, so that no caller pays for finding out.
        """
        closed = [one.breaker.closed for one in self._ready]
        if all(closed) or not any(closed) or question.waits:
            # Where none is trusted they are asked all the same. What waits for something, or does
            # something, is no question to try.
            return
        now_s = self.clock()
        for replica in self._ready:
            if replica.breaker.begin_probe(now_s):
                self.hedging.counts.probes += 1
                _PROBES.inc()
                task = asyncio.create_task(self._probed(replica, question))
                self._probes.add(task)
                task.add_done_callback(self._probe_ended)

    def _probe_ended(self, task: asyncio.Task[None]) -> None:
        self._probes.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("fanout.probe_failed", group=self.what, exc_info=error)

    async def _probed(self, replica: Replica[Peer], question: Question[Peer, Result]) -> None:
        try:
            async with asyncio.timeout(_PROBE_S):
                await asked(question, replica, _PROBE_S, PROBE)
        except (WorkerUnavailable, BudgetSpent, TimeoutError) as error:
            replica.failed(self.clock(), str(error))
        except NestvecError:
            # It answers, and that was the question.
            replica.answered()
        else:
            replica.answered()
        finally:
            replica.breaker.abandon_probe(self.clock())
