"""What concerns every replica concerns every replica that lives, and no other."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import BudgetSpent, NotFound, SnapshotFailed, WorkerUnavailable
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.members import MemberState
from nestvec.core.ports import ShardVerification
from nestvec.core.watermark import Watermark
from tests.nestvec.fanout.conftest import Cluster, Replicas, shard_of
from tests.support.faults import PATIENT_S, eventually, hanging, raising
from tests.support.replicas import DOCS, ScriptedShard, a_difference, a_worker

DOWN = raising(WorkerUnavailable("down"))


async def called(what: str, *peers: ScriptedShard) -> None:
    """Wait until each of them has been."""

    async def all_were() -> bool:
        return all(peer.calls(what) for peer in peers)

    await eventually(all_were)


# --- open and drop --------------------------------------------------------------------------------


async def test_every_live_replica_is_told_whatever_its_state(cluster: Cluster) -> None:
    peers = [cluster.peer(state.value) for state in MemberState]
    peers[1].documents = 9
    cluster.views.show(*(a_worker(state.value, state=state) for state in MemberState))
    cluster.shards.start()
    assert await shard_of(cluster).open(DOCS) == 9
    await shard_of(cluster).drop("docs", 1)
    for peer in peers:
        assert peer.faults.calls == ["open", "drop"]


async def test_a_replica_that_cannot_be_told_finds_out_by_itself(
    cluster: Cluster, replicas: Replicas
) -> None:
    bad, good = replicas(2)
    for what in ("open", "drop"):
        bad.faults.always(what, DOWN)
    assert await shard_of(cluster).open(DOCS) == 7
    await shard_of(cluster).drop("docs", 1)
    assert good.faults.calls == ["open", "drop"]
    good.faults.always("open", DOWN)
    with pytest.raises(WorkerUnavailable, match="down"):
        await shard_of(cluster).open(DOCS)


async def test_a_frozen_replica_is_waited_for_only_while_it_is_a_member(
    cluster: Cluster, replicas: Replicas
) -> None:
    frozen, _ = replicas(2)
    frozen.faults.always("open", hanging)
    task = asyncio.create_task(shard_of(cluster).open(DOCS))
    await called("open", frozen)
    await asyncio.sleep(0.05)
    assert not task.done()
    cluster.views.lose("w0")
    assert await task == 7
    assert frozen.cancelled == 1


async def test_nothing_can_be_opened_where_nobody_lives_and_nothing_need_be_dropped(
    cluster: Cluster,
) -> None:
    cluster.views.show()
    cluster.shards.start()
    with pytest.raises(WorkerUnavailable, match="shard 0 of docs/2"):
        await shard_of(cluster).open(DOCS)
    await shard_of(cluster).drop("docs", 1)


# --- reach ----------------------------------------------------------------------------------------

MARK = Watermark(1, {0: 5})


async def test_a_watermark_is_reached_when_every_ready_replica_has_reached_it(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    task = asyncio.create_task(shard_of(cluster).reach(DOCS, MARK, PATIENT_S))
    await called("reach", *peers)
    peers[0].move(0, 5)
    await asyncio.sleep(0.05)
    assert not task.done()
    peers[1].move(0, 6)
    await task


async def test_one_that_leaves_is_no_longer_waited_for(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    peers[0].move(0, 5)
    task = asyncio.create_task(shard_of(cluster).reach(DOCS, MARK, PATIENT_S))
    await called("reach", *peers)
    cluster.views.lose("w1")
    await task


async def test_one_that_becomes_ready_meanwhile_is_waited_for(
    cluster: Cluster, replicas: Replicas
) -> None:
    (first,) = replicas(1)
    task = asyncio.create_task(shard_of(cluster).reach(DOCS, MARK, PATIENT_S))
    await called("reach", first)
    late = cluster.peer("late")
    cluster.views.show(a_worker("w0"), a_worker("late"))
    await asyncio.sleep(0)
    first.move(0, 5)
    await called("reach", late)
    assert not task.done()
    late.move(0, 5)
    await task


async def test_one_that_fails_is_asked_again_while_it_is_a_member(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    for peer in peers:
        peer.move(0, 5)
    peers[0].faults.before["reach"] = [DOWN, DOWN]
    await shard_of(cluster).reach(DOCS, MARK, PATIENT_S)
    assert peers[0].calls("reach") == 3


async def test_when_the_last_one_leaves_nothing_is_said_to_be_reached(
    cluster: Cluster, replicas: Replicas
) -> None:
    (only,) = replicas(1)
    task = asyncio.create_task(shard_of(cluster).reach(DOCS, MARK, PATIENT_S))
    await called("reach", only)
    cluster.views.lose("w0")
    with pytest.raises(WorkerUnavailable, match="shard 0 of docs/2"):
        await task


async def test_what_is_not_reached_in_time_is_said(cluster: Cluster, replicas: Replicas) -> None:
    (only,) = replicas(1)
    only.faults.always("reach", raising(BudgetSpent("reach")))
    with pytest.raises(BudgetSpent):
        await shard_of(cluster).reach(DOCS, MARK, 0.2)
    only.faults.always("reach", DOWN)
    with pytest.raises((BudgetSpent, WorkerUnavailable)):
        await shard_of(cluster).reach(DOCS, MARK, 0.2)
    only.faults.always("reach", raising(NotFound("collection", "docs")))
    with pytest.raises(NotFound):
        await shard_of(cluster).reach(DOCS, MARK, PATIENT_S)


# --- progress -------------------------------------------------------------------------------------

positions = st.dictionaries(st.integers(0, 4), st.integers(1, 9))


@given(st.lists(positions, min_size=1, max_size=3))
def test_progress_is_the_least_of_each_partition(all_positions: list[dict[int, int]]) -> None:
    async def check() -> None:
        cluster = Cluster()
        names = [f"w{number}" for number in range(len(all_positions))]
        for name, position in zip(names, all_positions, strict=True):
            cluster.peer(name).positions = position
        starting = cluster.peer("starting")
        cluster.views.show(
            *(a_worker(name) for name in names),
            a_worker("starting", state=MemberState.STARTING),
        )
        cluster.shards.start()
        mark = await shard_of(cluster).progress(DOCS)
        for partition in range(5):
            least = min(position.get(partition, 0) for position in all_positions)
            assert mark.sequences.get(partition, 0) == least
        assert starting.faults.calls == []
        await cluster.shards.close()

    asyncio.run(check())


async def test_progress_is_not_told_without_a_replica_that_may_be_behind(
    cluster: Cluster, replicas: Replicas
) -> None:
    bad, good = replicas(2)
    good.move(0, 9)
    bad.faults.before["progress"] = [DOWN]
    with pytest.raises(WorkerUnavailable, match="down"):
        await shard_of(cluster).progress(DOCS)
    bad.faults.always("progress", hanging)
    task = asyncio.create_task(shard_of(cluster).progress(DOCS))
    await called("progress", good)
    cluster.views.lose("w0")
    assert (await task).sequences == {0: 9}


# --- the rest -------------------------------------------------------------------------------------


async def test_a_verification_tells_the_worst_of_each_replica_and_all_that_is_damaged(
    cluster: Cluster, replicas: Replicas
) -> None:
    one, two = replicas(2)
    one.verification = ShardVerification(
        [a_difference(4, 10), a_difference(2, 9, missing=1)], 10, np.array([3, 5])
    )
    two.verification = ShardVerification(
        [a_difference(2, 12, surplus=2), a_difference(4, 8, missing=2)], 10, np.array([5, 8])
    )
    found = await shard_of(cluster).verify(DOCS, True, 10)
    by_dim = {tier.dim: tier for tier in found.tiers}
    assert (by_dim[4].documents, by_dim[4].missing, by_dim[4].surplus) == (8, 2, 0)
    assert (by_dim[2].documents, by_dim[2].missing, by_dim[2].surplus) == (9, 1, 2)
    assert found.store_documents == 10
    assert found.damaged.tolist() == [3, 5, 8]


async def test_a_verification_is_not_silent_of_a_replica_that_fails(
    cluster: Cluster, replicas: Replicas
) -> None:
    bad, _ = replicas(2)
    bad.faults.always("verify", DOWN)
    with pytest.raises(WorkerUnavailable, match="down"):
        await shard_of(cluster).verify(DOCS, False, 10)


async def test_every_replica_is_asked_about_a_document_and_the_broken_one_counts(
    cluster: Cluster, replicas: Replicas
) -> None:
    one, two = replicas(2)
    one.inspection, two.inspection = Inspection.unknown(2), Inspection.unknown(2)
    for replica in (one, two):
        replica.inspection.indexed[:], replica.inspection.scan_scores[:] = True, 0.5
    two.inspection.sound[1] = False
    ids = np.arange(2)
    request = InspectionRequest(np.ones((1, 4), np.float32), 4, 10, True, 0 * ids, ids)
    found = await shard_of(cluster).inspect(DOCS, request)
    assert (found.indexed.tolist(), found.sound.tolist()) == ([True, True], [True, False])


async def test_one_replica_writes_the_snapshot_and_another_where_it_cannot_be_reached(
    cluster: Cluster, replicas: Replicas
) -> None:
    bad, good = replicas(2)
    bad.faults.always("snapshot", DOWN)
    for _ in range(10):
        assert (await shard_of(cluster).snapshot(DOCS)).location == "w1"
    assert good.calls("snapshot") == 10
    good.faults.always("snapshot", raising(SnapshotFailed("disk full")))
    bad.faults.heal()
    bad.faults.always("snapshot", raising(SnapshotFailed("disk full")))
    asked = bad.calls("snapshot") + good.calls("snapshot")
    with pytest.raises(SnapshotFailed):
        await shard_of(cluster).snapshot(DOCS)
    assert bad.calls("snapshot") + good.calls("snapshot") == asked + 1


async def test_a_document_counts_once_in_a_status(cluster: Cluster, replicas: Replicas) -> None:
    replicas(3)
    (tier,) = await shard_of(cluster).status(DOCS)
    assert tier.documents == 7


async def test_every_replica_settles_and_any_knows_names(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    await shard_of(cluster).settle(DOCS)
    assert [peer.calls("settle") for peer in peers] == [1, 1]
    names = await shard_of(cluster).names(DOCS, np.array([3, 4]))
    assert names in (["w0/3", "w0/4"], ["w1/3", "w1/4"])
