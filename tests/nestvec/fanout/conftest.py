"""Groups of scripted replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from nestvec.core.ports import CoarseSearcher
from nestvec.fanout.cluster_shards import ClusterShards
from nestvec.fanout.replicated_shard import ReplicatedShard
from tests.support.faults import PATIENT_S
from tests.support.replicas import QUERY, Desk, ScriptedShard, WrittenViews, a_worker


class Cluster:
    """Shards over a view that a test writes. peers: by name."""

    def __init__(self) -> None:
        self.views = WrittenViews()
        self.desk: Desk[CoarseSearcher] = Desk()
        self.peers: dict[str, ScriptedShard] = {}
        self.shards = ClusterShards(self.views, self.desk.connect)

    def peer(self, name: str, incarnation: int = 1, address: str = "") -> ScriptedShard:
        """A process that answers there."""
        peer = self.peers[name] = ScriptedShard(name)
        self.desk.peers[address or name, incarnation] = peer
        return peer


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    built = Cluster()
    yield built
    await built.shards.close()


@pytest.fixture
def replicas(cluster: Cluster) -> Callable[[int], list[ScriptedShard]]:
    """So many ready replicas of shard 0."""

    def built(count: int) -> list[ScriptedShard]:
        names = [f"w{number}" for number in range(count)]
        peers = [cluster.peer(name) for name in names]
        cluster.views.show(*(a_worker(name) for name in names))
        cluster.shards.start()
        return peers

    return built


Replicas = Callable[[int], list[ScriptedShard]]


def shard_of(cluster: Cluster, number: int = 0) -> ReplicatedShard:
    shard = cluster.shards.of("docs")[number]
    assert isinstance(shard, ReplicatedShard)
    return shard


async def searched(cluster: Cluster, timeout_s: float = PATIENT_S, **changes: Any) -> int:
    answer = await shard_of(cluster).search(replace(QUERY, **changes), timeout_s)
    return answer.documents


def trust(cluster: Cluster, name: str) -> bool:
    """Whether its breaker is closed."""
    (one,) = [one for one in shard_of(cluster).group.members if one.name == name]
    return one.breaker.closed


async def any_called(*peers: ScriptedShard) -> bool:
    """Whether one of them was searched."""
    return any(peer.calls("search") for peer in peers)
