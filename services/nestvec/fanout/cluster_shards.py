"""Which shards hold a collection at this moment, each with the replicas that it has now."""

from __future__ import annotations

from collections.abc import Sequence

from nestvec.core.errors import WorkerUnavailable
from nestvec.core.members import ClusterView, Layout, Member, MemberRole, Place, documents_key
from nestvec.core.ports import CoarseSearcher
from nestvec.fanout.asking import ReplicaGroup
from nestvec.fanout.following import Follower, Views
from nestvec.fanout.replica import Connect, Replicas
from nestvec.fanout.replicated_shard import ReplicatedShard


class ClusterShards:
    """Fills ports.Shards from the cluster's view: the shards of a collection's current layout.

    What was learned of a shard (its delays, the health of its replicas) stays from view to view.
    """

    def __init__(self, views: Views, connect: Connect[CoarseSearcher]) -> None:
        self._replicas = Replicas(connect)
        self._shards: dict[Layout, list[ReplicatedShard]] = {}
        self._follower = Follower(views, self._take)

    def start(self) -> None:
        """Follow the cluster from now on."""
        self._follower.start()

    async def close(self) -> None:
        """Hang up everywhere. Safe to repeat."""
        await self._follower.close()
        for shards in self._shards.values():
            for shard in shards:
                await shard.group.close()
        await self._replicas.close()

    def of(self, collection: str) -> Sequence[CoarseSearcher]:
        """See ports.Shards. Raises WorkerUnavailable where nobody was told to hold it."""
        return self._shards[self._layout(collection)]

    def beside(self, collection: str) -> Sequence[Sequence[CoarseSearcher]]:
        """See ports.Shards. What a move fills, or has left behind."""
        assignment = self._follower.catch_up().assignment(collection)
        if assignment is None:
            return ()
        others = [self._shards[one] for one in assignment.layouts()[1:]]
        return [one for one in others if all(shard.group.ready() for shard in one)]

    def promised(self, collection: str, generation: int) -> Sequence[int | None]:
        """See ports.Shards."""
        layout = self._layout(collection)
        promised = self._follower.catch_up().promised
        key = documents_key(collection, generation)
        return [promised.get((layout, shard), {}).get(key) for shard in range(layout.shards)]

    def _layout(self, collection: str) -> Layout:
        assignment = self._follower.catch_up().assignment(collection)
        if assignment is None:
            raise WorkerUnavailable(
                f"no workers are assigned to collection {collection!r}; `nestvec up` assigns those "
                f"of cluster.yaml"
            )
        return assignment.current

    def _take(self, view: ClusterView) -> None:
        members = [one for one in view.of_role(MemberRole.COARSE) if one.place is not None]
        replicas = self._replicas.follow(members)
        wanted = {layout for one in view.assignments.values() for layout in one.layouts()}
        for layout in wanted - set(self._shards):
            self._shards[layout] = [
                ReplicatedShard(ReplicaGroup(f"shard {shard} of {layout}"))
                for shard in range(layout.shards)
            ]
        # A layout that is no longer current may be again, and calls may still be under way.
        for layout, shards in self._shards.items():
            for number, shard in enumerate(shards):
                shard.group.members = [
                    one for one in replicas if _holds(one.member, layout, number)
                ]


def _holds(member: Member, layout: Layout, shard: int) -> bool:
    return member.place == Place(layout, shard)
