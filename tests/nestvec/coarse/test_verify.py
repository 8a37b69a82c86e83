"""A shard compared with the store: what differs is found, while writes go on, and mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse import upkeep as upkeep_module
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.segment import CoarseRows
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import Range
from nestvec.core.ports import ShardVerification, TierDifference
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    a_collection,
    created,
    deleted,
    written,
)
from tests.support.shards import a_query, found_in_every_tier, reached

NONE = np.empty(0, np.int64)
NEVER_S = 1000.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_IDLE_S", 0.01)


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def app(store: FaultyStore) -> AsyncIterator[CoarseApp]:
    opened = CoarseApp(store, NumpyFactory(), load_batch=16, poll_s=NEVER_S)
    yield opened
    await opened.close()


def clean(found: ShardVerification) -> bool:
    return not len(found.damaged) and not any(
        tier.missing or tier.surplus or tier.different for tier in found.tiers
    )


def tampered(app: CoarseApp, dim: int, rows: CoarseRows) -> None:
    """Change one tier behind the follower's back."""
    app._served["docs", 1].tiers[dim].apply(rows)


def only_removed(ids: list[int]) -> CoarseRows:
    return CoarseRows(NONE, np.empty((0, 64), np.float32), np.array(ids, np.int64))


@pytest.mark.parametrize("dtype", list(VectorDtype))
async def test_what_was_written_replaced_and_deleted_is_clean(
    app: CoarseApp, store: FaultyStore, dtype: VectorDtype
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32, 64), dtype=dtype))
    await written(store, docs, mrl_like(60, 64, seed=1))
    await app.open(docs)
    await written(store, docs, mrl_like(10, 64, seed=2))
    await deleted(store, docs, ["d20", "d21"])
    found = await app.verify(docs, repair=False, sample=1000)
    assert found.tiers == [TierDifference(dim, 58, 0, 0, 58, 0) for dim in (8, 32, 64)]
    assert (found.store_documents, len(found.damaged)) == (58, 0)


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
async def test_codes_made_again_in_batches_of_another_size_are_not_different(
    store: FaultyStore, rows: int
) -> None:
    """A matrix product rounds by its shape."""
    docs = await created(store, a_collection(tiers=(8, 16, 32)))
    await written(store, docs, mrl_like(300, 64, seed=1))
    app = CoarseApp(store, NumpyFactory(), load_batch=rows, poll_s=NEVER_S)
    await app.open(docs)
    found = await app.verify(docs, repair=False, sample=300)
    assert [tier.compared for tier in found.tiers] == [300] * 3
    assert clean(found)
    await app.close()


async def test_the_sample_is_as_large_as_asked(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(60, 64, seed=1))
    await app.open(docs)
    for sample in (0, 1, 25):
        (tier,) = (await app.verify(docs, repair=False, sample=sample)).tiers
        assert tier.compared == sample


async def test_what_one_tier_lacks_or_has_too_much_is_found_and_mended(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32)))
    ids = await written(store, docs, mrl_like(60, 64, seed=1))
    await app.open(docs)
    tampered(app, 8, only_removed(ids.tolist()[:3]))
    # Sequences that no document has, in partitions that exist.
    strays = np.array([(p << 48) + (7 << 32) + 1 for p in range(5)], np.int64)
    tampered(app, 32, CoarseRows(strays, mrl_like(5, 64, seed=3), NONE))
    for _ in range(2):
        found = await app.verify(docs, repair=False, sample=0)
        assert [(t.dim, t.documents, t.missing, t.surplus) for t in found.tiers] == [
            (8, 57, 3, 0),
            (32, 65, 0, 5),
        ]
        assert found.store_documents == 60
    found = await app.verify(docs, repair=True, sample=0)
    assert [(t.missing, t.surplus) for t in found.tiers] == [(3, 0), (0, 5)]
    assert clean(await app.verify(docs, repair=False, sample=60))
    assert await found_in_every_tier(app, docs) == {*ids.tolist()}
    more = await written(store, docs, mrl_like(1, 64, seed=4), ["more"])
    await reached(app, docs, more)


async def test_codes_of_another_vector_are_found_and_made_again(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32)))
    ids = await written(store, docs, mrl_like(60, 64, seed=1))
    await app.open(docs)
    some = ids[10:14]
    tampered(app, 32, CoarseRows(some, mrl_like(4, 64, seed=9), some))
    found = await app.verify(docs, repair=True, sample=60)
    assert [tier.different for tier in found.tiers] == [0, 4]
    assert clean(await app.verify(docs, repair=False, sample=60))
    assert await found_in_every_tier(app, docs) == {*ids.tolist()}


async def test_fields_of_another_document_are_found_and_read_again(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(fields=[FieldSchema("year", FieldType.INTEGER)]))
    vectors = mrl_like(20, 64, seed=1)
    ids = await written(store, docs, vectors, fields=[{"year": row} for row in range(20)])
    await app.open(docs)
    stored = docs.codec.round_trip(vectors[:2])
    tampered(app, 16, CoarseRows(ids[:2], stored, ids[:2], [{"year": 0}, {"year": 500}]))
    (tier,) = (await app.verify(docs, repair=True, sample=20)).tiers
    assert (tier.compared, tier.different) == (20, 1)
    assert clean(await app.verify(docs, repair=False, sample=20))
    answer = await app.search(a_query(docs, filter=Range("year", at_least=1)), PATIENT_S)
    assert answer.matching == 19
    over = await app.search(a_query(docs, filter=Range("year", at_least=20)), PATIENT_S)
    assert over.matching == 0


async def test_damaged_vectors_and_payloads_are_named_and_cannot_be_mended(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    ids = await written(store, docs, mrl_like(30, 64, seed=1))
    store.spoil(docs, int(ids[0]), None)
    store.spoil(docs, int(ids[1]), b"short")
    store.spoil_payload(docs, int(ids[2]), b"{")
    store.spoil_payload(docs, int(ids[3]), None)
    await app.open(docs)
    store.spoil(docs, int(ids[4]), docs.codec.encode(np.full((1, 64), np.nan, np.float32))[0])
    for repair in (True, False):
        found = await app.verify(docs, repair=repair, sample=30)
        assert set(found.damaged.tolist()) == {*ids.tolist()[:5]}
        (tier,) = found.tiers
        assert (tier.documents, tier.missing, tier.surplus, tier.different) == (28, 0, 0, 0)
        assert tier.compared == 27


class HeldStore(FaultyStore):
    """Calls `meanwhile` once, in the middle of the first read of payloads after it was set."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[object] = []

    async def payloads(self, collection: Collection, ids: np.ndarray) -> list[bytes | None]:
        values = await super().payloads(collection, ids)
        if self.meanwhile:
            await self.meanwhile.pop()()  # type: ignore[operator]
        return values


async def test_what_changes_during_the_comparison_is_no_difference() -> None:
    store = HeldStore()
    app = CoarseApp(store, NumpyFactory(), poll_s=NEVER_S)
    docs = await created(store, a_collection(tiers=(8, 32), partitions=1))
    await written(store, docs, mrl_like(40, 64, seed=1))
    await app.open(docs)

    async def busy() -> None:
        await written(store, docs, mrl_like(10, 64, seed=2))
        await written(store, docs, mrl_like(10, 64, seed=3), [f"e{row}" for row in range(10)])
        await deleted(store, docs, [f"d{row}" for row in range(20, 30)])
        await app.settle(docs)
        await store.tidy(docs, await store.positions(docs, range(1)), keep=100)

    store.meanwhile = [busy]
    found = await app.verify(docs, repair=False, sample=1000)
    assert clean(found)
    assert not store.meanwhile
    assert clean(await app.verify(docs, repair=False, sample=1000))
    await app.close()


async def test_a_log_that_is_cut_off_during_the_comparison_makes_it_begin_anew() -> None:
    store = HeldStore()
    app = CoarseApp(store, NumpyFactory(), poll_s=NEVER_S)
    docs = await created(store, a_collection(partitions=1))
    await written(store, docs, mrl_like(10, 64, seed=1))
    await app.open(docs)

    async def cut() -> None:
        for row in range(5):
            await written(store, docs, mrl_like(1, 64, seed=row), [f"d{row}"])
        await app.settle(docs)
        await store.tidy(docs, await store.positions(docs, range(1)), keep=1)

    store.meanwhile = [cut]
    assert clean(await app.verify(docs, repair=False, sample=10))
    store.meanwhile = [cut] * 20
    with pytest.raises(StoreUnavailable, match="cut off"):
        await app.verify(docs, repair=False, sample=10)
    await app.close()


async def test_mending_goes_on_beside_writes_and_brings_nothing_back() -> None:
    store = HeldStore()
    app = CoarseApp(store, NumpyFactory(), poll_s=NEVER_S)
    docs = await created(store, a_collection(partitions=1))
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    await app.open(docs)
    tampered(app, 16, CoarseRows(ids[:8], mrl_like(8, 64, seed=9), ids[:8]))
    tampered(app, 16, only_removed(ids.tolist()[8:10]))
    gone: asyncio.Task[list[int]] | None = None

    async def delete_later() -> None:
        nonlocal gone
        gone = asyncio.create_task(deleted(store, docs, ["d0", "d9"]))

    store.meanwhile = [delete_later]
    await app.verify(docs, repair=True, sample=20)
    assert gone is not None
    await reached(app, docs, await gone)
    await app.settle(docs)
    assert await found_in_every_tier(app, docs) == {*ids.tolist()} - {int(ids[0]), int(ids[9])}
    assert clean(await app.verify(docs, repair=False, sample=20))
    await app.close()
