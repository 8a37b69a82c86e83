"""A shard that starts from a snapshot is the one that was saved, and what was written since."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import pytest

from nestvec.adapters.blob_store import FsspecBlobs
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.tiers import drawn
from nestvec.coarse import upkeep as upkeep_module
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.core.errors import NotFound, SnapshotFailed
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf
from tests.nestvec.core.synthetic import mrl_like
from tests.support.places import failing_place, files_under, memory_place, overwrite
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    a_collection,
    created,
    deleted,
    eventually,
    written,
)
from tests.support.shards import a_query, found_in_every_tier, reached

NEVER_S = 1000.0


@dataclass
class Place:
    """Shards over one store and one place for snapshots, one after the other."""

    stack: AsyncExitStack
    store: FaultyStore = field(default_factory=FaultyStore)
    blobs: FsspecBlobs = field(default_factory=memory_place)

    def shard(self, every_s: float = 0.0) -> CoarseApp:
        """Closed at the end, where it is not before."""
        factory = NumpyFactory()
        snapshots = ShardSnapshots(self.blobs, factory, 0, 1)
        app = CoarseApp(
            self.store,
            factory,
            load_batch=16,
            poll_s=NEVER_S,
            snapshots=snapshots,
            snapshot_every_s=every_s,
        )
        self.stack.push_async_callback(app.close)
        return app

    def manifests(self) -> list[str]:
        return [path for path in files_under(self.blobs) if path.endswith("manifest.json")]

    def reads(self) -> int:
        return self.store.faults.calls.count("vectors")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_IDLE_S", 0.01)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(stack)


async def test_a_start_reads_the_snapshot_and_then_only_what_was_written_since(
    place: Place,
) -> None:
    docs = await created(place.store, a_collection(tiers=(8, 32)))
    old = await written(place.store, docs, mrl_like(100, 64, seed=1))
    first = place.shard()
    await first.open(docs)
    info = await first.snapshot(docs)
    assert info.documents == 100
    new = await written(place.store, docs, mrl_like(5, 64, seed=2))
    await deleted(place.store, docs, ["d50"])
    before = place.reads()
    second = place.shard()
    assert await second.open(docs) == 99
    live = {*old.tolist()[5:50], *old.tolist()[51:], *new.tolist()}
    assert await found_in_every_tier(second, docs) == live
    assert place.reads() - before == 1, "of what is new alone"
    verified = await second.verify(docs, repair=False, sample=1000)
    assert all(t.missing == t.surplus == t.different == 0 for t in verified.tiers)


async def test_what_changed_is_saved_at_the_end_and_what_did_not_is_not(place: Place) -> None:
    docs = await created(place.store, a_collection())
    first = place.shard()
    await first.open(docs)
    ids = await written(place.store, docs, mrl_like(20, 64, seed=1))
    await reached(first, docs, ids)
    await first.close()
    assert len(place.manifests()) == 1
    before = place.reads()
    second = place.shard()
    assert await second.open(docs) == 20
    assert place.reads() == before
    await second.close()
    assert len(place.manifests()) == 1


async def test_of_an_empty_collection_none_is_made_and_of_other_tiers_one_is(
    place: Place,
) -> None:
    docs = await created(place.store, a_collection(tiers=(8,)))
    first = place.shard()
    await first.open(docs)
    await first.close()
    assert place.manifests() == []
    await written(place.store, docs, mrl_like(40, 64, seed=1))
    second = place.shard()
    await second.open(docs)
    await second.snapshot(docs)
    after = replace(docs, tiers=(8, 32))
    await place.store.update_collection(after, drawn(after, [32]))
    await second.open(after)
    await second.close()
    before = place.reads()
    assert await place.shard().open(after) == 40
    assert place.reads() == before


async def test_now_and_then_one_is_made_while_something_changes(place: Place) -> None:
    docs = await created(place.store, a_collection())
    app = place.shard(every_s=0.01)
    await app.open(docs)
    ids = await written(place.store, docs, mrl_like(20, 64, seed=1))
    await reached(app, docs, ids)

    async def saved() -> bool:
        return bool(place.manifests()) and not app._served["docs", 1].unsaved

    await eventually(saved)


async def test_keywords_mean_the_same_after_a_start(place: Place) -> None:
    docs = await created(
        place.store, a_collection(fields=[FieldSchema("colour", FieldType.KEYWORD)])
    )
    colours = [{"colour": ("red", "green", "blue")[row % 3]} for row in range(30)]
    ids = await written(place.store, docs, mrl_like(30, 64, seed=1), fields=colours)
    first = place.shard()
    await first.open(docs)
    await first.close()
    names = [f"e{row}" for row in range(3)]
    later = [{"colour": "yellow"}, {"colour": "green"}, {}]
    new = await written(place.store, docs, mrl_like(3, 64, seed=2), names, fields=later)
    second = place.shard()
    await second.open(docs)
    for colour, wanted in (
        ("green", {*ids.tolist()[1::3], int(new[1])}),
        ("yellow", {int(new[0])}),
        ("red", {*ids.tolist()[0::3]}),
    ):
        answer = await second.search(a_query(docs, filter=AnyOf("colour", (colour,))), PATIENT_S)
        assert {*answer.hits[0].ids.tolist()} == wanted


async def test_a_tier_that_was_added_since_is_built_and_one_dropped_is_not_loaded(
    place: Place,
) -> None:
    docs = await created(place.store, a_collection(tiers=(8, 16)))
    ids = await written(place.store, docs, mrl_like(40, 64, seed=1))
    first = place.shard()
    await first.open(docs)
    await first.close()
    after = replace(docs, tiers=(16, 64))
    await place.store.update_collection(after, drawn(after, [64]))
    second = place.shard()
    assert await second.open(after) == 40
    assert await found_in_every_tier(second, after) == {*ids.tolist()}
    assert [tier.dim for tier in await second.status(after)] == [16, 64]


async def test_a_damaged_snapshot_is_replaced_by_reading_the_store(place: Place) -> None:
    docs = await created(place.store, a_collection())
    ids = await written(place.store, docs, mrl_like(40, 64, seed=1))
    first = place.shard()
    await first.open(docs)
    await first.close()
    for path, data in files_under(place.blobs).items():
        if "codes" in path:
            overwrite(place.blobs, path, data[:-1] + bytes([data[-1] ^ 1]))
    second = place.shard()
    assert await second.open(docs) == 40
    assert await found_in_every_tier(second, docs) == {*ids.tolist()}
    await second.snapshot(docs)
    third = place.shard()
    before = place.reads()
    await third.open(docs)
    assert place.reads() == before


async def test_a_snapshot_older_than_the_log_and_one_newer_than_the_store(place: Place) -> None:
    docs = await created(place.store, a_collection(tiers=(8, 32), partitions=1))
    kept = await written(place.store, docs, mrl_like(20, 64, seed=1))
    first = place.shard()
    await first.open(docs)
    await first.snapshot(docs)
    for row in range(20, 30):
        await written(place.store, docs, mrl_like(1, 64, seed=row), [f"d{row}"])
    await place.store.tidy(docs, await place.store.positions(docs, range(1)), keep=1)
    second = place.shard()
    assert await second.open(docs) == 30
    lost = await written(
        place.store, docs, mrl_like(5, 64, seed=2), [f"l{row}" for row in range(5)]
    )
    await reached(second, docs, lost)
    await second.snapshot(docs)
    place.store.lose_last(docs, 1)
    third = place.shard()
    assert await third.open(docs) == 30
    held = await found_in_every_tier(third, docs)
    assert {*kept.tolist()} <= held
    assert not held & {*lost.tolist()}


async def test_a_shard_without_a_place_says_so(place: Place) -> None:
    docs = await created(place.store, a_collection())
    app = CoarseApp(place.store, NumpyFactory())
    place.stack.push_async_callback(app.close)
    await app.open(docs)
    with pytest.raises(SnapshotFailed, match=r"coarse\.snapshots"):
        await app.snapshot(docs)


async def test_dropping_deletes_the_snapshots_too(place: Place) -> None:
    docs = await created(place.store, a_collection())
    await written(place.store, docs, mrl_like(5, 64, seed=1))
    app = place.shard()
    await app.open(docs)
    await app.snapshot(docs)
    await app.drop("docs", docs.generation)
    assert files_under(place.blobs) == {}
    with pytest.raises(NotFound):
        await app.snapshot(docs)
    await app.close()
    assert files_under(place.blobs) == {}


async def test_a_place_that_cannot_be_written_keeps_nobody_from_searching_or_closing(
    place: Place,
) -> None:
    place.blobs = failing_place(0, OSError("unreachable"))
    docs = await created(place.store, a_collection())
    await written(place.store, docs, mrl_like(5, 64, seed=1))
    app = place.shard()
    assert await app.open(docs) == 5
    with pytest.raises(SnapshotFailed):
        await app.snapshot(docs)
    assert len(await found_in_every_tier(app, docs)) == 5
    await app.close()
