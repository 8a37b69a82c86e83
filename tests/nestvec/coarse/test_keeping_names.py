"""A shard knows the external ids of just what it has indexed, also after a start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.blob_store import FsspecBlobs
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.tiers import drawn
from nestvec.coarse import snapshot as snapshot_module
from nestvec.coarse import upkeep as upkeep_module
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.sealed import seal, unseal
from tests.nestvec.core.synthetic import mrl_like
from tests.support.places import files_under, memory_place, overwrite
from tests.support.rooms import (
    FaultyStore,
    SpyLog,
    a_collection,
    created,
    deleted,
    raising,
    written,
)
from tests.support.shards import reached

FIELDS = (FieldSchema("year", FieldType.INTEGER),)


@dataclass
class Place:
    """Shards over one store and one place for snapshots, one after the other."""

    stack: AsyncExitStack
    store: FaultyStore = field(default_factory=FaultyStore)
    blobs: FsspecBlobs = field(default_factory=memory_place)

    def shard(self, keep_ids: bool = True) -> CoarseApp:
        factory = NumpyFactory()
        app = CoarseApp(
            self.store,
            factory,
            load_batch=16,
            poll_s=1000.0,
            snapshots=ShardSnapshots(self.blobs, factory, 0, 1),
            keep_ids=keep_ids,
        )
        self.stack.push_async_callback(app.close)
        return app

    def reads(self) -> int:
        return self.store.faults.calls.count("external_ids")

    def edit_manifest(self, **changes: Any) -> None:
        """Of the only snapshot; None takes a key away."""
        (path,) = [path for path in files_under(self.blobs) if path.endswith("manifest.json")]
        body = dict(unseal(self.blobs.read(path) or b"")) | changes
        overwrite(self.blobs, path, seal({k: v for k, v in body.items() if v is not None}))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_IDLE_S", 0.01)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(stack)


@pytest.fixture(params=[(), FIELDS], ids=["no fields", "fields"])
async def docs(place: Place, request: pytest.FixtureRequest) -> Collection:
    return await created(place.store, a_collection(tiers=(8, 32), fields=request.param))


async def fill(place: Place, docs: Collection, count: int, start: int = 0) -> Ids:
    names = [f"d{row}" for row in range(start, start + count)]
    return await written(place.store, docs, mrl_like(count, 64, seed=start + 1), names)


async def test_what_is_written_replaced_and_deleted_is_known_as_it_is_indexed(
    place: Place, docs: Collection
) -> None:
    old = await fill(place, docs, 40)
    shard = place.shard()
    await shard.open(docs)
    assert await shard.names(docs, old) == [f"d{row}" for row in range(40)]
    new = await fill(place, docs, 10, start=35)
    await reached(shard, docs, new)
    gone = await deleted(place.store, docs, ["d0"])
    await reached(shard, docs, gone)
    assert await shard.names(docs, new) == [f"d{row}" for row in range(35, 45)]
    await shard.settle(docs)
    # Merged, so nothing is left of what was replaced or deleted.
    assert await shard.names(docs, old) == [None, *(f"d{n}" for n in range(1, 35)), *[None] * 5]
    (status, other) = await shard.status(docs)
    assert status.name_nbytes == other.name_nbytes
    assert 44 * 12 < status.name_nbytes < 44 * (12 + 4)


async def test_a_start_from_a_snapshot_reads_names_of_what_is_new_alone(
    place: Place, docs: Collection
) -> None:
    old = await fill(place, docs, 60)
    first = place.shard()
    await first.open(docs)
    await first.snapshot(docs)
    new = await fill(place, docs, 5, start=60)
    gone = await deleted(place.store, docs, ["d7"])
    await first.close()
    assert len(gone) == 1
    before = place.reads()
    second = place.shard()
    await second.open(docs)
    if not docs.fields:
        assert place.reads() - before <= 1
    everything = np.concatenate([old, new])
    names = await second.names(docs, everything)
    assert [name for row, name in enumerate(names) if row != 7] == [
        f"d{row}" for row in range(65) if row != 7
    ]


async def test_a_snapshot_of_a_version_without_names_is_loaded_and_the_names_are_read(
    place: Place, docs: Collection
) -> None:
    ids = await fill(place, docs, 60)
    first = place.shard(keep_ids=False)
    await first.open(docs)
    assert await first.names(docs, ids) == [None] * 60
    assert (await first.status(docs))[0].name_nbytes == 0
    await first.snapshot(docs)
    await first.close()
    place.edit_manifest(names=None)
    vectors = place.store.faults.calls.count("vectors")
    second = place.shard()
    assert await second.open(docs) == 60
    assert place.store.faults.calls.count("vectors") == vectors, "it was loaded"
    assert await second.names(docs, ids) == [f"d{row}" for row in range(60)]
    # The next snapshot has them, though nothing was written since.
    await second.close()
    before = place.reads()
    third = place.shard()
    await third.open(docs)
    assert place.reads() == before
    assert await third.names(docs, ids) == [f"d{row}" for row in range(60)]


async def test_an_older_version_passes_the_names_over(place: Place, docs: Collection) -> None:
    """What such a version does with a manifest: it takes the keys that it knows."""
    await fill(place, docs, 20)
    first = place.shard()
    await first.open(docs)
    await first.snapshot(docs)
    await first.close()
    place.edit_manifest()
    without = place.shard(keep_ids=False)
    assert await without.open(docs) == 20
    assert (await without.status(docs))[0].name_nbytes == 0


async def test_names_that_are_damaged_make_a_damaged_snapshot(
    place: Place, docs: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await fill(place, docs, 20)
    first = place.shard()
    await first.open(docs)
    await first.snapshot(docs)
    await first.close()
    (path,) = [path for path in files_under(place.blobs) if "names-0-text" in path]
    data = bytearray(place.blobs.read(path) or b"")
    data[-1] ^= 1
    overwrite(place.blobs, path, bytes(data))
    log = SpyLog()
    monkeypatch.setattr(snapshot_module, "_log", log)
    second = place.shard()
    assert await second.open(docs) == 20
    assert "damaged" in str(log.named("snapshot.refused")[0]["reason"])
    assert await second.names(docs, ids) == [f"d{row}" for row in range(20)]


async def test_a_new_tier_adds_no_name_twice(place: Place) -> None:
    docs = await created(place.store, a_collection(tiers=(8,)))
    ids = await fill(place, docs, 50)
    shard = place.shard()
    await shard.open(docs)
    await shard.settle(docs)
    before = (await shard.status(docs))[0].name_nbytes
    wider = replace(docs, tiers=(8, 32))
    await place.store.update_collection(wider, drawn(wider, (32,)))
    await shard.open(wider)
    assert [tier.name_nbytes for tier in await shard.status(wider)] == [before, before]
    assert await shard.names(wider, ids) == [f"d{row}" for row in range(50)]


async def test_a_document_whose_payload_is_damaged_is_found_and_has_no_name(
    place: Place, docs: Collection
) -> None:
    ids = await fill(place, docs, 6)
    for internal, value in zip(
        ids.tolist(), [None, b"", b"{}", b'[1,"\\ud800","t",{}]', b'[1,"","t",{}]'], strict=False
    ):
        place.store.spoil_payload(docs, internal, value)
    shard = place.shard()
    assert await shard.open(docs) == 6
    assert await shard.names(docs, ids) == [None] * 5 + ["d5"]


async def test_a_store_that_fails_while_names_are_read_loses_none(
    place: Place,
) -> None:
    docs = await created(place.store, a_collection())
    shard = place.shard()
    await shard.open(docs)
    place.store.faults.before["external_ids"] = [raising(StoreUnavailable("gone"))] * 2
    ids = await fill(place, docs, 10)
    await reached(shard, docs, ids)
    assert await shard.names(docs, ids) == [f"d{row}" for row in range(10)]
