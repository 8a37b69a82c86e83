"""Named, detached actors in placement groups: what runs in Ray, and starting and ending one piece.

A shard's replicas stand in one group with the strategy SPREAD: on different nodes while there are
enough, together otherwise. Ray moves a bundle whose node died and restarts its actor there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
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
from nestvec_cluster.ray_room import alive_nodes
from nestvec_cluster.topology import Topology, digest

_PLACED_S = 20.0
_BESIDE_S = 8.0
_REPORT_S = 5.0
# Beyond drain_s: two heartbeats, and closing what was opened.
_STOP_MARGIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Slab:
    """One placement group: the bundles `first` to `first + count` of a Group."""

    name: str
    group: str
    first: int
    count: int
    shape: str


def slab_name(namespace: str, group: str, first: int, resources: Mapping[str, float]) -> str:
    """In it: whose it is, which pieces, and the digest of what each takes."""
    return f"{namespace}:{group}:{first}:{digest(dict(resources))[:8]}"


def slabs(namespace: str) -> list[Slab]:
    """Of a cluster, as Ray knows them."""
    found = []
    for told in placement_group_table().values():
        owner, _, rest = str(told["name"]).partition(":")
        if owner == namespace and told["state"] != "REMOVED":
            group, first, shape = rest.rsplit(":", 2)
            bundles = len(told["bundles"])
            found.append(Slab(told["name"], group, int(first), bundles, shape))
    return found


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
        shape = digest(dict(group.resources))[:8]
        there = [
            one for one in slabs(self._namespace) if one.group == group.name and one.shape == shape
        ]
        covered = {
            number: one for one in there for number in range(one.first, one.first + one.count)
        }
        missing = [number for number in range(len(group.pieces)) if number not in covered]
        if missing:
            first = missing[0]
            slab = await self._reserve(group, first, len(group.pieces) - first, bool(there))
            covered |= dict.fromkeys(range(first, len(group.pieces)), slab)
        return [covered[number] for number in range(len(group.pieces))]

    async def _reserve(self, group: Group, first: int, count: int, beside: bool) -> Slab:
        name = slab_name(self._namespace, group.name, first, group.resources)
        bundles = [dict(group.resources) or {"CPU": 0.001}] * count
        if beside and (taken := await self._nodes_of(group)):
            # Away from the replicas that are there already, where some node is free of them.
            selector = {"ray.io/node-id": f"!in({','.join(sorted(taken))})"}
            if await self._placed(name, bundles, _BESIDE_S, [selector] * count):
                return Slab(name, group.name, first, count, name.rpartition(":")[2])
        if not await self._placed(name, bundles, _PLACED_S):
            free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            raise ConfigError(
                f"{group.name} cannot be placed: {count} x {_told(group.resources)} asked for, "
                f"free now: {_told({key: free.get(key, 0.0) for key in group.resources})}; add a "
                f"node, or ask for less"
            )
        return Slab(name, group.name, first, count, name.rpartition(":")[2])

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
        if await asyncio.to_thread(made.wait, timeout_s):
            return True
        remove_placement_group(made)
        return False

    async def _nodes_of(self, group: Group) -> set[str]:
        """Nodes with a piece of this group, unless they are all that there is."""
        nodes = {str(one["NodeID"]) for one in alive_nodes()}
        actors = running(self._namespace)
        reports = [await report(actors[one.slot]) for one in group.pieces if one.slot in actors]
        taken = {one.node for one in reports if one is not None} & nodes
        return taken if taken != nodes else set()

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
        ray.kill(handle, no_restart=True)
        for _ in range(200):
            if slot not in {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}:
                return
            await asyncio.sleep(0.05)

    def release(self, slab: Slab) -> None:
        """Give a placement group's resources back; its actors are gone."""
        remove_placement_group(get_placement_group(slab.name))


def made_from(piece: Piece, slab: Slab) -> str:
    """What a running actor tells as its digest: other settings or another place differ."""
    return f"{piece.digest}@{slab.name}"


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
