"""What every shard found becomes one report, which names documents as their owners do."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NotFound, SnapshotFailed, WorkerUnavailable
from nestvec.core.ports import ShardVerification, SnapshotInfo, TierDifference, VectorStore
from tests.support.desk import Desk, contents, fill, remove

NOTHING = np.empty(0, np.int64)
NAMES = [f"d{number}" for number in range(40)]


def a_tier(dim: int = 16, documents: int = 20, **found: int) -> TierDifference:
    return TierDifference(
        dim,
        documents,
        found.get("missing", 0),
        found.get("surplus", 0),
        found.get("compared", 20),
        found.get("different", 0),
    )


async def a_desk(kept: VectorStore) -> tuple[Desk, Collection]:
    desk = Desk.over(kept)
    docs = await desk.create(tiers=(16,))
    await fill(kept, docs, NAMES)
    return desk, docs


async def test_shards_that_agree_with_the_store_are_clean(kept: VectorStore) -> None:
    desk, _ = await a_desk(kept)
    for shard in desk.shards:
        shard.report = ShardVerification([a_tier()], 20, NOTHING)
    report = await desk.admin.verify("docs", repair=True, sample=0)
    assert report.tiers == [(0, a_tier()), (1, a_tier())]
    assert (report.store_documents, report.damaged, report.damaged_ids) == (40, 0, [])
    assert (report.clean, report.repaired) == (True, False)


@pytest.mark.parametrize("what", ["missing", "surplus", "different"])
@pytest.mark.parametrize("repair", [True, False])
async def test_any_difference_in_any_shard_is_not_clean(
    kept: VectorStore, what: str, repair: bool
) -> None:
    desk, _ = await a_desk(kept)
    desk.shards[0].report = ShardVerification([a_tier()], 20, NOTHING)
    desk.shards[1].report = ShardVerification([a_tier(), a_tier(32, **{what: 1})], 20, NOTHING)
    report = await desk.admin.verify("docs", repair, 7)
    assert (report.clean, report.repaired) == (False, repair)
    assert [shard for shard, _ in report.tiers] == [0, 1, 1]
    assert all(shard.asked == [(repair, 7)] for shard in desk.shards)


async def test_damaged_documents_are_named_and_no_repair_is_claimed_for_them(
    kept: VectorStore,
) -> None:
    desk, docs = await a_desk(kept)
    ids = await kept.find(docs, ["d3", "d9", "d27"])
    desk.shards[0].report = ShardVerification([a_tier()], 20, ids[:2])
    desk.shards[1].report = ShardVerification([a_tier()], 20, ids[2:])
    report = await desk.admin.verify("docs", repair=True, sample=0)
    assert report.damaged_ids == ["d3", "d9", "d27"]
    assert (report.damaged, report.clean, report.repaired) == (3, False, False)


async def test_a_document_whose_payload_is_gone_is_named_by_the_id_map(
    kept: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, docs = await a_desk(kept)
    await remove(kept, docs, ["d5"])
    ids = await kept.find(docs, ["d3", "d9"])
    gone = (await contents(kept, docs))["d3"].sequence + (1 << 40)
    desk.shards[0].report = ShardVerification(
        [a_tier()], 20, np.array([ids[0], gone, ids[1]], np.int64)
    )

    async def nameless(collection: Collection, wanted: object) -> list[str | None]:
        return [None, None, "d9"]

    monkeypatch.setattr(kept, "external_ids", nameless)
    report = await desk.admin.verify("docs", repair=False, sample=0)
    assert report.damaged_ids == ["d3", f"(deleted meanwhile: {gone})", "d9"]


async def test_of_very_many_damaged_documents_the_first_are_named(kept: VectorStore) -> None:
    desk, docs = await a_desk(kept)
    names = [f"e{number}" for number in range(1200)]
    await fill(kept, docs, names)
    ids = await kept.find(docs, names)
    desk.shards[0].report = ShardVerification([a_tier()], 20, ids)
    report = await desk.admin.verify("docs", repair=False, sample=0)
    assert report.damaged == 1200
    assert report.damaged_ids == names[:1000]


async def test_without_a_wish_a_thousand_rows_are_compared(kept: VectorStore) -> None:
    desk, _ = await a_desk(kept)
    await desk.admin.verify("docs", repair=False, sample=0)
    assert desk.shards[0].asked == [(False, 1000)]
    with pytest.raises(InvalidRequest, match="sample: -1"):
        await desk.admin.verify("docs", repair=False, sample=-1)


async def test_where_a_shard_is_away_there_is_no_report(kept: VectorStore) -> None:
    desk, _ = await a_desk(kept)
    desk.shards[1].failing["verify"] = WorkerUnavailable("away")
    with pytest.raises(WorkerUnavailable):
        await desk.admin.verify("docs", repair=True, sample=0)
    with pytest.raises(NotFound):
        await desk.admin.verify("dox", repair=True, sample=0)


async def test_every_shard_writes_its_snapshot(kept: VectorStore) -> None:
    desk, _ = await a_desk(kept)
    assert await desk.admin.snapshot("docs") == [
        SnapshotInfo("place/docs/0", 10, 1000),
        SnapshotInfo("place/docs/1", 11, 1000),
    ]
    desk.shards[0].failing["snapshot"] = SnapshotFailed("full")
    with pytest.raises(SnapshotFailed):
        await desk.admin.snapshot("docs")


async def test_a_description_tells_deletions_and_log(kept: VectorStore) -> None:
    desk, docs = await a_desk(kept)
    await remove(kept, docs, ["d1", "d2"])
    store = (await desk.admin.describe("docs")).store
    assert (store.documents, store.tombstones) == (38, 2)
    assert store.log_entries > 0
