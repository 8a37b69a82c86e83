"""Tiers come and go while a collection is written and searched."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.blob_store import open_blobs
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.tiers import drawn
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.core.collection import Collection
from nestvec.core.errors import NotFound, StoreUnavailable
from nestvec.core.ports import SnapshotInfo
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    a_collection,
    created,
    deleted,
    hanging,
    raising,
    waiting_for,
    written,
)
from tests.support.shards import a_query, found, found_in_every_tier, reached

NEVER_S = 1000.0


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def app(store: FaultyStore) -> AsyncIterator[CoarseApp]:
    opened = CoarseApp(store, NumpyFactory(), load_batch=7, poll_s=NEVER_S)
    yield opened
    await opened.close()


async def changed(store: FaultyStore, docs: Collection, tiers: tuple[int, ...]) -> Collection:
    """`docs` with other tiers, in the store too."""
    after = replace(docs, tiers=tiers)
    added = set(tiers) - set(docs.tiers)
    await store.update_collection(after, drawn(after, added))
    return after


@pytest.mark.parametrize("tiers", [(8, 32), (32, 64), (8, 16, 32, 64)])
async def test_a_new_tier_holds_what_the_others_do_and_answers_as_one_opened_with_it(
    app: CoarseApp, store: FaultyStore, tiers: tuple[int, ...]
) -> None:
    docs = await created(store, a_collection(tiers=(32,)))
    ids = await written(store, docs, mrl_like(40, 64, seed=1))
    await app.open(docs)
    await deleted(store, docs, ["d3"])
    await app.settle(docs)
    after = await changed(store, docs, tiers)
    assert await app.open(after) == 39
    assert await found_in_every_tier(app, after) == {*ids.tolist()} - {int(ids[3])}
    assert [tier.dim for tier in await app.status(after)] == list(tiers)
    fresh = CoarseApp(store, NumpyFactory())
    await fresh.open(after)
    for dim in tiers:
        query = a_query(after, coarse_dim=dim)
        (one,), (other,) = [(await each.search(query, PATIENT_S)).hits for each in (app, fresh)]
        mine, others = np.argsort(one.ids), np.argsort(other.ids)
        assert one.ids[mine].tolist() == other.ids[others].tolist()
        np.testing.assert_allclose(one.estimates[mine], other.estimates[others], atol=1e-3)
    await fresh.close()


async def test_writes_and_searches_go_on_while_a_tier_is_built(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(16,)))
    old = await written(store, docs, mrl_like(40, 64, seed=1))
    await app.open(docs)
    after = await changed(store, docs, (16, 32))
    read, go = asyncio.Event(), asyncio.Event()

    async def held() -> None:
        read.set()
        await go.wait()

    store.faults.before["vectors"] = [held]
    building = asyncio.create_task(app.open(after))
    await read.wait()
    new = await written(store, docs, mrl_like(5, 64, seed=2))
    gone = await deleted(store, docs, [f"d{number}" for number in range(30, 35)])
    await reached(app, docs, [*new, *gone])
    live = {*old.tolist()[5:30], *old.tolist()[35:], *new.tolist()}
    assert await found(app, a_query(docs)) == live
    with pytest.raises(NotFound, match="shard 0 serves tiers 16") as caught:
        await app.search(a_query(docs, coarse_dim=32), PATIENT_S)
    assert caught.value.kind == "tier"
    go.set()
    assert await building == 35
    assert await found_in_every_tier(app, after) == live
    assert not app._served["docs", 1].building


async def test_what_is_deleted_between_reading_and_indexing_does_not_come_back(
    app: CoarseApp, store: FaultyStore
) -> None:
    class Late(FaultyStore):
        """Answers with what it read before it was held."""

        go = asyncio.Event()
        read = asyncio.Event()

        async def vectors(self, collection: Collection, ids: np.ndarray) -> list[bytes | None]:
            values = await super().vectors(collection, ids)
            if not self.go.is_set() and self.hold:
                self.hold = False
                self.read.set()
                await self.go.wait()
            return values

        hold = False

    store = Late()
    app = CoarseApp(store, NumpyFactory(), load_batch=50, poll_s=NEVER_S)
    docs = await created(store, a_collection(tiers=(16,)))
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    await app.open(docs)
    after = await changed(store, docs, (8, 16))
    store.hold = True
    building = asyncio.create_task(app.open(after))
    await store.read.wait()
    await reached(app, docs, await deleted(store, docs, ["d4", "d5"]))
    store.go.set()
    assert await building == 18
    assert await found_in_every_tier(app, after) == {*ids.tolist()} - {*ids.tolist()[4:6]}
    await app.close()


async def test_a_tier_whose_building_fails_leaves_nothing_and_may_be_tried_again(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(16,)))
    ids = await written(store, docs, mrl_like(40, 64, seed=1))
    await app.open(docs)
    after = await changed(store, docs, (16, 32))
    well = asyncio.Event()
    well.set()
    store.faults.before["vectors"] = [waiting_for(well), raising(StoreUnavailable("down"))]
    with pytest.raises(StoreUnavailable):
        await app.open(after)
    assert not app._served["docs", 1].building
    assert [tier.dim for tier in await app.status(docs)] == [16]
    more = await written(store, docs, mrl_like(3, 64, seed=2), ["a", "b", "c"])
    await reached(app, docs, more)
    assert await app.open(after) == 43
    assert await found_in_every_tier(app, after) == {*ids.tolist(), *more.tolist()}


async def test_a_build_whose_caller_goes_away_leaves_nothing(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(16,)))
    await written(store, docs, mrl_like(40, 64, seed=1))
    await app.open(docs)
    after = await changed(store, docs, (16, 32))
    begun = asyncio.Event()

    async def held() -> None:
        begun.set()
        await hanging()

    store.faults.before["vectors"] = [held]
    building = asyncio.create_task(app.open(after))
    await begun.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert not app._served["docs", 1].building
    assert await app.open(after) == 40


async def test_a_dropped_tier_frees_its_memory_and_the_others_go_on(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(16, 32)))
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    await app.open(docs)
    await asyncio.wait_for(app.settle(docs), PATIENT_S)
    (view,) = app._served["docs", 1].tiers[32].state.views
    codes = weakref.ref(view.segment.columns.prefixes.codes)
    del view
    after = await changed(store, docs, (16,))
    assert await app.open(after) == 20
    gc.collect()
    assert codes() is None
    with pytest.raises(NotFound, match="shard 0 serves tiers 16") as caught:
        await app.search(a_query(after, coarse_dim=32), PATIENT_S)
    assert caught.value.kind == "tier"
    more = await written(store, docs, mrl_like(1, 64, seed=2), ["more"])
    await reached(app, after, more)
    assert await found_in_every_tier(app, after) == {*ids.tolist(), *more.tolist()}


async def test_a_tier_that_is_added_while_a_snapshot_is_written_is_in_the_next_one(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was under way does not have it, and must not count as the newest state."""
    snapshots = ShardSnapshots(open_blobs(str(tmp_path)), NumpyFactory(), 0, 1)
    begun, go_on, save = threading.Event(), threading.Event(), snapshots.save

    def slow(*args: Any) -> SnapshotInfo:
        begun.set()
        assert go_on.wait(PATIENT_S)
        return save(*args)

    monkeypatch.setattr(snapshots, "save", slow)
    app = CoarseApp(store, NumpyFactory(), poll_s=NEVER_S, snapshots=snapshots)
    docs = await created(store, a_collection(tiers=(32,)))
    await written(store, docs, mrl_like(20, 64, seed=1))
    await app.open(docs)
    saving = asyncio.create_task(app.snapshot(docs))
    assert await asyncio.to_thread(begun.wait, PATIENT_S)
    after = await changed(store, docs, (16, 32))
    await app.open(after)
    go_on.set()
    await saving
    await app.close()
    loaded = snapshots.load(after)
    assert loaded is not None
    assert set(loaded.tiers) == {16, 32}
