"""A shard answers while one of its replicas can, and no replica is asked what it cannot know."""

from __future__ import annotations

import asyncio

import pytest

from nestvec.core.errors import (
    BudgetSpent,
    CorruptVector,
    InvalidRequest,
    LeaseLost,
    NotFound,
    Overloaded,
    SpaceMismatch,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.members import MemberState
from nestvec.core.watermark import Watermark
from tests.nestvec.fanout.conftest import Cluster, Replicas, any_called, searched, shard_of
from tests.support.faults import PATIENT_S, eventually, raising, waiting_for
from tests.support.replicas import QUERY, a_worker

# --- who is asked ---------------------------------------------------------------------------------


async def test_healthy_replicas_share_the_work_and_each_query_costs_one_call(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(3)
    for _ in range(300):
        assert await searched(cluster) == 7
    calls = [peer.calls("search") for peer in peers]
    assert sum(calls) == 300
    assert min(calls) > 60


async def test_a_replica_with_work_under_way_is_passed_over(
    cluster: Cluster, replicas: Replicas
) -> None:
    busy, idle = replicas(2)
    release = asyncio.Event()
    for peer in (busy, idle):
        peer.faults.before["search"] = [waiting_for(release)]
    # It waits for a watermark: nothing is held against whoever has it.
    waiting = [
        asyncio.create_task(searched(cluster, watermark=Watermark(1, {0: 1}))) for _ in range(1)
    ]
    await eventually(lambda: any_called(busy, idle))
    taken, other = (busy, idle) if busy.calls("search") else (idle, busy)
    other.faults.heal()
    before = taken.calls("search")
    for _ in range(20):
        await searched(cluster)
    assert taken.calls("search") == before
    release.set()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("state", [MemberState.STARTING, MemberState.DRAINING])
async def test_only_ready_replicas_are_asked(cluster: Cluster, state: MemberState) -> None:
    ready, other = cluster.peer("ready"), cluster.peer("other")
    cluster.views.show(a_worker("ready"), a_worker("other", state=state))
    cluster.shards.start()
    for _ in range(20):
        await searched(cluster)
    assert (ready.calls("search"), other.calls("search")) == (20, 0)


async def test_one_that_is_about_to_leave_answers_where_nobody_else_does(cluster: Cluster) -> None:
    cluster.peer("leaving")
    cluster.views.show(a_worker("leaving", state=MemberState.DRAINING))
    cluster.shards.start()
    assert await searched(cluster) == 7


async def test_a_shard_that_nobody_holds_is_named_at_once(cluster: Cluster) -> None:
    cluster.peer("new")
    cluster.views.show(a_worker("new", state=MemberState.STARTING))
    cluster.shards.start()
    with pytest.raises(WorkerUnavailable, match=r"shard 0 of docs/2 .*new is starting"):
        await searched(cluster)
    with pytest.raises(WorkerUnavailable, match=r"shard 1 of docs/2 .*no member of the cluster"):
        await shard_of(cluster, 1).search(QUERY, PATIENT_S)


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        WorkerUnavailable("w0 is down"),
        LeaseLost("w0 is incarnation 2"),
        Overloaded("w0 is full"),
        StoreUnavailable("w0 cannot reach the store"),
        NotFound("collection", "docs", "not opened yet"),
    ],
)
async def test_what_one_replica_cannot_answer_another_does(
    cluster: Cluster, replicas: Replicas, error: Exception
) -> None:
    bad, good = replicas(2)
    bad.faults.always("search", raising(error))
    for _ in range(20):
        assert await searched(cluster) == 7
    assert good.calls("search") == 20
    counts = shard_of(cluster).group.hedging.counts
    assert counts.retries == bad.calls("search") - counts.probes > 0
    assert counts.hedges == 0, "retries after failures are no part of the budget"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("count", "bad"),
        SpaceMismatch("aa", "bb", "the query"),
        NotFound("tier", "128"),
        BudgetSpent("coarse"),
        CorruptVector("d1", "torn"),
        RuntimeError("a bug"),
    ],
)
async def test_what_is_the_same_everywhere_is_raised_and_asked_once(
    cluster: Cluster, replicas: Replicas, error: Exception
) -> None:
    peers = replicas(2)
    for peer in peers:
        peer.faults.always("search", raising(error))
    with pytest.raises(type(error)):
        await searched(cluster)
    assert sum(peer.calls("search") for peer in peers) == 1


async def test_when_every_replica_fails_each_was_asked_once_and_the_error_tells_most(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(3)
    peers[0].faults.always("search", raising(NotFound("collection", "docs")))
    peers[1].faults.always("search", raising(WorkerUnavailable("w1 is down")))
    peers[2].faults.always("search", raising(NotFound("collection", "docs")))
    with pytest.raises(WorkerUnavailable, match="w1 is down"):
        await searched(cluster)
    assert [peer.calls("search") for peer in peers] == [1, 1, 1]


async def test_a_collection_that_no_replica_knows_is_not_found(
    cluster: Cluster, replicas: Replicas
) -> None:
    for peer in replicas(2):
        peer.faults.always("search", raising(NotFound("collection", "docs")))
    with pytest.raises(NotFound):
        await searched(cluster)
