"""Who works on a migration stops when somebody wishes otherwise, and when the claim runs out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.migration import Phase
from nestvec.core.space import Role
from nestvec.replication.app import MigrationApp
from tests.nestvec.replication.test_migrations import PLAIN, House, open_house
from tests.support.faults import eventually, hanging, raising


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


class Stall:
    """The new model's encoder answers nothing. stopped: nobody waits for it any more."""

    def __init__(self, patch: pytest.MonkeyPatch, house: House) -> None:
        self.waiting = 0
        self.begun = 0
        self.healed = False
        self._encode = house.new.encode
        patch.setattr(house.new, "encode", self.encode)

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        if self.healed:
            return await self._encode(texts, role, timeout_s)
        self.waiting += 1
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        raise AssertionError

    async def until(self, waiting: bool) -> None:
        async def so() -> bool:
            return bool(self.waiting) is waiting

        await eventually(so)


async def test_what_is_given_up_is_dropped_when_nobody_writes_to_it_any_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = Stall(monkeypatch, house)
    drop, waiting = house.rooms.admin.drop_generation, []

    async def dropping(collection: Collection) -> None:
        waiting.append(stall.waiting)
        await drop(collection)

    monkeypatch.setattr(house.rooms.admin, "drop_generation", dropping)
    await house.app.begin("docs", PLAIN)
    await stall.until(True)
    await house.app.abort("docs")
    assert waiting == [0]
    assert [one.generation for one in (await house.store.listing()).generations] == [1]
    # Its claim is free again for the next one.
    stall.healed = True
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)


async def slower(app: MigrationApp) -> None:
    await app.resume("docs", rate=1e6)


async def paused(app: MigrationApp) -> None:
    await app.pause("docs")


@pytest.mark.parametrize("step", [slower, paused])
async def test_a_pause_and_a_rate_are_heeded_in_the_middle_of_a_step(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[MigrationApp], Awaitable[None]],
) -> None:
    stall = Stall(monkeypatch, house)
    await house.app.begin("docs", PLAIN)
    await stall.until(True)
    begun = stall.begun
    await step(house.app)
    if step is paused:
        await stall.until(False)
        assert (await house.status()).phase is Phase.FILLING
    else:

        async def anew() -> bool:
            return stall.begun > begun

        await eventually(anew)
    stall.healed = True
    await house.app.resume("docs", rate=0.0)
    await house.until(Phase.SWITCHED)
    await house.check_whole(2)


@pytest.mark.parametrize("fault", [raising(StoreUnavailable("away")), hanging])
async def test_a_claim_that_cannot_be_renewed_is_worked_under_no_longer_than_it_lasts(
    house: House, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], Awaitable[None]]
) -> None:
    stall = Stall(monkeypatch, house)
    await house.app.begin("docs", PLAIN)
    await stall.until(True)
    claim = house.store.claim_migration

    async def away(name: str, owner: str, ttl_s: float) -> bool:
        await fault()
        raise AssertionError

    monkeypatch.setattr(house.store, "claim_migration", away)
    await stall.until(False)
    assert not house.app.keeper._holds("docs")
    stall.healed = True
    monkeypatch.setattr(house.store, "claim_migration", claim)
    await house.until(Phase.SWITCHED)
