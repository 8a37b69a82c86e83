"""A process's place in a cluster: it joins, renews, says how it is, and joins again after a loss.

Three things can go wrong, and they are told apart:

- *The registry says that the lease is lost.* It ended, or somebody else joined under the name. From
  that moment nothing is answered, until the process has joined again under a new incarnation. Where
  somebody else holds the name, it stands by: two processes that are given one name by mistake, or
  one that was frozen until its successor was started, must not take it from each other for ever.
- *The registry does not answer.* It is down, or fails over. The attempts were made in time, so this
  process was not away: it goes on answering, and front ends go on with the view that they have. An
  outage of the registry takes no working data plane down. `held` is false meanwhile, `answers` is
  not. Meanwhile somebody may have joined under its name; but whoever knows of that names the new
  incarnation in calls, and this process refuses those.
- *This process was away.* It was stopped, its machine slept, or its event loop hung: since the last
  attempt so much time went by that its lease may have ended. What it missed meanwhile it cannot
  know, so it answers nothing until the registry has confirmed its lease, or it has joined again.

It renews twice a heartbeat, so that one attempt may fail and the lease still be kept. Whoever has
something to catch up with before it is asked (`until_ready`) is STARTING again after a loss.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from nestvec.core.errors import LeaseLost, NestvecError
from nestvec.core.members import Facts, Member, MemberState
from nestvec.core.ports import Registry
from nestvec.telemetry.logs import logger

# A lease lasts so many heartbeats.
TTL_HEARTBEATS = 2
_RENEWALS_A_HEARTBEAT = 2
# After so many heartbeats without a sign of its own loop a process was away. The last sign may be
# half a heartbeat younger than the last renewal, so this is before the lease can have ended.
_AWAY_HEARTBEATS = 1.5
_log = logger()


def monotonic() -> float:
    """Seconds that also count while the machine sleeps, where the system can tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Lease:
    """Of one process. facts: asked before each renewal; must be quick. until_ready: returns when
    this process may be asked, for `become_ready` and after each loss.

    now: a clock that only goes forward, in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        member: Member,
        heartbeat_s: float,
        facts: Callable[[], Awaitable[Facts]] | None = None,
        until_ready: Callable[[], Awaitable[object]] | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._registry = registry
        self._member = member
        self._heartbeat_s = heartbeat_s
        self._ttl_s = TTL_HEARTBEATS * heartbeat_s
        self._away_s = _AWAY_HEARTBEATS * heartbeat_s
        self._facts = facts
        self._until_ready = until_ready
        self._now = now
        # When the last attempt began that succeeded: the registry counts from then or later.
        self._renewed_at = -float("inf")
        # When this process was last seen to run.
        self._awake_at = now()
        self._lost = True
        self._away = False
        self._complained = False
        self._taken_by = 0
        self._task: asyncio.Task[None] | None = None
        self._readying: asyncio.Task[None] | None = None
        # Renewals take turns, so that an older state never follows a newer one.
        self._telling = asyncio.Lock()

    @property
    def member(self) -> Member:
        """As it was told to the registry last."""
        return self._member

    @property
    def ttl_s(self) -> float:
        """How long a lease lasts that is not renewed."""
        return self._ttl_s

    @property
    def held(self) -> bool:
        """Whether the registry has confirmed it within a lease's time."""
        return not self._lost and self._now() - self._renewed_at < self._ttl_s

    @property
    def answers(self) -> bool:
        """Whether this process may answer calls; see the module's docstring."""
        if self._lost or self._away:
            return False
        # Asked before the heartbeat has come round again: the first call after a stop finds it out.
        return self._now() - self._awake_at < self._away_s

    def require(self, incarnation: int) -> None:
        """That a call which names this incarnation (0: any) may be answered. Raises LeaseLost."""
        mine = self._member.incarnation
        if not self.answers:
            raise LeaseLost(
                f"{self._member.name} has no lease in the cluster at the moment and joins again; "
                f"ask another replica"
            )
        if incarnation not in (0, mine):
            raise LeaseLost(
                f"{self._member.name} is incarnation {mine} and the call is for {incarnation}, "
                f"which has ended; look the worker up again"
            )

    # --- joining and leaving --------------------------------------------------------------------

    async def join(self, address: str | None = None) -> None:
        """Take the lease and keep it. address: host:port, where it was not known before.

        Raises ConfigError or StoreUnavailable when the registry refuses or does not answer.
        """
        assert self._task is None, "joined already"
        if address is not None:
            self._member = replace(self._member, address=address)
        await self._join()
        self._task = asyncio.create_task(self._keep())

    async def become(self, state: MemberState) -> None:
        """Tell a new state now, or with the next renewal that reaches the registry."""
        if state is MemberState.DRAINING:
            await self._stop_readying()
        self._member = replace(self._member, state=state)
        if self._lost:
            return
        with suppress(NestvecError, TimeoutError):
            async with asyncio.timeout(self._ttl_s):
                await self._renew()

    async def become_ready(self) -> None:
        """READY, as soon as `until_ready` has returned. May be cancelled."""
        self._readying = asyncio.create_task(self._ready())
        try:
            await asyncio.shield(self._readying)
        except asyncio.CancelledError:
            await self._stop_readying()
            raise

    async def leave(self) -> None:
        """Give it up. Safe to repeat. Where the registry does not answer it ends by itself."""
        await self._stop_readying()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._lost:
            return
        self._lost = True
        try:
            async with asyncio.timeout(self._ttl_s):
                await self._registry.leave(self._member)
        except (NestvecError, TimeoutError) as error:
            _log.warning("lease.not_released", member=self._member.name, reason=_said(error))

    async def _ready(self) -> None:
        if self._until_ready is not None:
            await self._until_ready()
        await self.become(MemberState.READY)

    async def _stop_readying(self) -> None:
        readying, self._readying = self._readying, None
        if readying is not None:
            readying.cancel()
            await asyncio.gather(readying, return_exceptions=True)

    async def _join(self, state: MemberState | None = None) -> None:
        """state: another one than now, once it has joined."""
        began = self._now()
        member = self._member if state is None else replace(self._member, state=state)
        self._member = await self._registry.join(member, self._ttl_s)
        self._confirmed(began)
        self._taken_by = 0
        _log.info("lease.joined", member=self._member.name, incarnation=self._member.incarnation)

    # --- keeping it -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Until cancelled."""
        pause_s = self._heartbeat_s / _RENEWALS_A_HEARTBEAT
        while True:
            await asyncio.sleep(pause_s)
            held_before = not self._lost
            await self._attempt()
            if held_before and self._lost:
                await self._attempt()

    async def _attempt(self) -> None:
        """To renew, or to join again. A loss is found out by the first, and mended by the next."""
        self._look_at_clock()
        try:
            # Bounded, so that an attempt that hangs is not taken for a process that does.
            async with asyncio.timeout(self._heartbeat_s):
                await (self._join_again() if self._lost else self._renew())
        except LeaseLost as error:
            self._lost = True
            _log.warning("lease.lost", member=self._member.name, reason=str(error))
        except Exception as error:  # noqa: BLE001  whatever it was, this must not end
            self._complain(error)
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        """Was this process away since it was last here?"""
        now = self._now()
        away_s = now - self._awake_at
        self._awake_at = now
        if away_s >= self._away_s:
            self._away = True
            _log.warning("lease.was_away", member=self._member.name, seconds=round(away_s, 3))

    async def _renew(self) -> None:
        async with self._telling:
            facts = self._member.facts if self._facts is None else await self._facts()
            member = self._member = replace(self._member, facts=facts)
            began = self._now()
            await self._registry.renew(member, self._ttl_s)
            self._confirmed(began)

    async def _join_again(self) -> None:
        """Unless somebody else has the name."""
        view = await self._registry.view()
        for other in view.members:
            if other.name == self._member.name:
                if other.incarnation != self._taken_by:
                    self._taken_by = other.incarnation
                    _log.error(
                        "lease.name_taken",
                        member=self._member.name,
                        by=other.address,
                        incarnation=other.incarnation,
                        hint="this process waits until that one is gone; "
                        "give each process a cluster.slot of its own",
                    )
                return
        again = self._until_ready is not None and self._member.is_ready
        if again:
            await self._stop_readying()
        # An attempt that fails here is made again, and has to know then that this one was READY.
        await self._join(MemberState.STARTING if again else None)
        if again:
            self._readying = asyncio.create_task(self._ready())

    def _confirmed(self, began: float) -> None:
        """The registry has answered an attempt that began then."""
        self._renewed_at = began
        # An answer that took so long confirms what may have ended meanwhile.
        late = self._now() - began >= self._away_s
        self._lost, self._away = False, late
        self._awake_at = self._now()
        if self._complained:
            self._complained = False
            _log.info("lease.registry_answers", member=self._member.name)

    def _complain(self, error: Exception) -> None:
        """Once an outage. What is none of our errors is a bug, and shown whole."""
        if self._complained:
            return
        self._complained = True
        ours = isinstance(error, NestvecError | TimeoutError)
        _log.error(
            "lease.not_renewed",
            member=self._member.name,
            reason=_said(error),
            exc_info=None if ours else error,
        )


def _said(error: Exception) -> str:
    return str(error) or "the registry did not answer in time"
