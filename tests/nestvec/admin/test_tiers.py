"""Tiers come and go in one step of the store, and every shard is told the record that stands."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nestvec.admin.app import CollectionWish
from nestvec.admin.tiers import asset_names
from nestvec.core.collection import Collection
from nestvec.core.errors import (
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    TierNotTrained,
    WorkerUnavailable,
)
from nestvec.core.ports import TierStatus, VectorStore
from nestvec.core.sketch import dither_name, rotation_name
from tests.support.desk import Desk


async def assets_of(store: VectorStore, collection: Collection) -> set[str]:
    """Which of all that could have been drawn are there."""
    found = set()
    for dim in collection.space.trained_dims:
        for name in (rotation_name(dim), dither_name(dim)):
            try:
                await store.asset(collection, name)
            except NotFound:
                continue
            found.add(name)
    return found


async def test_a_tier_is_added_with_what_it_draws_and_every_shard_opens_it(
    kept: VectorStore,
) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16,))
    after, added = await desk.admin.add_tier("docs", 32)
    assert added
    assert after == replace(docs, tiers=(16, 32))
    assert await kept.collections() == [after]
    assert await desk.catalogue.get("docs") == after
    for shard in desk.shards:
        assert shard.opened[-1] == after
    assert await assets_of(kept, after) == set(asset_names(after, (16, 32)))


async def test_what_was_drawn_before_stays_as_it_is(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16,))
    before = [await kept.asset(docs, name) for name in asset_names(docs, (16,))]
    after, _ = await desk.admin.add_tier("docs", 32)
    assert [await kept.asset(after, name) for name in asset_names(docs, (16,))] == before


async def test_the_full_dimension_is_a_tier_without_a_tail(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    await desk.create(tiers=(16,))
    after, added = await desk.admin.add_tier("docs", 64)
    assert (added, after.tiers) == (True, (16, 64))
    assert rotation_name(64) not in await assets_of(kept, after)


async def test_a_tier_is_dropped_with_what_it_drew(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16, 32))
    after, dropped = await desk.admin.drop_tier("docs", 16)
    assert dropped
    assert after == replace(docs, tiers=(32,))
    assert await kept.collections() == [after]
    assert all(shard.opened[-1] == after for shard in desk.shards)
    assert await assets_of(kept, after) == set(asset_names(after, (32,)))


async def test_repeating_changes_nothing_and_tells_the_shards_again(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16, 32))
    assert await desk.admin.add_tier("docs", 32) == (docs, False)
    assert await desk.admin.drop_tier("docs", 8) == (docs, False)
    assert [len(shard.opened) for shard in desk.shards] == [3, 3]
    assert await kept.collections() == [docs]


@pytest.mark.parametrize(
    ("store_dim", "dim", "error", "message"),
    [
        (64, 20, TierNotTrained, "tier 20 was not trained"),
        (64, 0, TierNotTrained, "tier 0 was not trained"),
        (64, -8, TierNotTrained, "tier -8 was not trained"),
        (32, 64, InvalidRequest, "tier 64 is longer than the 32 dimensions"),
    ],
)
async def test_a_tier_that_cannot_be_served_is_refused_and_nothing_changes(
    kept: VectorStore, store_dim: int, dim: int, error: type[InvalidRequest], message: str
) -> None:
    desk = Desk.over(kept)
    docs, _ = await desk.admin.create(CollectionWish("docs", (16,), store_dim), False)
    with pytest.raises(error, match=message) as caught:
        await desk.admin.add_tier("docs", dim)
    assert caught.value.field == "dim"
    assert await kept.collections() == [docs]


async def test_the_last_tier_is_not_dropped(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16,))
    with pytest.raises(InvalidRequest, match=r"tier 16 is the only one.*add another first"):
        await desk.admin.drop_tier("docs", 16)
    assert await kept.collections() == [docs]
    assert await assets_of(kept, docs) == set(asset_names(docs, (16,)))


@pytest.mark.parametrize("call", ["add_tier", "drop_tier"])
async def test_an_unknown_collection_is_not_found(kept: VectorStore, call: str) -> None:
    with pytest.raises(NotFound):
        await getattr(Desk.over(kept).admin, call)("docs", 16)


async def test_where_a_shard_fails_the_record_stands_and_the_next_call_tells_it(
    kept: VectorStore,
) -> None:
    desk = Desk.over(kept)
    await desk.create(tiers=(16,))
    desk.shards[1].failing["open"] = WorkerUnavailable("shard 1 is away")
    with pytest.raises(WorkerUnavailable):
        await desk.admin.add_tier("docs", 32)
    (standing,) = await kept.collections()
    assert standing.tiers == (16, 32)
    assert await desk.admin.add_tier("docs", 32) == (standing, False)
    assert desk.shards[1].opened[-1] == standing


async def test_where_the_store_fails_the_old_record_stands(
    kept: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16, 32))

    async def lost(*arguments: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(kept, "update_collection", lost)
        for call, dim in ((desk.admin.add_tier, 64), (desk.admin.drop_tier, 16)):
            with pytest.raises(StoreUnavailable):
                await call("docs", dim)
    assert await kept.collections() == [docs]
    assert all(shard.opened == [docs] for shard in desk.shards)
    assert await assets_of(kept, docs) == set(asset_names(docs, (16, 32)))


async def test_changes_of_one_collection_take_turns(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    await desk.create(tiers=(16,))
    await asyncio.gather(
        *(desk.admin.add_tier("docs", dim) for dim in (8, 32, 64)),
        desk.admin.drop_tier("docs", 16),
    )
    (standing,) = await kept.collections()
    assert standing.tiers == (8, 32, 64)
    assert all(shard.opened[-1] == standing for shard in desk.shards)


async def test_while_a_tier_is_built_searches_are_planned_without_it(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16,))
    desk.shards[0].hold = asyncio.Event()
    desk.shards[0].asked_to_open.clear()
    adding = asyncio.create_task(desk.admin.add_tier("docs", 32))
    await desk.shards[0].asked_to_open.wait()
    assert await desk.catalogue.get("docs") == docs
    desk.shards[0].hold.set()
    after, _ = await adding
    assert await desk.catalogue.get("docs") == after


async def test_before_a_tier_is_dropped_searches_are_planned_without_it(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    await desk.create(tiers=(16, 32))
    desk.shards[0].hold = asyncio.Event()
    desk.shards[0].asked_to_open.clear()
    dropping = asyncio.create_task(desk.admin.drop_tier("docs", 16))
    await desk.shards[0].asked_to_open.wait()
    assert (await desk.catalogue.get("docs")).tiers == (32,)
    desk.shards[0].hold.set()
    await dropping


async def test_every_collection_has_an_identity_of_its_own(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    one, two = await desk.create("a"), await desk.create("b")
    await desk.admin.drop("a")
    again = await desk.create("a")
    assert len({one.identity, two.identity, again.identity, ""}) == 4


async def test_a_collection_is_described_while_its_shards_change_their_tiers(
    kept: VectorStore,
) -> None:
    """One shard has built the new tier and the other has not: each is counted by its length."""
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(32,))
    ahead, behind = desk.shards
    ahead.tiers = [TierStatus(16, 5, 0, (), 10), TierStatus(32, 5, 1, (), 100)]
    behind.tiers = [TierStatus(32, 6, 0, (), 200)]
    report = await desk.admin.describe("docs")
    assert report.collection == docs
    assert report.tiers == [TierStatus(16, 5, 0, (), 10), TierStatus(32, 11, 1, (), 300)]


async def test_what_another_process_changed_is_described_as_it_is_now(kept: VectorStore) -> None:
    desk, other = Desk.over(kept), Desk.over(kept)
    await desk.create(tiers=(16,))
    await other.admin.describe("docs")
    after, _ = await desk.admin.add_tier("docs", 32)
    assert (await other.admin.describe("docs")).collection == after
