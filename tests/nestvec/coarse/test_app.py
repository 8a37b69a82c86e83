"""The coarse application: what it opens, refuses, and goes on doing when something fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import numpy as np
import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.tiers import drawn
from nestvec.coarse import app as app_module
from nestvec.coarse import upkeep as upkeep_module
from nestvec.coarse.app import CoarseApp
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NotFound,
    Overloaded,
    SpaceMismatch,
    StoreUnavailable,
    TierNotTrained,
    WorkerUnavailable,
)
from nestvec.core.placement import partition_of, partitions_of
from nestvec.core.ports import CoarseIndex
from nestvec.core.watermark import Watermark
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    a_collection,
    created,
    deleted,
    eventually,
    raising,
    written,
)
from tests.support.shards import QUERY, a_query, found, reached


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_IDLE_S", 0.01)
    monkeypatch.setattr(upkeep_module, "_AFTER_FAILURE_S", 0.01)


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def app(store: FaultyStore) -> AsyncIterator[CoarseApp]:
    opened = CoarseApp(store, NumpyFactory(), load_batch=7)
    yield opened
    await opened.close()


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(VectorDtype))
async def test_opening_reads_every_live_document_of_the_store(
    app: CoarseApp, store: FaultyStore, dtype: VectorDtype
) -> None:
    docs = await created(store, a_collection(tiers=(16, 32, 64), dtype=dtype))
    ids = await written(store, docs, mrl_like(60, 64, seed=1))
    replaced = await written(store, docs, mrl_like(5, 64, seed=2))  # d0 to d4 once more
    await deleted(store, docs, ["d5"])
    live = {*ids.tolist()[6:], *replaced.tolist()}
    assert await app.open(docs) == len(live)
    for dim in docs.tiers:
        assert await found(app, a_query(docs, coarse_dim=dim)) == live
        assert await found(app, a_query(docs, coarse_dim=dim, bound_z=None)) == live


async def test_opening_again_changes_nothing(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(5, 64, seed=1))
    first, *others = await asyncio.gather(*(app.open(docs) for _ in range(4)))
    assert (first, *others) == (5, 5, 5, 5)
    assert await app.open(docs) == 5
    assert store.faults.calls.count("vectors") == 1, "read once, not once a call"
    assert (await app.status(docs))[0].documents == 5


async def test_a_scan_that_names_an_id_twice_gives_it_once(app: CoarseApp) -> None:
    class Repeating(FaultyStore):
        async def live_ids(self, collection: Collection, partitions: range) -> AsyncIterator[Ids]:
            for _ in range(3):
                async for ids in super().live_ids(collection, partitions):
                    yield np.concatenate([ids, ids[::-1]])

    store = Repeating()
    docs = await created(store, a_collection())
    ids = await written(store, docs, mrl_like(30, 64, seed=1))
    app = CoarseApp(store, NumpyFactory(), load_batch=10)
    assert await app.open(docs) == 30
    assert await found(app, a_query(docs)) == set(ids.tolist())
    await app.close()


async def test_each_shard_opens_its_own_partitions_and_together_all(store: FaultyStore) -> None:
    docs = await created(store, a_collection(partitions=5))
    names = [f"n{number}" for number in range(40)]
    ids = dict(zip(await written(store, docs, mrl_like(40, 64, seed=1), names), names, strict=True))
    seen: set[int] = set()
    for shard in range(3):
        app = CoarseApp(store, NumpyFactory(), shard, 3)
        await app.open(docs)
        mine = await found(app, a_query(docs))
        homes = {partition_of(ids[one], 5) for one in mine}
        assert homes <= set(partitions_of(shard, 5, 3))
        assert not mine & seen
        seen |= mine
        await app.close()
    assert seen == ids.keys()


def spoilt(docs: Collection) -> Iterable[bytes | None]:
    """What may stand in a vector's place, and cannot be searched."""
    yield None
    yield b""
    yield docs.codec.encode(mrl_like(1, 64, seed=9))[0][:-3]
    body = np.full((1, 64), np.nan, np.float32)
    yield docs.codec.encode(body)[0]
    yield docs.codec.encode(body * 0.0 + 0.0)[0][:8] + b"\x00" * 128
    yield docs.codec.encode(np.full((1, 64), 60_000.0, np.float32))[0]
    headless = mrl_like(1, 64, seed=8)
    headless[:, :16] = 0.0
    yield docs.codec.encode(unit(headless))[0]


@pytest.mark.parametrize("kind", range(7))
async def test_a_stored_vector_that_is_spoilt_keeps_no_other_from_use(
    app: CoarseApp, store: FaultyStore, kind: int
) -> None:
    docs = await created(store, a_collection())
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    store.spoil(docs, int(ids[3]), list(spoilt(docs))[kind])
    assert await app.open(docs) == 19
    assert await found(app, a_query(docs)) == {*ids.tolist()} - {int(ids[3])}


async def test_an_open_that_fails_may_be_tried_again(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(20, 64, seed=1))
    store.faults.before["vectors"] = [raising(StoreUnavailable("gone"))]
    with pytest.raises(StoreUnavailable):
        await app.open(docs)
    with pytest.raises(NotFound):
        await app.search(a_query(docs), PATIENT_S)
    assert await app.open(docs) == 20


@pytest.mark.parametrize("missing", ["rotation:16", "dither:16"])
async def test_a_missing_draw_is_not_found(
    app: CoarseApp, store: FaultyStore, missing: str
) -> None:
    assets = drawn(a_collection(), (16,))
    del assets[missing]
    docs = await store.create_collection(a_collection(), assets)
    with pytest.raises(NotFound, match=missing):
        await app.open(docs)


# --- what is refused ------------------------------------------------------------------------------


async def test_an_unknown_collection_is_not_found(app: CoarseApp) -> None:
    docs = a_collection()
    with pytest.raises(NotFound, match="shard 0 does not serve it"):
        await app.search(a_query(docs), PATIENT_S)
    for call in (app.status, app.settle, app.progress, app.snapshot):
        with pytest.raises(NotFound):
            await call(docs)
    with pytest.raises(NotFound):
        await app.reach(docs, Watermark(docs.generation), PATIENT_S)
    with pytest.raises(NotFound):
        await app.verify(docs, repair=False, sample=10)


async def test_another_generation_is_not_found_and_names_both(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    other = replace(docs, generation=7)
    with pytest.raises(NotFound, match="serves its generation 1, not 7"):
        await app.search(a_query(other), PATIENT_S)
    with pytest.raises(NotFound, match="not 7"):
        await app.reach(other, Watermark(7), PATIENT_S)


async def test_a_new_generation_takes_the_place_of_the_old_one(
    app: CoarseApp, store: FaultyStore
) -> None:
    old = await created(store, a_collection())
    await written(store, old, mrl_like(5, 64, seed=1))
    await app.open(old)
    await store.drop_collection(old)
    new = await created(store, a_collection(tiers=(8, 32)))
    ids = await written(store, new, mrl_like(3, 64, seed=2))
    assert await app.open(new) == 3
    assert await found(app, a_query(new)) == set(ids.tolist())
    with pytest.raises(NotFound, match="serves its generation 2, not 1"):
        await app.search(a_query(old), PATIENT_S)


async def test_another_space_is_refused(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    with pytest.raises(SpaceMismatch, match="the query is in space 0123456789abcdef"):
        await app.search(a_query(docs, fingerprint="0123456789abcdef"), PATIENT_S)


async def test_a_tier_that_is_not_served_is_refused_with_the_way_out(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(16, 32)))
    await app.open(docs)
    with pytest.raises(NotFound, match="shard 0 serves tiers 16, 32 of") as caught:
        await app.search(a_query(docs, coarse_dim=8), PATIENT_S)
    assert caught.value.kind == "tier", "what the caller knows is old: it looks again"
    with pytest.raises(TierNotTrained, match="tier 20 was not trained"):
        await app.search(a_query(docs, coarse_dim=20), PATIENT_S)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"count": 0}, "count"), ({"count": -3}, "count"), ({"queries": QUERY[:, :32]}, "queries")],
)
async def test_a_query_of_another_shape_is_refused(
    app: CoarseApp, store: FaultyStore, changes: dict[str, object], field: str
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    with pytest.raises(InvalidRequest) as caught:
        await app.search(a_query(docs, **changes), PATIENT_S)  # type: ignore[arg-type]
    assert caught.value.field == field


class GatedFactory(NumpyFactory):
    """Searches wait until they are let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.running = threading.Semaphore(0)

    def build(self, prefixes: Floats) -> CoarseIndex:  # type: ignore[override]
        return _Gated(self, super().build(prefixes))


class _Gated:
    kind, nbytes = "gated", 1
    reads_every_row = True

    def to_bytes(self) -> bytes | None:
        return None

    def __init__(self, gate: GatedFactory, index: CoarseIndex) -> None:
        self._gate, self._index = gate, index

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        self._gate.running.release()
        assert self._gate.let.wait(30)
        return self._index.search(queries, count, allowed)


async def test_too_many_that_wait_are_overload_and_the_others_are_answered() -> None:
    store, gate = FaultyStore(), GatedFactory()
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(5, 64, seed=1))
    app = CoarseApp(store, gate, threads=1, waiting=2)
    await app.open(docs)
    tasks = [asyncio.create_task(app.search(a_query(docs), PATIENT_S)) for _ in range(3)]
    await asyncio.to_thread(gate.running.acquire)
    with pytest.raises(Overloaded, match="coarse-search: 3 calls are running or waiting") as caught:
        await app.search(a_query(docs), PATIENT_S)
    assert caught.value.retry_after_s > 0
    gate.let.set()
    assert [one.documents for one in await asyncio.gather(*tasks)] == [5, 5, 5]
    assert len(await found(app, a_query(docs))) == 5
    await app.close()


async def test_a_search_whose_time_is_up_keeps_its_place_until_its_thread_ends() -> None:
    store, gate = FaultyStore(), GatedFactory()
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(5, 64, seed=1))
    app = CoarseApp(store, gate, threads=1, waiting=0)
    await app.open(docs)
    with pytest.raises(BudgetSpent, match="coarse"):
        await app.search(a_query(docs), 0.01)
    with pytest.raises(Overloaded):
        await app.search(a_query(docs), PATIENT_S)
    gate.let.set()

    async def answered() -> bool:
        try:
            return len(await found(app, a_query(docs))) == 5
        except Overloaded:
            return False

    await eventually(answered)
    await app.close()


class NotingFactory(NumpyFactory):
    """Notes in which thread each search ran."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def build(self, prefixes: Floats) -> CoarseIndex:  # type: ignore[override]
        return _Noting(self, super().build(prefixes))


class _Noting:
    kind, nbytes = "noting", 1
    reads_every_row = True

    def to_bytes(self) -> bytes | None:
        return None

    def __init__(self, factory: NotingFactory, index: CoarseIndex) -> None:
        self._factory, self._index = factory, index

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        self._factory.threads.append(threading.get_ident())
        return self._index.search(queries, count, allowed)


async def test_a_short_search_runs_where_it_stands_and_answers_as_in_a_thread(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory, here = NotingFactory(), threading.get_ident()
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(20, 64, seed=1))
    app = CoarseApp(store, factory)
    await app.open(docs)
    two = np.concatenate([QUERY, QUERY])
    plain = a_query(docs, count=5, bound_z=None)
    bounded = a_query(docs, count=5)
    for query, inline in (
        (plain, True),
        (replace(bounded, alone=True), True),
        (bounded, False),
        (replace(plain, queries=two), False),
        (replace(bounded, queries=two, alone=True), False),
    ):
        answer = await app.search(query, PATIENT_S)
        assert (factory.threads[-1] == here) is inline
        with monkeypatch.context() as patch:
            patch.setattr(app_module, "_INLINE_SCAN", 0)
            patch.setattr(app_module, "_INLINE_SCAN_ALONE", 0)
            in_thread = await app.search(query, PATIENT_S)
        assert factory.threads[-1] != here
        for one, other in zip(answer.hits, in_thread.hits, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.estimates.tolist() == other.estimates.tolist()
    await app.close()


# --- changes --------------------------------------------------------------------------------------


async def test_a_change_is_seen_by_every_tier_at_once(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection(tiers=(8, 16, 64)))
    await app.open(docs)
    ids = await written(store, docs, mrl_like(3, 64, seed=1))
    await reached(app, docs, ids)
    new = await written(store, docs, mrl_like(1, 64, seed=2))
    gone = await deleted(store, docs, ["d1"])
    await reached(app, docs, [*new, *gone])
    for dim in docs.tiers:
        assert await found(app, a_query(docs, coarse_dim=dim)) == {int(new[0]), int(ids[2])}
    assert [tier.documents for tier in await app.status(docs)] == [2, 2, 2]


async def test_dropping_forgets_one_generation_and_may_be_repeated(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    await app.drop("docs", docs.generation + 1)
    assert (await app.status(docs))[0].documents == 0
    for _ in range(2):
        await app.drop("docs", docs.generation)
        with pytest.raises(NotFound):
            await app.search(a_query(docs), PATIENT_S)
    await app.drop("never there", 1)


async def test_a_collection_that_is_dropped_while_it_is_opened_is_not_served(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(5, 64, seed=1))
    begun, go = asyncio.Event(), asyncio.Event()

    async def held() -> None:
        begun.set()
        await go.wait()

    store.faults.before["vectors"] = [held]
    opening = asyncio.create_task(app.open(docs))
    await begun.wait()
    await store.drop_collection(docs)
    await app.drop("docs", docs.generation)
    go.set()
    with pytest.raises(NotFound, match="dropped"):
        await opening
    with pytest.raises(NotFound, match="does not serve"):
        await app.progress(docs)
    new = await created(store, a_collection())
    assert await app.open(new) == 0


# --- upkeep ---------------------------------------------------------------------------------------


async def test_settling_waits_until_one_segment_is_left(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection(tiers=(8, 16)))
    await app.open(docs)
    await asyncio.wait_for(app.settle(docs), PATIENT_S)
    vectors = mrl_like(40, 64, seed=1)
    everything: set[int] = set()
    for start, size in ((0, 20), (20, 10), (30, 6), (36, 4)):
        names = [f"d{number}" for number in range(start, start + size)]
        ids = await written(store, docs, vectors[start : start + size], names)
        await reached(app, docs, ids)
        everything |= {*ids.tolist()}
    await asyncio.wait_for(app.settle(docs), PATIENT_S)
    for tier in await app.status(docs):
        assert tier.segments == ("numpy:40",)
        assert tier.deleted == 0
    assert await found(app, a_query(docs)) == everything


async def test_settling_something_settled_returns(app: CoarseApp, store: FaultyStore) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    for _ in range(2):
        await asyncio.wait_for(app.settle(docs), PATIENT_S)


async def test_whoever_waits_for_a_dropped_collection_to_settle_is_told(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    waiting = asyncio.create_task(app.settle(docs))
    await asyncio.sleep(0)
    await app.drop("docs", docs.generation)
    with pytest.raises(NotFound):
        await asyncio.wait_for(waiting, PATIENT_S)


class FailingMerges(NumpyFactory):
    """Builds what a write asks for; a merge of more than `limit` rows fails until it is healed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.failures = 0

    def build(self, prefixes: Floats) -> CoarseIndex:  # type: ignore[override]
        if len(prefixes) > self.limit:
            self.failures += 1
            raise MemoryError("no room for the merge")
        return super().build(prefixes)


async def test_upkeep_that_fails_stops_neither_searches_nor_writes_and_is_tried_again(
    store: FaultyStore,
) -> None:
    factory = FailingMerges(limit=12)
    docs = await created(store, a_collection())
    app = CoarseApp(store, factory)
    await app.open(docs)
    live: set[int] = set()
    for start, size in ((0, 12), (12, 7), (19, 4)):
        live |= await followed(app, store, docs, start, size)

    async def failed_twice() -> bool:
        assert await found(app, a_query(docs)) == live
        return factory.failures >= 2

    await eventually(failed_twice)
    live |= await followed(app, store, docs, 29, 1)
    (gone,) = await store.find(docs, ["d0"])
    await reached(app, docs, await deleted(store, docs, ["d0"]))
    live.remove(int(gone))
    assert await found(app, a_query(docs)) == live
    factory.limit = 1000
    await asyncio.wait_for(app.settle(docs), PATIENT_S)
    assert (await app.status(docs))[0].segments == ("numpy:23",)
    await app.close()


async def followed(
    app: CoarseApp, store: FaultyStore, docs: Collection, start: int, size: int
) -> set[int]:
    """Write d<start> and the next ones, and wait until they can be found."""
    names = [f"d{number}" for number in range(start, start + size)]
    ids = await written(store, docs, mrl_like(size, 64, seed=start), names)
    await reached(app, docs, ids)
    return {*ids.tolist()}


async def test_a_long_merge_holds_up_no_write(store: FaultyStore) -> None:
    """Of any collection: merges have a thread of their own."""
    begun, let = threading.Event(), threading.Event()

    class SlowMerges(NumpyFactory):
        def build(self, prefixes: Floats) -> CoarseIndex:  # type: ignore[override]
            if len(prefixes) > 12:
                begun.set()
                assert let.wait(30)
            return super().build(prefixes)

    app = CoarseApp(store, SlowMerges())
    collections = [await created(store, a_collection(name)) for name in ("a", "b", "c")]
    live = {}
    for docs in collections:
        await app.open(docs)
        live[docs.name] = await followed(app, store, docs, 0, 10)
        live[docs.name] |= await followed(app, store, docs, 10, 4)
    assert await asyncio.to_thread(begun.wait, 30)
    for docs in collections:
        live[docs.name] |= await followed(app, store, docs, 15, 1)
        assert await found(app, a_query(docs)) == live[docs.name]
    let.set()
    await app.close()


async def test_after_closing_calls_are_refused_as_unavailable(store: FaultyStore) -> None:
    app = CoarseApp(store, NumpyFactory())
    docs = await created(store, a_collection())
    await app.open(docs)
    served = app._served["docs", docs.generation]
    await app.close()
    app._served["docs", docs.generation] = served
    with pytest.raises(WorkerUnavailable, match="closed"):
        await app.search(a_query(docs), PATIENT_S)
