"""Shards follow the cluster's view, and keep what they know from one view to the next."""

from __future__ import annotations

import pytest

from nestvec.core.errors import WorkerUnavailable
from nestvec.core.members import EVERY_COLLECTION, Assignment, Layout, MemberState
from nestvec.fanout.replicated_shard import ReplicatedShard
from tests.nestvec.fanout.conftest import Cluster
from tests.support.faults import PATIENT_S, eventually, raising
from tests.support.replicas import LAYOUT, QUERY, a_worker

WIDE = Layout("docs", 4)


def groups(cluster: Cluster, collection: str = "docs") -> list[list[str]]:
    """Names of the replicas of each shard."""
    found = []
    for shard in cluster.shards.of(collection):
        assert isinstance(shard, ReplicatedShard)
        found.append([one.name for one in shard.group.members])
    return found


async def test_a_collection_is_on_the_shards_of_its_current_layout(cluster: Cluster) -> None:
    for name in ("a0", "a1", "b0", "w3"):
        cluster.peer(name)
    members = [
        a_worker("a0", 0), a_worker("a1", 0), a_worker("b0", 1), a_worker("w3", 3, layout=WIDE)
    ]  # fmt: skip
    own = Assignment(WIDE, coming=LAYOUT)
    cluster.views.show(*members, assignments={EVERY_COLLECTION: Assignment(LAYOUT), "wide": own})
    cluster.shards.start()
    assert groups(cluster) == [["a0", "a1"], ["b0"]]
    assert groups(cluster, "wide") == [[], [], [], ["w3"]]


async def test_a_switch_of_layouts_is_seen_by_the_next_call(cluster: Cluster) -> None:
    cluster.peer("a0")
    members = [a_worker("a0", 0)]
    cluster.views.show(*members)
    cluster.shards.start()
    before = cluster.shards.of("docs")
    cluster.views.show(*members, assignments={"docs": Assignment(WIDE, previous=LAYOUT)})
    assert len(cluster.shards.of("docs")) == 4
    cluster.views.show(*members, assignments={"docs": Assignment(LAYOUT)})
    assert list(cluster.shards.of("docs")) == list(before), "going back finds what was known"


async def test_a_collection_that_nobody_was_told_to_hold_is_refused(cluster: Cluster) -> None:
    cluster.views.show(assignments={})
    cluster.shards.start()
    with pytest.raises(WorkerUnavailable, match="no workers are assigned to collection 'docs'"):
        cluster.shards.of("docs")


async def test_connections_and_breakers_stay_while_a_member_does(cluster: Cluster) -> None:
    peer = cluster.peer("a0")
    cluster.views.show(a_worker("a0"))
    cluster.shards.start()
    peer.faults.always("search", raising(WorkerUnavailable("down")))
    (shard, _) = cluster.shards.of("docs")
    assert isinstance(shard, ReplicatedShard)
    for _ in range(4):
        with pytest.raises(WorkerUnavailable):
            await shard.search(QUERY, PATIENT_S)
    cluster.views.turn("a0", MemberState.DRAINING)
    cluster.views.turn("a0", MemberState.READY)
    assert cluster.shards.of("docs")[0] is shard
    assert not shard.group.members[0].breaker.closed
    assert shard.group.hedging.counts.calls == 4
    assert (cluster.desk.connected, cluster.desk.closed) == (["a0"], [])


async def test_a_new_incarnation_is_another_replica(cluster: Cluster) -> None:
    cluster.peer("a0", 1)
    cluster.views.show(a_worker("a0", incarnation=1))
    cluster.shards.start()
    old = cluster.peers["a0"]
    new = cluster.peer("a0", 2)
    cluster.views.show(a_worker("a0", incarnation=2))
    await cluster.shards.of("docs")[0].search(QUERY, PATIENT_S)
    assert (old.calls("search"), new.calls("search")) == (0, 1)

    async def closed() -> bool:
        return cluster.desk.closed == ["a0"]

    await eventually(closed)
    assert cluster.desk.connected == ["a0", "a0"]


async def test_all_connections_are_closed_at_the_end(cluster: Cluster) -> None:
    for name in ("a0", "b0"):
        cluster.peer(name)
    cluster.views.show(a_worker("a0", 0), a_worker("b0", 1))
    cluster.shards.start()
    await cluster.shards.close()
    assert sorted(cluster.desk.closed) == ["a0", "b0"]


async def test_what_each_shard_held_is_told_also_when_its_workers_are_gone(
    cluster: Cluster,
) -> None:
    cluster.views.show(
        promised={(LAYOUT, 0): {"docs:1": 40, "docs:2": 3}, (WIDE, 1): {"docs:1": 9}}
    )
    cluster.shards.start()
    assert cluster.shards.promised("docs", 1) == [40, None]
    assert cluster.shards.promised("docs", 2) == [3, None]
    assert cluster.shards.promised("other", 1) == [None, None]
