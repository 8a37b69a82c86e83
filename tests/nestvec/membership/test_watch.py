"""The view at hand follows the registry, and outlives its silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from nestvec.adapters.memory_registry import MemoryRegistry
from nestvec.core.errors import StoreUnavailable
from nestvec.core.members import Assignment, Facts, MemberState
from nestvec.membership.watch import Watch
from tests.support.registries import LAYOUT, PATIENT_S, a_worker, until

HEARTBEAT_S = 0.1
LONG_S = 60.0


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
async def watch(registry: MemoryRegistry) -> AsyncIterator[Watch]:
    watch = Watch(registry, HEARTBEAT_S)
    await watch.start()
    yield watch
    await watch.close()


async def test_a_change_is_seen_and_whoever_waits_is_told(
    registry: MemoryRegistry, watch: Watch
) -> None:
    async with asyncio.timeout(PATIENT_S):
        waiting = asyncio.create_task(watch.changed())
        await asyncio.sleep(0)
        await registry.assign("docs", None, Assignment(LAYOUT))
        await waiting
    assert watch.view.assignment("docs") == Assignment(LAYOUT)


async def test_no_change_is_missed_between_two_waits(
    registry: MemoryRegistry, watch: Watch
) -> None:
    before = watch.view
    joined = await registry.join(a_worker(), LONG_S)
    await until(lambda: bool(watch.view.members), "it is seen")
    async with asyncio.timeout(PATIENT_S):
        await watch.changed(before)
    assert watch.view.members == (joined,)


async def test_facts_are_seen_though_they_change_nothing(
    registry: MemoryRegistry, watch: Watch
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    ready = replace(joined, state=MemberState.READY)
    await registry.renew(ready, LONG_S)
    await until(lambda: watch.view.members == (ready,), "it is seen")
    revision = watch.view.revision
    told = replace(ready, facts=Facts({"docs:1": 5}))
    await registry.renew(told, LONG_S)
    await until(lambda: watch.view.members == (told,), "its facts are seen")
    assert watch.view.revision == revision
    assert watch.view.promised == {(LAYOUT, 0): {"docs:1": 5}}


async def test_a_silent_registry_leaves_the_last_view_standing(
    registry: MemoryRegistry, watch: Watch
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    await until(lambda: watch.view.members == (joined,), "it is seen")
    registry.namespace.silent = True
    for _ in range(10):
        await asyncio.sleep(HEARTBEAT_S)
        assert watch.view.members == (joined,)
    registry.namespace.silent = False
    await registry.leave(joined)
    await until(lambda: watch.view.members == (), "it follows again")


async def test_a_registry_that_is_silent_from_the_start_is_told_of() -> None:
    registry = MemoryRegistry()
    registry.namespace.silent = True
    watch = Watch(registry, HEARTBEAT_S)
    with pytest.raises(StoreUnavailable):
        await watch.start()
    await watch.close()


async def test_a_closed_watch_keeps_its_view(registry: MemoryRegistry, watch: Watch) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    await until(lambda: watch.view.members == (joined,), "it is seen")
    for _ in range(2):
        await watch.close()
    assert watch.view.members == (joined,)
