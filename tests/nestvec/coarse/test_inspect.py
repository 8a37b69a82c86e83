"""What a shard tells of documents, over real FAISS, in this process and over a socket."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.memory_store import MemoryStore
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.servicer import mount
from nestvec.coarse.tier import TierState
from nestvec.core.codec import Int8Codes
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NotFound
from nestvec.core.inspection import COLUMNS, Inspection, InspectionRequest, worst
from nestvec.core.placement import internal_id
from nestvec.rpc.clients import RemoteCoarse, channel_to
from nestvec.rpc.inspection_wire import (
    inspection_from_wire,
    inspection_to_wire,
    request_from_wire,
    request_to_wire,
)
from nestvec.rpc.server import Server, ServerLimits
from nestvec.v1 import coarse_pb2
from tests.nestvec.core.synthetic import as_stored, mrl_like
from tests.support.rooms import a_collection, created, deleted, written

ROWS = 200
QUERIES = mrl_like(2, 64, seed=5)


async def opened(store: MemoryStore) -> tuple[CoarseApp, Collection, np.ndarray]:
    collection = await created(store, a_collection())
    ids = await written(store, collection, mrl_like(ROWS, 64, seed=1))
    app = CoarseApp(store, FaissFactory())
    await app.open(collection)
    await app.settle(collection)
    return app, collection, ids


def a_request(ids: np.ndarray, rows: list[int], count: int = 20) -> InspectionRequest:
    return InspectionRequest(QUERIES, 16, count, True, np.array(rows, np.int64), ids)


async def test_scores_offers_and_cutoffs_are_those_of_a_search() -> None:
    app, collection, ids = await opened(MemoryStore())
    try:
        found = await app.inspect(collection, a_request(np.tile(ids, 2), [0] * ROWS + [1] * ROWS))
    finally:
        await app.close()
    heads = as_stored(mrl_like(ROWS, 64, seed=1))[:, :16]
    heads /= np.linalg.norm(heads, axis=1, keepdims=True)
    asked = QUERIES[:, :16] / np.linalg.norm(QUERIES[:, :16], axis=1, keepdims=True)
    for number in range(2):
        mine = slice(number * ROWS, (number + 1) * ROWS)
        np.testing.assert_allclose(found.code_scores[mine], heads @ asked[number], atol=0.02)
        # The flat scan is over the decoded int8 codes.
        np.testing.assert_allclose(found.scan_scores[mine], found.code_scores[mine], atol=1e-5)
        best = np.argsort(-found.scan_scores[mine])[:20]
        assert set(np.flatnonzero(found.offered[mine])) == set(best.tolist())
        assert found.cutoffs[mine] == pytest.approx(found.scan_scores[mine][best[-1]])
    assert found.indexed.all()
    assert found.sound.all()
    assert np.abs(found.errors).max() < 1e-5
    assert found.cpu_s > 0.0


async def test_what_is_gone_or_broken_is_told() -> None:
    store = MemoryStore()
    app, collection, ids = await opened(store)
    try:
        await deleted(store, collection, ["d3"])
        await app.settle(collection)
        (served,) = app.held()
        tier = served.tiers[16]
        (view,) = tier.state.views
        columns = view.segment.columns
        codes = columns.prefixes.codes.copy()
        broken = int(np.searchsorted(columns.ids, ids[7]))
        codes[broken] = -codes[broken]
        changed = replace(columns, prefixes=Int8Codes(codes, columns.prefixes.scales))
        tier.adopt(TierState((replace(view, segment=replace(view.segment, columns=changed)),)))
        unknown = internal_id(1, 1 << 40)
        asked = np.array([ids[3], ids[7], ids[8], unknown], np.int64)
        found = await app.inspect(collection, a_request(asked, [0] * 4))
    finally:
        await app.close()
    assert found.indexed.tolist() == [False, True, True, False]
    assert found.sound.tolist() == [True, False, True, True]
    assert np.isnan(found.scan_scores).tolist() == [True, False, False, True]


async def test_fewer_documents_than_were_asked_for_have_no_cutoff() -> None:
    app, collection, ids = await opened(MemoryStore())
    try:
        found = await app.inspect(collection, a_request(ids[:1], [0], count=10_000))
        assert found.offered.all()
        with pytest.raises(NotFound, match="tier"):
            await app.inspect(collection, replace(a_request(ids[:1], [0]), coarse_dim=32))
    finally:
        await app.close()


async def test_a_shard_behind_grpc_tells_the_same() -> None:
    store = MemoryStore()
    app, collection, ids = await opened(store)
    server = Server([mount(app, StoredCatalogue(store), 10.0)], ServerLimits())
    port = await server.start("127.0.0.1", 0)
    channel = channel_to(f"127.0.0.1:{port}", 1 << 24)
    try:
        request = a_request(ids[:50], [0, 1] * 25)
        here = await app.inspect(collection, request)
        there = await RemoteCoarse(channel).inspect(collection, request)
    finally:
        await channel.close()
        await server.stop()
        await app.close()
    for name in COLUMNS:
        assert np.array_equal(getattr(here, name), getattr(there, name), equal_nan=True), name


def test_a_request_that_does_not_fit_together_is_refused() -> None:
    good = request_to_wire(coarse_pb2.CollectionRef(), a_request(np.arange(2), [0, 1]))
    assert request_from_wire(good, 64).rows.tolist() == [0, 1]
    for change, field in (
        ({"rows": np.array([0, 2], "<i8").tobytes()}, "rows"),
        ({"rows": np.array([0, -1], "<i8").tobytes()}, "rows"),
        ({"rows": b""}, "ids"),
        ({"ids": b"123"}, "ids"),
        ({"queries": b"123"}, "queries"),
        ({"count": 0}, "count"),
    ):
        bad = coarse_pb2.InspectDocumentsRequest()
        bad.CopyFrom(good)
        for name, value in change.items():
            setattr(bad, name, value)
        with pytest.raises(InvalidRequest, match=field):
            request_from_wire(bad, 64)
    with pytest.raises(InvalidRequest, match="indexed"):
        inspection_from_wire(inspection_to_wire(Inspection.unknown(2)), 3)


def told(**columns: list[object]) -> Inspection:
    sound = Inspection.unknown(5)
    sound.indexed[:], sound.offered[:], sound.scan_scores[:] = True, True, 0.5
    for name, values in columns.items():
        getattr(sound, name)[:] = values
    return sound


def test_of_several_replicas_the_one_counts_that_explains_most() -> None:
    one = told(indexed=[True, True, True, True, False], sound=[True, False, True, True, True])
    other = told(scan_scores=[0.1, 0.1, np.nan, 0.1, 0.1], offered=[True, True, True, False, True])
    merged = worst([replace(one, cpu_s=1.0), replace(other, cpu_s=2.0)])
    assert merged.indexed.tolist() == [True, True, True, True, False]
    assert merged.sound.tolist() == [True, False, True, True, True]
    assert merged.offered.tolist() == [True, True, True, False, True]
    assert merged.scan_scores == pytest.approx([0.5, 0.5, np.nan, 0.1, 0.5], nan_ok=True)
    assert merged.cpu_s == 3.0
    assert worst([one]) is one
