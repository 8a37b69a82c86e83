"""A copy of prefixes is searched, verified and saved as the tier that its rows come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.adapters.blob_store import open_blobs
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse import servicer
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.coarse.tier import Tier
from nestvec.core.arrays import Floats, Ids
from nestvec.core.collection import Collection
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf, Filter
from nestvec.core.ports import CoarseHits, CoarseQuery
from nestvec.core.tier_rows import RowCodec, TierRows
from nestvec.rpc.clients import RemoteCoarse, channel_to
from nestvec.rpc.server import Server, ServerLimits
from tests.nestvec.core.synthetic import as_stored, mrl_like, unit
from tests.support.prefix_copies import DIM, TwoRegions, two_regions
from tests.support.rooms import PATIENT_S, a_collection, a_sketch, deleted, written

FULL, HEAD = 24, 8
SKETCH = a_sketch(HEAD, FULL)
POOL = as_stored(mrl_like(300, FULL, seed=3))
QUERIES = unit(mrl_like(4, FULL, seed=4))
NONE = np.empty(0, np.int64)


def same_hits(one: CoarseHits, other: CoarseHits) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.estimates, other.estimates)
        and np.array_equal(one.half_widths, other.half_widths)
        and (one.rest_upper_bound, one.rest_count) == (other.rest_upper_bound, other.rest_count)
    )


@given(
    st.lists(st.integers(0, 299), unique=True, min_size=1, max_size=60),
    st.lists(st.integers(0, 299), max_size=20),
    st.sampled_from([None, 3.0, 5.0]),
    st.integers(1, 70),
    st.sampled_from([0, 3]),
)
def test_rows_are_searched_as_the_vectors_that_they_were_made_of(
    numbers: list[int], gone: list[int], bound_z: float | None, count: int, certified_k: int
) -> None:
    """The same hits, estimates and half widths, to the last bit."""
    ids = np.array(sorted(numbers), np.int64)
    vectors = POOL[ids]
    codec = RowCodec(HEAD, FULL, "ab" * 8)
    made = TierRows(SKETCH.encode_prefixes(vectors), SKETCH.encode(vectors))
    _, rows = codec.decode_sound(codec.encode(made))
    tiers = [Tier(HEAD, SKETCH, NumpyFactory()) for _ in range(2)]
    removed = np.array(sorted(set(gone)), np.int64)
    both: list[Floats | TierRows] = [vectors, rows]
    for tier, values in zip(tiers, both, strict=True):
        tier.apply(CoarseRows(ids, values, NONE))
        tier.apply(CoarseRows(NONE, POOL[:0], removed))
    (mine, live, _), (theirs, live_too, _) = (
        tier.search(QUERIES, count, bound_z, certified_k=certified_k) for tier in tiers
    )
    assert live == live_too == len(set(numbers) - set(gone))
    assert all(same_hits(one, other) for one, other in zip(mine, theirs, strict=True))


def test_chosen_rows_keep_their_fields() -> None:
    made = TierRows(SKETCH.encode_prefixes(POOL[:3]), SKETCH.encode(POOL[:3]))
    rows = CoarseRows(np.arange(3), made, np.arange(9), [{"n": number} for number in range(3)])
    chosen = rows.chosen(np.array([True, False, True]))
    assert chosen.ids.tolist() == [0, 2]
    assert isinstance(chosen.vectors, TierRows)
    assert np.array_equal(chosen.vectors.prefixes.codes, made.prefixes.codes[[0, 2]])
    assert chosen.fields == [{"n": 0}, {"n": 2}]
    assert not len(chosen.removed)


# --- by way of a store ----------------------------------------------------------------------------

FIELDS = [FieldSchema("lang", FieldType.KEYWORD)]
HOME = a_collection(tiers=(DIM, 32), fields=FIELDS)
VECTORS = mrl_like(120, 64, seed=5)
NAMES = [f"d{row}" for row in range(len(VECTORS))]
LANGS = [{"lang": "de" if row % 3 else "en"} for row in range(len(VECTORS))]


async def filled() -> tuple[TwoRegions, Collection]:
    regions = await two_regions(HOME)
    await written(regions.home_store, regions.home, VECTORS, NAMES, LANGS)
    return regions, await regions.copied()


def asked(collection: Collection, wanted: Filter | None = None, count: int = 200) -> CoarseQuery:
    return CoarseQuery(
        collection.name,
        collection.generation,
        collection.space.fingerprint,
        unit(mrl_like(3, 64, seed=6)),
        DIM,
        count,
        5.0,
        filter=wanted,
    )


async def by_name(
    shard: CoarseApp, collection: Collection, query: CoarseQuery
) -> list[dict[str, tuple[float, float]]]:
    """Estimate and half width of each document."""
    answer = await shard.search(query, PATIENT_S)
    found = []
    for hits in answer.hits:
        names = await shard.names(collection, hits.ids)
        bounds = zip(hits.estimates.tolist(), hits.half_widths.tolist(), strict=True)
        found.append(dict(zip([name or "" for name in names], bounds, strict=True)))
    return found


def share_alike(
    one: dict[str, tuple[float, float]], other: dict[str, tuple[float, float]]
) -> float:
    """Of the same documents, how many have the same bounds but for the order of additions."""
    assert one.keys() == other.keys()
    bounds, others = (np.array([of[name] for name in one]) for of in (one, other))
    return float(np.isclose(bounds, others, rtol=1e-5, atol=1e-6).all(axis=1).mean())


@pytest.mark.parametrize("wanted", [None, AnyOf("lang", ("en",))], ids=["all", "filtered"])
async def test_a_copy_finds_what_its_home_finds(wanted: Filter | None) -> None:
    regions, copy = await filled()
    at_home = CoarseApp(regions.home_store, NumpyFactory())
    await at_home.open(regions.home)
    try:
        mine = await by_name(regions.shard, copy, asked(copy, wanted))
        theirs = await by_name(at_home, regions.home, asked(regions.home, wanted))
        assert len(mine[0]) == (40 if wanted else 120)
        for one, other in zip(mine, theirs, strict=True):
            # A matrix product rounds by the batch that it is made in: a sign of what is nearly zero
            # may differ in one of them, and nothing else.
            assert share_alike(one, other) > 0.95
    finally:
        await at_home.close()
        await regions.close()


async def test_what_is_kept_of_a_document_is_its_row_id_and_declared_fields() -> None:
    regions, copy = await filled()
    try:
        ids = await regions.store.find(copy, ["d3", "d4"])
        rows = await regions.store.vectors(copy, ids)
        assert {len(row or b"") for row in rows} == {copy.rows.nbytes}
        payloads = await regions.store.payloads(copy, ids)
        assert payloads == [b'[1,"d3","",{"lang":"en"}]', b'[1,"d4","",{"lang":"de"}]']
    finally:
        await regions.close()


async def test_a_damaged_row_is_left_out_counted_and_mended() -> None:
    regions, copy = await filled()
    try:
        ids: Ids = await regions.store.find(copy, ["d1", "d2", "d3"])
        kept = await regions.store.vectors(copy, ids)
        regions.store.spoil(copy, int(ids[0]), b"no row")
        regions.store.spoil(copy, int(ids[1]), (kept[1] or b"")[:8] + bytes(copy.rows.nbytes - 8))
        report = await regions.shard.verify(copy, repair=False, sample=1000)
        assert sorted(report.damaged.tolist()) == sorted(ids[:2].tolist())
        assert [(one.missing, one.different, one.compared) for one in report.tiers] == [(0, 0, 118)]
        fresh = CoarseApp(regions.store, NumpyFactory())
        assert await fresh.open(copy) == 118
        # A row of another document: sound, and not what is indexed.
        regions.store.spoil(copy, int(ids[2]), kept[0])
        report = await regions.shard.verify(copy, repair=True, sample=1000)
        assert [(one.different, one.compared) for one in report.tiers] == [(1, 118)]
        report = await regions.shard.verify(copy, repair=False, sample=1000)
        assert [one.different for one in report.tiers] == [0]
        await fresh.close()
    finally:
        await regions.close()


async def test_a_snapshot_of_a_copy_is_loaded_and_goes_on(tmp_path: Path) -> None:
    regions, copy = await filled()
    snapshots = ShardSnapshots(open_blobs(str(tmp_path)), NumpyFactory(), 0, 1)
    first = CoarseApp(regions.store, NumpyFactory(), snapshots=snapshots)
    second = CoarseApp(regions.store, NumpyFactory(), snapshots=snapshots)
    try:
        await first.open(copy)
        info = await first.snapshot(copy)
        assert info.documents == 120
        await deleted(regions.home_store, regions.home, ["d7"])
        await regions.copied()
        assert await second.open(copy) == 119
        mine = await by_name(second, copy, asked(copy))
        theirs = await by_name(regions.shard, copy, asked(copy))
        assert [share_alike(*both) for both in zip(mine, theirs, strict=True)] == [1.0] * 3
        assert "d7" not in mine[0]
        assert (await second.status(copy))[0].documents == 119
    finally:
        await first.close()
        await second.close()
        await regions.close()


async def test_a_worker_behind_grpc_serves_a_copy() -> None:
    """Its name is none for clients; the worker's own catalogue has it."""
    regions, copy = await filled()
    worker = CoarseApp(regions.store, NumpyFactory())
    mounted = servicer.mount(worker, StoredCatalogue(regions.store, copies=True), 10.0)
    server = Server([mounted], ServerLimits(drain_s=0.1))
    channel = channel_to(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", 1 << 24)
    try:
        there = RemoteCoarse(channel, "shard 0")
        assert await there.open(copy) == 120
        answer = await there.search(asked(copy), PATIENT_S)
        here = await regions.shard.search(asked(copy), PATIENT_S)
        assert answer.hits[0].ids.tolist() == here.hits[0].ids.tolist()
        assert await there.names(copy, answer.hits[0].ids[:3]) == await regions.shard.names(
            copy, here.hits[0].ids[:3]
        )
    finally:
        await channel.close()
        await server.stop()
        await worker.close()
        await regions.close()
