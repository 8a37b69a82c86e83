"""Taking a process out of service, and moving what stands on a node to others.

Room is reserved for all of it before anything ends, so a node that cannot be emptied is left as it
is. Then one process after the other drains, starts in its new place, and is waited for until it is
ready: the others of its kind answer meanwhile. A shard with no other ready replica gets one more
for so long. What is reserved outranks the place before (placing.covering): a drain that is cut off
is finished by the next `up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestvec.core.errors import ConfigError
from nestvec.core.members import ClusterView, Member, MemberRole
from nestvec_cluster.deploy import Deployment
from nestvec_cluster.held import is_of, replicas_of
from nestvec_cluster.pieces import Group, Piece, coarse_groups, front_end_groups
from nestvec_cluster.placing import Placing, report, running
from nestvec_cluster.ray_room import alive_nodes
from nestvec_cluster.slabs import Slab
from nestvec_cluster.topology import Topology

Tell = Callable[[str], None]
_FRONT = (MemberRole.QUERY.value, MemberRole.INGEST.value)
# Digits of a node's id that `status` shows, and members tell (actors.Served).
_SHOWN = 6


@dataclass(slots=True)
class Drained:
    """Slots, by what was done to them. moved: to other nodes. stopped: until the next `up`. left:
    encoder replicas of a node, which are their scaler's.
    """

    moved: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a piece is to stand: `number` of its group."""

    group: Group
    number: int
    slab: Slab

    @property
    def piece(self) -> Piece:
        return self.group.pieces[self.number]


class Draining:
    """Of one cluster. force: even where nobody would be left to answer, or nothing has room."""

    def __init__(
        self, topology: Topology, deployment: Deployment, force: bool, tell: Tell = lambda _: None
    ) -> None:
        self._topology = topology
        self._deployment = deployment
        self._placing = Placing(topology)
        self._force = force
        self._tell = tell

    async def drain(self, what: str) -> Drained:
        """A process, until the next `up`; or a node, for good. Raises ConfigError for a name that
        is neither, and without `force` for what nobody would answer for; nothing has changed then.
        """
        view = await self._deployment.registry.view()
        actors = running(self._topology.namespace)
        if (node := _node_named(what)) is not None:
            return await self._drain_node(node, view, actors)
        if what not in actors:
            known = ", ".join(sorted(actors)) or "none"
            raise ConfigError(
                f"{what!r} is no process of this cluster; there are: {known}; nor one of Ray's "
                f"nodes: `nestvec status` names them"
            )
        self._require_others([what] if not _others(view, what) else [])
        await self._stop(what, actors[what])
        return Drained(stopped=[what])

    def _require_others(self, alone: Sequence[str]) -> None:
        if alone and not self._force:
            raise ConfigError(
                f"nobody else is ready to answer for {', '.join(alone)}; start another replica "
                f"first (`nestvec scale`), or say --force"
            )

    async def _stop(self, slot: str, handle: Any) -> None:
        self._tell(f"draining {slot}")
        await self._placing.end(slot, handle)

    # --- a node -----------------------------------------------------------------------------------

    async def _drain_node(self, node: str, view: ClusterView, actors: dict[str, Any]) -> Drained:
        slots = await _standing_on(node, view, actors)
        alone = [slot for slot in slots if not _others(view, slot)]
        self._require_others([slot for slot in alone if slot.partition("/")[0] in _FRONT])
        places, spares = await self._reserve_all(node, slots, alone, view, actors)
        done = Drained()
        for slot in slots:
            if slot in places:
                await self._move(slot, places[slot], spares.get(slot))
                done.moved.append(slot)
            else:
                await self._stop(slot, actors[slot])
                done.stopped.append(slot)
        self._deployment.release_unused(running_groups(self._topology, view, actors))
        done.left += [one.name for one in view.of_role(MemberRole.ENCODER) if _is_on(one, node)]
        return done

    async def _move(self, slot: str, place: _Place, spare: _Place | None) -> None:
        if spare is not None:
            await self._start(spare, f"starting {spare.piece.slot} beside {slot}")
        await self._stop(slot, self._actor(slot))
        await self._start(place, f"starting {slot} on another node")
        if spare is not None:
            await self._stop(spare.piece.slot, self._actor(spare.piece.slot))

    def _actor(self, slot: str) -> Any:
        try:
            return running(self._topology.namespace)[slot]
        except KeyError:
            raise ConfigError(
                f"{slot} was taken away while the node was drained; does a `nestvec up` run at the "
                f"same time? drain it again, `nestvec status` shows what is missing"
            ) from None

    async def _start(self, place: _Place, told: str) -> None:
        """Returns when it is ready: a coarse worker has caught up then."""
        self._tell(told)
        self._placing.start(place.piece, place.slab, place.number)
        await self._deployment.wait_ready([place.piece.slot])

    async def _reserve_all(
        self,
        node: str,
        slots: Sequence[str],
        alone: Collection[str],
        view: ClusterView,
        actors: Collection[str],
    ) -> tuple[dict[str, _Place], dict[str, _Place]]:
        """By slot: where it is to go, and where another replica of its shard stands meanwhile. With
        `force` those are left out that nothing has room for. Raises ConfigError, and then nothing
        is reserved.
        """
        groups = running_groups(self._topology, view, actors)
        wider = {one.name: one for one in running_groups(self._topology, view, actors, more=1)}
        homes = {one.slot: (group, n) for group in groups for n, one in enumerate(group.pieces)}
        places: dict[str, _Place] = {}
        spares: dict[str, _Place] = {}
        try:
            for slot in slots:
                # Workers that no collection is held by any more go with the next `up` anyway.
                if slot not in homes:
                    continue
                group, number = homes[slot]
                await self._reserve(places, slot, group, number, node)
                # One that is not ready itself answers nobody.
                if slot in places and slot in alone and slot in view.ready() and _is_coarse(group):
                    await self._reserve(spares, slot, wider[group.name], len(group.pieces), node)
        except BaseException:
            for place in [*places.values(), *spares.values()]:
                self._placing.release(place.slab)
            raise
        return places, spares

    async def _reserve(
        self, found: dict[str, _Place], slot: str, group: Group, number: int, node: str
    ) -> None:
        try:
            found[slot] = _Place(
                group, number, await self._placing.reserve_away(group, number, node)
            )
        except ConfigError as error:
            if not self._force:
                raise ConfigError(
                    f"nothing was drained, since {group.pieces[number].slot} has no room on "
                    f"another node: {error}; --force stops what has none until the next "
                    f"`nestvec up`"
                ) from None


def running_groups(
    topology: Topology, view: ClusterView, actors: Collection[str], more: int = 0
) -> list[Group]:
    """All of which something may run: those of the file, with what `scale` has added, and workers
    that collections are held by beside. more: further replicas of each shard.
    """
    for kind, count in zip(_FRONT, (topology.query.count, topology.ingest.count), strict=True):
        ran = [int(slot.rpartition("/")[2]) + 1 for slot in actors if slot.startswith(f"{kind}/")]
        if max(ran, default=0) > count:
            topology = topology.scaled(kind, max(ran))
    groups = front_end_groups(topology)
    held = {layout for one in view.assignments.values() for layout in one.layouts()}
    for layout in sorted(held | set(topology.layouts()), key=str):
        ran = [int(slot.rpartition(".")[2]) + 1 for slot in actors if is_of(slot, layout)]
        replicas = max([replicas_of(topology, layout), *ran])
        groups += coarse_groups(topology, layout, replicas + more)
    return groups


def _is_coarse(group: Group) -> bool:
    return group.pieces[0].role is MemberRole.COARSE


def _node_named(what: str) -> str | None:
    """The id of a node that lives; by it, its first digits or as `status` names it."""
    word = what.rpartition("/")[2]
    ids = [str(one["NodeID"]) for one in alive_nodes()]
    return next((one for one in ids if word in (one, one[:_SHOWN])), None)


def _is_on(member: Member, node: str) -> bool:
    return member.node.endswith(f"/{node[:_SHOWN]}")


async def _standing_on(node: str, view: ClusterView, actors: dict[str, Any]) -> list[str]:
    """Slots; of an actor that does not answer now, where it was when it joined."""
    reports = await asyncio.gather(*map(report, actors.values()))
    nodes = {slot: told.node for slot, told in zip(actors, reports, strict=True) if told}
    joined = {one.name for one in view.members if _is_on(one, node)}
    return sorted(
        slot for slot in actors if nodes.get(slot, node if slot in joined else "") == node
    )


def _others(view: ClusterView, slot: str) -> list[Member]:
    """Who is ready to answer in a member's place."""
    members = [one for one in view.members if one.name == slot]
    return [
        other
        for one in members
        for other in view.of_role(one.role)
        if other.place == one.place and other.name != slot and other.is_ready
    ]
