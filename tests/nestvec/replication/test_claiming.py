"""A piece of work is done by one process at a time, and by another one when that is gone."""

from __future__ import annotations

import asyncio

import pytest

from nestvec.adapters.memory_store import MemoryStore
from nestvec.core.errors import StoreUnavailable
from nestvec.replication.claiming import Claims
from tests.support.faults import eventually, hanging


async def forever() -> None:
    await asyncio.Event().wait()


async def test_one_has_it_until_it_gives_it_up() -> None:
    store = MemoryStore()
    one, other = Claims(store, 30.0), Claims(store, 30.0)
    assert await one.take("docs:us")
    assert not await other.take("docs:us")
    assert await other.take("docs:ap")
    assert (one.holds("docs:us"), other.holds("docs:us")) == (True, False)
    await one.release("docs:us")
    assert not one.holds("docs:us")
    assert await other.take("docs:us")


async def test_work_goes_on_while_the_claim_is_renewed_and_ends_when_it_is_lost() -> None:
    store = MemoryStore()
    one, thief = Claims(store, 1.5), Claims(store, 30.0)
    assert await one.take("docs:us")
    work = asyncio.create_task(one.work("docs:us", forever()))
    # Longer than it lasts; a busy machine may keep this process waiting for some of it.
    await asyncio.sleep(2.0)
    assert not work.done()
    await store.release_migration("docs:us", one.owner)
    assert await thief.take("docs:us")
    async with asyncio.timeout(30):
        await work


async def test_a_store_that_is_away_ends_work_when_the_claim_may_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    claims = Claims(store, 0.3)
    assert await claims.take("docs:us")

    async def away(name: str, owner: str, ttl_s: float) -> bool:
        await hanging()
        return True

    monkeypatch.setattr(store, "claim_migration", away)
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.1 s"):
        await claims.take("docs:us")
    async with asyncio.timeout(30):
        await claims.work("docs:us", forever())
    assert not claims.holds("docs:us")


async def test_what_the_work_raises_is_raised() -> None:
    store = MemoryStore()
    claims = Claims(store, 30.0)
    assert await claims.take("docs:us")

    async def fails() -> None:
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable, match="gone"):
        await claims.work("docs:us", fails())


async def test_work_is_stopped_with_whoever_does_it() -> None:
    store, stopped = MemoryStore(), asyncio.Event()
    claims = Claims(store, 30.0)
    assert await claims.take("docs:us")

    async def work() -> None:
        try:
            await forever()
        finally:
            stopped.set()

    working = asyncio.create_task(claims.work("docs:us", work()))
    await asyncio.sleep(0.01)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)

    async def over() -> bool:
        return stopped.is_set()

    await eventually(over)
