"""A worker serves what is assigned to its layout, and is ready when all of it is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.adapters.memory_registry import MemoryRegistry
from nestvec.admin.app import StoredCatalogue
from nestvec.admin.tiers import drawn
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.holdings import Holdings, saves
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    ClusterView,
    Layout,
    Member,
    MemberState,
    Place,
)
from nestvec.membership.measures import Load
from nestvec.membership.watch import Watch
from tests.nestvec.core.synthetic import mrl_like
from tests.support.registries import PATIENT_S, a_worker, until
from tests.support.rooms import FaultyStore, a_collection, created, written

HEARTBEAT_S = 0.05
MINE, OTHER = Layout("mine", 1), Layout("other", 1)


@dataclass
class House:
    store: FaultyStore
    registry: MemoryRegistry
    app: CoarseApp
    holdings: Holdings
    watch: Watch

    def held(self) -> dict[str, Collection]:
        return {one.collection.name: one.collection for one in self.app.held()}

    async def assign(self, name: str, wanted: Assignment | None) -> None:
        stands = (await self.registry.view()).assignments.get(name)
        await self.registry.assign(name, stands, wanted)
        await until(lambda: self.watch.view.assignments.get(name) == wanted, "it is seen")

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENT_S):
            await self.holdings.until_ready()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        store, registry = FaultyStore(), MemoryRegistry()
        await registry.assign(EVERY_COLLECTION, None, Assignment(MINE))
        watch = Watch(registry, HEARTBEAT_S)
        await watch.start()
        stack.push_async_callback(watch.close)
        app = CoarseApp(store, NumpyFactory(), poll_s=0.01)
        stack.push_async_callback(app.close)
        catalogue = StoredCatalogue(store)
        holdings = Holdings(app, catalogue.refresh, watch, Place(MINE, 0), HEARTBEAT_S, Load(2))
        stack.push_async_callback(holdings.close)
        holdings.start()
        yield House(store, registry, app, holdings, watch)


async def longer_by(store: FaultyStore, collection: Collection, dim: int) -> Collection:
    """With one more tier, in the catalogue only."""
    changed = replace(collection, tiers=(*collection.tiers, dim))
    await store.update_collection(changed, drawn(changed, (dim,)))
    return changed


async def test_with_nothing_to_hold_a_worker_is_ready(house: House) -> None:
    await house.ready()
    assert house.held() == {}


async def test_a_worker_is_ready_when_it_holds_every_document_of_what_is_assigned(
    house: House,
) -> None:
    names = ["a", "b", "c"]
    for seed, name in enumerate(names):
        collection = await created(house.store, a_collection(name))
        await written(house.store, collection, mrl_like(50 + seed, 64, seed=seed))
    await house.ready()
    facts = await house.holdings.facts()
    assert facts.documents == {"a:1": 50, "b:1": 51, "c:1": 52}
    assert facts.lag == 0


async def test_it_is_not_ready_while_one_of_them_cannot_be_opened(house: House) -> None:
    await created(house.store, a_collection("sound"))
    unmade = await house.store.create_collection(a_collection("unmade"), {})
    readying = asyncio.create_task(house.holdings.until_ready())
    await until(lambda: "sound" in house.held(), "the other one is open all the same")
    await asyncio.sleep(4 * HEARTBEAT_S)
    assert not readying.done()
    await house.store.drop_collection(unmade)
    async with asyncio.timeout(PATIENT_S):
        await readying


async def test_one_of_another_layout_is_left_alone(house: House) -> None:
    await house.assign("there", Assignment(OTHER))
    await house.assign("both", Assignment(OTHER, coming=MINE))
    await house.assign("before", Assignment(OTHER, previous=MINE))
    for name in ("there", "both", "before", "here"):
        await created(house.store, a_collection(name))
    await house.ready()
    assert sorted(house.held()) == ["before", "both", "here"]


async def test_one_that_moves_away_is_released_and_comes_back(house: House) -> None:
    docs = await created(house.store, a_collection())
    await written(house.store, docs, mrl_like(20, 64, seed=1))
    await house.ready()
    await house.assign("docs", Assignment(OTHER))
    await until(lambda: house.held() == {}, "it is released")
    await house.assign("docs", None)
    await until(lambda: "docs" in house.held(), "it is back")
    assert house.app.held()[0].documents == 20


async def test_an_empty_registry_empties_no_worker(house: House) -> None:
    await created(house.store, a_collection())
    await house.ready()
    await house.registry.disband()
    await until(lambda: not house.watch.view.assignments, "the registry is seen to be empty")
    await asyncio.sleep(4 * HEARTBEAT_S)
    assert "docs" in house.held()


async def test_a_new_generation_takes_the_place_of_the_old_one(house: House) -> None:
    first = await created(house.store, a_collection())
    await house.ready()
    await house.store.drop_collection(first)
    await until(lambda: house.held() == {}, "it is dropped")
    second = await created(house.store, a_collection())
    await until(lambda: house.held().get("docs") == second, "the new one is open")
    assert second.generation > first.generation


async def test_a_tier_that_is_added_is_built(house: House) -> None:
    docs = await created(house.store, a_collection())
    await house.ready()
    longer = await longer_by(house.store, docs, 32)
    await until(lambda: house.held().get("docs") == longer, "it is built")
    assert sorted(house.app.held()[0].tiers) == [16, 32]


async def test_what_an_administrator_has_just_opened_is_not_undone_by_an_older_look(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue was read before, and compared after."""
    docs = await created(house.store, a_collection())
    await house.ready()
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Sequence[Collection]:
        listed = [one for one in await house.store.collections() if not one.restoring]
        reading.set()
        await go_on.wait()
        return listed

    monkeypatch.setattr(house.holdings, "_read", slow)
    await reading.wait()
    new = await created(house.store, a_collection("new"))
    longer = await longer_by(house.store, docs, 32)
    await house.app.open(new)
    await house.app.open(longer)
    tier = house.app.held()[0].tiers[32]
    go_on.set()
    await house.ready()
    assert house.held() == {"docs": longer, "new": new}
    assert house.app.held()[0].tiers[32] is tier


async def test_while_the_store_is_silent_what_is_served_stays_and_nothing_is_ready(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await created(house.store, a_collection())
    await house.ready()
    read = house.holdings._read

    async def fails() -> Sequence[Collection]:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(house.holdings, "_read", fails)
    readying = asyncio.create_task(house.holdings.until_ready())
    await asyncio.sleep(4 * HEARTBEAT_S)
    assert "docs" in house.held()
    assert not readying.done()
    monkeypatch.setattr(house.holdings, "_read", read)
    async with asyncio.timeout(PATIENT_S):
        await readying


async def test_what_is_not_indexed_yet_is_told_as_lag(house: House) -> None:
    docs = await created(house.store, a_collection())
    await house.ready()
    (served,) = house.app.held()
    async with served.writing:
        await written(house.store, docs, mrl_like(30, 64, seed=1))
        await until(lambda: served.progress.lag > 0, "it has looked")
        assert (await house.holdings.facts()).lag == 30
    await until(lambda: served.progress.lag == 0 and served.documents == 30, "it has caught up")


# --- whose turn it is to save ---------------------------------------------------------------------


def at(replica: int, state: MemberState = MemberState.READY) -> Member:
    return replace(a_worker(0, replica, MINE), state=state)


@pytest.mark.parametrize(
    ("others", "mine", "turn"),
    [
        ([], MemberState.READY, True),
        ([], MemberState.DRAINING, True),
        ([at(2)], MemberState.READY, True),
        ([at(0)], MemberState.READY, False),
        ([at(0, MemberState.STARTING)], MemberState.READY, True),
        ([at(0, MemberState.DRAINING), at(2)], MemberState.READY, True),
        ([at(2)], MemberState.DRAINING, False),
        ([at(2)], MemberState.STARTING, False),
        ([replace(a_worker(1, 0, MINE), state=MemberState.READY)], MemberState.READY, True),
    ],
)
def test_of_the_replicas_of_a_shard_one_saves(
    others: list[Member], mine: MemberState, turn: bool
) -> None:
    me = at(1, mine)
    assert saves(ClusterView(1, (me, *others)), Place(MINE, 0), me.name) is turn
