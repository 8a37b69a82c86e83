"""Named, detached actors in placement groups: what runs in Ray, and starting and ending one piece.

A shard's replicas stand in one group with the strategy SPREAD: on different nodes while there are
enough, together otherwise. Ray moves a bundle whose node died and restarts its actor there. It
moves none whose node lives: a piece that is to stand elsewhere gets a placement group of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from nestvec.core.errors import ConfigError
from nestvec_cluster.actors import ACTORS, Report
from nestvec_cluster.pieces import Group, Piece
from nestvec_cluster.ray_room import alive_nodes, free_by_node
from nestvec_cluster.slabs import (
    Slab,
    covering,
    made_from,
    promised_nodes,
    slab_name,
    slab_named,
)
from nestvec_cluster.topology import Topology

_PLACED_S = 20.0
_BESIDE_S = 8.0
_REPORT_S = 5.0
# Beyond drain_s: two heartbeats, and closing what was opened.
_STOP_MARGIN_S = 15.0


def slabs(namespace: str) -> list[Slab]:
    """Of a cluster, as Ray knows them."""
    return [
        slab_named(
            told["name"],
            len(told["bundles"]),
            told["state"] == "CREATED",
            frozenset(told["bundles_to_node_id"].values()),
        )
        for told in placement_group_table().values()
        if str(told["name"]).partition(":")[0] == namespace and told["state"] != "REMOVED"
    ]


def running(namespace: str) -> dict[str, Any]:
    """Slot -> handle of every actor of a cluster."""
    named = ray.util.list_named_actors(all_namespaces=True)
    ours = [one["name"] for one in named if one["namespace"] == namespace]
    found = {}
    for name in ours:
        try:
            found[name] = ray.get_actor(name, namespace)
        except ValueError:  # it ended meanwhile
            continue
    return found


class Placing:
    """Starts and ends pieces. All may raise ConfigError, with what is missing."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._namespace = topology.namespace

    async def reserve(self, group: Group) -> list[Slab]:
        """Have bundles for all pieces of a group: those that are there, and one more group for the
        rest. Returns the slab of each piece, in order.
        """
        covered = covering(group, slabs(self._namespace))
        for number, slab in covered.items():
            if not slab.placed and slab.count == 1:
                covered[number] = await self._found_again(group, number, slab)
        missing = [number for number in range(len(group.pieces)) if number not in covered]
        if missing:
            first = missing[0]
            name = slab_name(self._namespace, group.name, first, group.resources)
            # Away from the replicas that are there already, where some node is free of them.
            beside = await self._nodes_of(group) if covered else set()
            slab = await self._reserve(group, name, len(group.pieces) - first, beside)
            covered |= dict.fromkeys(range(first, len(group.pieces)), slab)
        return [covered[number] for number in range(len(group.pieces))]

    async def _found_again(self, group: Group, number: int, lost: Slab) -> Slab:
        """A place for a piece whose node died, where Ray finds none: which nodes it must keep away
        from was said when others were there. The same one while there is no room: Ray goes on.
        """
        asked_for: PlacementGroup = get_placement_group(lost.name)
        if await asyncio.to_thread(asked_for.wait, _BESIDE_S):
            return lost
        amounts = group.resources.items()
        if not any(
            all(free.get(key, 0.0) >= amount for key, amount in amounts)
            for free in free_by_node().values()
        ):
            return lost
        found = await self._reserve_moved(group, number)
        slot = group.pieces[number].slot
        if (handle := running(self._namespace).get(slot)) is not None:
            await self._kill(slot, handle)
        self.release(lost)
        return found

    async def reserve_away(self, group: Group, number: int, node: str) -> Slab:
        """Have a bundle for piece `number` of a group on another node than `node` (its id), and
        where some node is free of them, beside no other piece of the group.
        """
        return await self._reserve_moved(group, number, {node})

    async def _reserve_moved(
        self, group: Group, number: int, never: Set[str] = frozenset()
    ) -> Slab:
        there = slabs(self._namespace)
        moves = [one.move for one in there if one.group == group.name and one.first == number]
        move = max(moves, default=0) + 1
        name = slab_name(self._namespace, group.name, number, group.resources, move)
        beside = await self._nodes_of(group) | promised_nodes(group, number, there)
        return await self._reserve(group, name, 1, beside, never)

    async def _reserve(
        self, group: Group, name: str, count: int, beside: Set[str], never: Set[str] = frozenset()
    ) -> Slab:
        """On no node of `never`, and while another one has room on none of `beside`."""
        bundles = [dict(group.resources) or {"CPU": 0.001}] * count
        free = free_by_node()
        beside = beside & free.keys() - never
        tries = [(never | beside, _BESIDE_S)] if beside else []
        for avoided, timeout_s in [*tries, (never, _PLACED_S)]:
            if free.keys() <= avoided:
                continue
            selector = {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}
            selectors = [selector] * count if avoided else None
            if await self._placed(name, bundles, timeout_s, selectors):
                return slab_named(name, count)
        left = [
            _told({key: one.get(key, 0.0) for key in group.resources})
            for node, one in sorted(free_by_node().items())
            if node not in never
        ]
        raise ConfigError(
            f"{group.name} cannot be placed: {count} x {_told(group.resources)} asked for, "
            f"{'other ' if never else ''}nodes have free: {'; '.join(left) or 'none is there'}; "
            f"add a node, or ask for less"
        )

    async def _placed(
        self,
        name: str,
        bundles: list[dict[str, float]],
        timeout_s: float,
        selectors: list[dict[str, str]] | None = None,
    ) -> bool:
        made = placement_group(
            bundles, "SPREAD", name, lifetime="detached", bundle_label_selector=selectors
        )
        placed = False
        try:
            placed = await asyncio.to_thread(made.wait, timeout_s)
        finally:
            if not placed:
                remove_placement_group(made)
        return placed

    async def _nodes_of(self, group: Group) -> set[str]:
        """Nodes with a piece of this group."""
        nodes = {str(one["NodeID"]) for one in alive_nodes()}
        actors = running(self._namespace)
        reports = [await report(actors[one.slot]) for one in group.pieces if one.slot in actors]
        return {one.node for one in reports if one is not None} & nodes

    def start(self, piece: Piece, slab: Slab, number: int) -> Any:
        """Start piece `number` of its group in its bundle. Returns the actor's handle."""
        group: PlacementGroup = get_placement_group(slab.name)
        actor = ray.remote(ACTORS[piece.role])
        return actor.options(
            name=piece.slot,
            namespace=self._namespace,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            **self._amounts(slab),
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=number - slab.first
            ),
        ).remote(dict(piece.settings), made_from(piece, slab))

    def _amounts(self, slab: Slab) -> dict[str, Any]:
        table = placement_group_table(get_placement_group(slab.name))
        bundle: Mapping[str, float] = next(iter(table["bundles"].values()))
        told: dict[str, Any] = {"num_cpus": bundle.get("CPU", 0)}
        if "GPU" in bundle:
            told["num_gpus"] = bundle["GPU"]
        if "memory" in bundle:
            told["memory"] = bundle["memory"]
        return told

    async def end(self, slot: str, handle: Any) -> None:
        """Drain and remove an actor; one that does not answer is killed."""
        limit_s = self._topology.timeouts.drain_s + _STOP_MARGIN_S
        with suppress(TimeoutError, ray.exceptions.RayError):
            await asked(handle.stop.remote(), limit_s)
        await self._kill(slot, handle)

    async def _kill(self, slot: str, handle: Any) -> None:
        ray.kill(handle, no_restart=True)
        for _ in range(200):
            if slot not in {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}:
                return
            await asyncio.sleep(0.05)

    def release(self, slab: Slab) -> None:
        """Give a placement group's resources back; its actors are gone."""
        remove_placement_group(get_placement_group(slab.name))


async def asked(answer: Any, timeout_s: float) -> Any:
    """What an actor answers. Raises TimeoutError, or what Ray or the actor raises."""
    return await asyncio.wait_for(asyncio.wrap_future(answer.future()), timeout_s)


async def report(handle: Any) -> Report | None:
    """Of an actor; None where it does not answer now (it restarts, or its node is gone)."""
    try:
        answer = await asked(handle.report.remote(), _REPORT_S)
    except (TimeoutError, ray.exceptions.RayError):
        return None
    return Report(**answer)


def _told(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items()) or "nothing"
