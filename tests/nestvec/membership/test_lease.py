"""A process's place in a cluster through losses, outages of the registry, and its own absence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from nestvec.adapters.memory_registry import MemoryRegistry, Namespace
from nestvec.core.errors import ConfigError, LeaseLost, StoreUnavailable
from nestvec.core.members import PROTOCOL, Facts, Member, MemberState
from nestvec.membership.lease import Lease
from nestvec.membership.watch import Watch
from tests.support.registries import a_member, a_worker, until

HEARTBEAT_S = 0.25
TTL_S = 2 * HEARTBEAT_S


class House:
    """Leases over one namespace, and a watch that others would have."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.namespace = Namespace()
        self.watch = Watch(MemoryRegistry(self.namespace), HEARTBEAT_S)
        self._stack = stack

    async def lease(
        self, member: Member | None = None, heartbeat_s: float = HEARTBEAT_S, **options: object
    ) -> Lease:
        registry = MemoryRegistry(self.namespace)
        await registry.found("green")
        made = Lease(registry, member or a_worker(), heartbeat_s, **options)  # type: ignore[arg-type]
        await made.join()
        self._stack.push_async_callback(made.leave)
        return made

    def members(self) -> dict[str, Member]:
        return {member.name: member for member in self.watch.view.members}

    def state(self, lease: Lease) -> MemberState | None:
        """As others see it; None where they see nobody, or an earlier incarnation."""
        seen = self.members().get(lease.member.name)
        return seen.state if seen and seen.incarnation == lease.member.incarnation else None


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        house = House(stack)
        await house.watch.start()
        stack.push_async_callback(house.watch.close)
        yield house


class StubbornRegistry(MemoryRegistry):
    """It does not answer some attempts to join."""

    refusals = 0

    async def join(self, member: Member, ttl_s: float) -> Member:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("the registry is not there")
        return await super().join(member, ttl_s)


async def at_once() -> None:
    """Nothing to catch up with."""


def is_lost(lease: Lease) -> bool:
    try:
        lease.require(0)
    except LeaseLost:
        return True
    return False


async def test_a_lease_is_held_from_joining_on_and_kept(house: House) -> None:
    lease = await house.lease()
    incarnation = lease.member.incarnation
    for _ in range(12):
        assert lease.answers
        lease.require(incarnation)
        lease.require(0)
        await asyncio.sleep(TTL_S / 4)
    assert lease.held
    assert lease.member.incarnation == incarnation


async def test_a_call_for_another_incarnation_is_refused(house: House) -> None:
    lease = await house.lease()
    other = lease.member.incarnation + 1
    with pytest.raises(LeaseLost, match=f"the call is for {other}"):
        lease.require(other)


async def test_state_and_facts_reach_the_registry(house: House) -> None:
    told = [Facts({"docs:1": 1}), Facts({"docs:1": 2}, lag=7)]

    async def facts() -> Facts:
        return told[-1] if lease.member.state is MemberState.READY else told[0]

    lease = await house.lease(facts=facts)
    name = lease.member.name
    await until(lambda: name in house.members(), "it is seen")
    assert house.members()[name].state is MemberState.STARTING
    await lease.become_ready()
    await until(lambda: house.members()[name].state is MemberState.READY, "it is seen as ready")
    await until(lambda: house.members()[name].facts == told[-1], "its facts are seen")


async def test_leaving_is_seen_and_repeated_without_harm(house: House) -> None:
    lease = await house.lease()
    await until(lambda: bool(house.members()), "it is seen")
    for _ in range(2):
        await lease.leave()
        assert not lease.held
        assert not lease.answers
    assert house.namespace.leases == {}


async def test_a_registry_that_refuses_fails_the_joining(house: House) -> None:
    await house.lease()
    registry = MemoryRegistry(house.namespace)
    other = replace(a_member(), protocol=PROTOCOL + 1)
    with pytest.raises(ConfigError, match="protocol"):
        await Lease(registry, other, HEARTBEAT_S).join()
    house.namespace.silent = True
    with pytest.raises(StoreUnavailable):
        await Lease(registry, a_member(), HEARTBEAT_S).join()


# --- an outage of the registry --------------------------------------------------------------------


async def test_while_the_registry_is_silent_calls_are_answered_and_the_lease_is_not_held(
    house: House,
) -> None:
    lease = await house.lease()
    await lease.become_ready()
    incarnation = lease.member.incarnation
    await until(lambda: lease.member.name in house.members(), "it is seen")
    house.namespace.silent = True
    await until(lambda: not lease.held, "the lease is held no more")
    for _ in range(8):
        await asyncio.sleep(TTL_S / 4)
        lease.require(incarnation)
        # Those who ask go on with what they know.
        assert house.members()[lease.member.name].incarnation == incarnation
    house.namespace.silent = False
    await until(lambda: lease.held, "it is held again")
    assert lease.member.incarnation == incarnation
    assert house.watch.view.members[0].incarnation == incarnation


async def test_a_registry_that_forgot_everything_is_joined_anew(house: House) -> None:
    lease = await house.lease()
    await lease.become_ready()
    first = lease.member.incarnation
    await MemoryRegistry(house.namespace).disband()
    await until(lambda: lease.held and lease.member.incarnation != first, "it has joined anew")
    lease.require(lease.member.incarnation)
    with pytest.raises(LeaseLost):
        lease.require(first)
    await until(lambda: house.state(lease) is MemberState.READY, "it is ready again")


async def test_attempts_that_hang_do_not_count_as_absence(house: House) -> None:
    """A server that accepts and never answers: each attempt is given up in time."""
    lease = await house.lease()

    async def hangs(member: Member, ttl_s: float) -> None:
        await asyncio.sleep(3600)

    lease._registry.renew = hangs  # type: ignore[method-assign]
    await until(lambda: not lease.held, "no attempt succeeds")
    for _ in range(12):
        lease.require(0)
        await asyncio.sleep(HEARTBEAT_S / 3)


# --- its own absence ------------------------------------------------------------------------------


async def test_a_process_that_was_stopped_answers_nothing_until_it_has_joined_again(
    house: House,
) -> None:
    lease = await house.lease()
    first = lease.member.incarnation
    await until(lambda: bool(house.members()), "it is seen")
    stop_while_others_run(house, 2 * TTL_S)
    # The very first call, before anything of this process has run again.
    assert is_lost(lease)
    await until(lambda: lease.held, "it has joined again")
    assert lease.member.incarnation != first
    lease.require(0)
    with pytest.raises(LeaseLost):
        lease.require(first)


async def test_a_process_that_was_stopped_stays_quiet_while_the_registry_is_silent(
    house: House,
) -> None:
    lease = await house.lease()
    house.namespace.silent = True
    stop_for(2 * TTL_S)
    for _ in range(8):
        assert is_lost(lease)
        await asyncio.sleep(HEARTBEAT_S / 2)
    house.namespace.silent = False
    await until(lambda: lease.answers, "the registry has confirmed it")


async def test_after_a_loss_it_is_starting_until_it_has_caught_up(house: House) -> None:
    gate = asyncio.Event()
    gate.set()
    lease = await house.lease(until_ready=gate.wait)
    await lease.become_ready()
    gate.clear()
    first = lease.member.incarnation
    stop_while_others_run(house, 2 * TTL_S)
    await until(lambda: lease.held and lease.member.incarnation != first, "it has joined again")
    for _ in range(4):
        await asyncio.sleep(HEARTBEAT_S)
        assert house.state(lease) is MemberState.STARTING
    gate.set()
    await until(lambda: house.state(lease) is MemberState.READY, "it is ready again")


async def test_it_is_ready_again_also_where_the_first_attempts_to_join_fail(house: House) -> None:
    registry = StubbornRegistry(house.namespace)
    await registry.found("green")
    lease = Lease(registry, a_worker(), HEARTBEAT_S, until_ready=at_once)
    await lease.join()
    try:
        await lease.become_ready()
        first = lease.member.incarnation
        registry.refusals = 3
        stop_while_others_run(house, 2 * TTL_S)
        await until(lambda: lease.held and lease.member.incarnation != first, "it has joined again")
        assert registry.refusals == 0
        await until(lambda: house.state(lease) is MemberState.READY, "it is ready again")
    finally:
        await lease.leave()


async def test_who_drains_does_not_become_ready_any_more(house: House) -> None:
    gate = asyncio.Event()
    lease = await house.lease(until_ready=gate.wait)
    readying = asyncio.create_task(lease.become_ready())
    await asyncio.sleep(0)
    await lease.become(MemberState.DRAINING)
    gate.set()
    await asyncio.gather(readying, return_exceptions=True)
    await asyncio.sleep(HEARTBEAT_S)
    assert lease.member.state is MemberState.DRAINING


# --- one name, two processes ----------------------------------------------------------------------


async def test_whoever_loses_its_name_to_another_waits_until_that_one_is_gone(
    house: House,
) -> None:
    first = await house.lease()
    # Its lease outlasts whatever stops this process for a moment.
    second = await house.lease(replace(a_worker(), address="127.0.0.1:1"), heartbeat_s=10.0)
    await until(lambda: is_lost(first), "the first one has noticed")
    for _ in range(8):
        assert is_lost(first)
        assert second.held
        await asyncio.sleep(HEARTBEAT_S)
    await second.leave()
    await until(lambda: first.held, "the first one has joined again")
    assert first.member.incarnation > second.member.incarnation


def stop_for(seconds: float) -> None:
    """As SIGSTOP does: nothing of this process runs meanwhile."""
    time.sleep(seconds)


def stop_while_others_run(house: House, seconds: float) -> None:
    """The registry hears the rest of the cluster meanwhile."""
    before = time.monotonic()
    stop_for(seconds)
    house.namespace.heard_at += time.monotonic() - before
