"""Reconciling: what runs is compared with the topology, and what differs is changed.

Nothing is remembered between calls. What runs is asked of Ray (named actors, placement groups, what
each actor was made from) and of the registry (who is ready, who holds which collection); so it may
be run again at any time, from any machine, and after a crash half-way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from nestvec.adapters.opening import open_registry
from nestvec.core.errors import ConfigError
from nestvec.core.members import (
    Assignment,
    ClusterView,
    Layout,
    MemberRole,
)
from nestvec.core.ports import Registry
from nestvec_cluster.encoder_deployment import deploy_encoder, namespace_of, remove_encoder
from nestvec_cluster.encoder_scaler import replicas_in
from nestvec_cluster.first_answers import make_collections, wait_for_answers
from nestvec_cluster.held import (
    is_of,
    kept_groups,
    replicas_of,
    require_not_elsewhere,
    require_same_shards,
)
from nestvec_cluster.pieces import (
    Group,
    Piece,
    all_groups,
    base_settings,
    coarse_groups,
    coarse_slot,
    demands,
    encoder_plan,
)
from nestvec_cluster.placing import Placing, report, running, slabs
from nestvec_cluster.ray_room import alive_nodes, require_room, require_store_in_reach
from nestvec_cluster.slabs import Slab, covering, made_from
from nestvec_cluster.topology import Topology

_LOOK_S = 0.1
Tell = Callable[[str], None]


@dataclass(slots=True)
class Changes:
    """Slots, by what was done to them; collections that were made."""

    started: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    collections: list[str] = field(default_factory=list)

    @property
    def none(self) -> bool:
        """Whether everything stood as it should."""
        return not (self.started or self.restarted or self.removed or self.collections)


class Deployment:
    """Of one cluster, from a process that is a driver of its Ray. tell: progress, for people."""

    def __init__(self, topology: Topology, registry: Registry, tell: Tell = lambda _: None) -> None:
        self._topology = topology
        self._registry = registry
        self._placing = Placing(topology)
        self._tell = tell

    @classmethod
    async def open(
        cls, topology: Topology, stack: AsyncExitStack, tell: Tell = lambda _: None
    ) -> Deployment:
        """Raises ConfigError where the namespace is another cluster's."""
        settings = base_settings(topology)
        registry = await open_registry(settings.store, settings.cluster, stack)
        return cls(topology, registry, tell)

    @property
    def registry(self) -> Registry:
        """Of the cluster."""
        return self._registry

    # --- the whole ------------------------------------------------------------------------------

    async def reconcile(self, only: str = "") -> Changes:
        """Make what runs equal to the file. Returns once every shard has a ready replica and the
        front ends answer. only: a pool, or a role of front ends: leave the rest as it is.

        Raises ConfigError.
        """
        topology = self._topology
        view = await self._registry.view()
        actors = running(topology.namespace)
        require_not_elsewhere(topology, view, actors)
        require_same_shards(topology, view)
        nodes = alive_nodes()
        require_store_in_reach(topology, [one["NodeManagerAddress"] for one in nodes])
        require_room(demands(topology))
        await self._assign(view)
        changes = Changes()
        every = kept_groups(topology, view, actors) + all_groups(topology)
        groups = [one for one in every if _of_kind(one.name, only)]
        of_kind = {slot: one for slot, one in actors.items() if _of_kind(slot, only)}
        await self._remove(of_kind, groups, changes)
        await self._settle_encoder(only, changes)
        for group in groups:
            await self._bring_up(group, changes)
        await self._wait_for_shards()
        await self.wait_ready(
            [one.slot for group in groups for one in group.pieces if one.role is not _COARSE]
        )
        view = await self._registry.view()
        changes.collections = await make_collections(self._topology, view, self._tell)
        await wait_for_answers(self._topology, view)
        self.release_unused(every)
        return changes

    async def _settle_encoder(self, only: str, changes: Changes) -> None:
        """As many encoder replicas as the file says; none where the model is elsewhere."""
        namespace = self._topology.namespace
        plan = encoder_plan(self._topology)
        if not _of_kind(MemberRole.ENCODER.value, only):
            return
        before = set(replicas_in(namespace_of(namespace)))
        if plan is None:
            changes.removed += await remove_encoder(namespace) if before else []
            return
        ready_s = self._topology.timeouts.ready_s
        after = set(await deploy_encoder(namespace, plan, ready_s, self._tell))
        changes.started += sorted(after - before)
        changes.removed += sorted(before - after)

    async def _assign(self, view: ClusterView) -> None:
        for name, one in self._topology.collections.items():
            if one.shards is not None and name not in view.assignments:
                await self._registry.assign(name, None, Assignment(self._topology.layout_of(name)))

    # --- one group ------------------------------------------------------------------------------

    async def _bring_up(self, group: Group, changes: Changes) -> None:
        places = await self._placing.reserve(group)
        actors = running(self._topology.namespace)
        for number, (piece, slab) in enumerate(zip(group.pieces, places, strict=True)):
            handle = actors.get(piece.slot)
            if handle is None:
                self._tell(f"starting {piece.slot}")
                self._placing.start(piece, slab, number)
                changes.started.append(piece.slot)
                continue
            told = await report(handle)
            if told is None or told.digest == made_from(piece, slab):
                continue  # it runs as it should, or Ray is starting it again
            await self._restart(piece, slab, number, handle)
            changes.restarted.append(piece.slot)

    async def _restart(self, piece: Piece, slab: Slab, number: int, handle: Any) -> None:
        """One at a time, the next when this one is ready: the others answer meanwhile."""
        self._tell(f"restarting {piece.slot}")
        await self._placing.end(piece.slot, handle)
        self._placing.start(piece, slab, number)
        await self.wait_ready([piece.slot])

    async def _remove(
        self,
        actors: dict[str, Any],
        groups: Sequence[Group],
        changes: Changes,
    ) -> None:
        wanted = {piece.slot for group in groups for piece in group.pieces}
        for slot, handle in sorted(actors.items(), reverse=True):
            if slot not in wanted:
                self._tell(f"removing {slot}")
                await self._placing.end(slot, handle)
                changes.removed.append(slot)

    def release_unused(self, groups: Iterable[Group]) -> None:
        """Placement groups that nothing of these groups stands in any more."""
        names = {group.name: group for group in groups}
        there = slabs(self._topology.namespace)
        for slab in there:
            group = names.get(slab.group)
            held = [] if group is None else list(covering(group, there).values())
            if slab not in held:
                self._placing.release(slab)
            elif spare := slab.count - held.count(slab):
                # Ray takes no single bundle out of a placement group.
                self._tell(
                    f"{slab.group} keeps {spare} place{'s' if spare > 1 else ''} reserved that "
                    f"nothing stands in, until all that was placed with "
                    f"{'them' if spare > 1 else 'it'} is taken down or drained"
                )

    # --- waiting --------------------------------------------------------------------------------

    async def wait_ready(self, slots: Sequence[str]) -> None:
        """Until all of them are READY. Raises ConfigError with what keeps one from it."""
        await self._wait(
            lambda view: [one for one in slots if one not in view.ready()], "is not ready"
        )

    async def _wait_for_shards(self) -> None:
        def missing(view: ClusterView) -> list[str]:
            return [
                coarse_slot(layout, shard, 0)
                for layout in self._topology.layouts()
                for shard in range(layout.shards)
                if not any(one.is_ready for one in view.workers(layout, shard))
            ]

        await self._wait(missing, "is not ready, nor another replica of its shard")

    async def _wait(self, missing: Callable[[ClusterView], list[str]], what: str) -> None:
        limit_s = self._topology.timeouts.ready_s
        deadline = time.monotonic() + limit_s
        while slots := missing(await self._registry.view()):
            if time.monotonic() > deadline:
                actors = running(self._topology.namespace)
                told = await report(actors[slots[0]]) if slots[0] in actors else None
                why = "Ray has not started it" if told is None else told.error or "it catches up"
                raise ConfigError(
                    f"{slots[0]} {what} after {limit_s:g} s: {why}; `nestvec status` shows all"
                )
            await asyncio.sleep(_LOOK_S)

    # --- layouts beside those of the file -------------------------------------------------------

    async def start_layout(self, layout: Layout, replicas: int | None = None) -> None:
        """All workers of a layout, for a move to it; returns when they are started. replicas: of
        each shard; without it, as many as the pool's layout in the file has.
        """
        changes = Changes()
        for group in coarse_groups(
            self._topology, layout, replicas or replicas_of(self._topology, layout)
        ):
            await self._bring_up(group, changes)

    async def stop_layout(self, layout: Layout) -> None:
        """All workers of a layout, and what they reserved."""
        for slot, handle in running(self._topology.namespace).items():
            if is_of(slot, layout):
                await self._placing.end(slot, handle)
        for slab in slabs(self._topology.namespace):
            if is_of(slab.group, layout):
                self._placing.release(slab)

    async def take_down(self) -> list[str]:
        """Drain and remove every process, and what is reserved. Returns the slots."""
        actors = running(self._topology.namespace)
        order = sorted(actors, key=lambda slot: (slot.partition("/")[0] not in _FRONT, slot))
        for kind in (True, False):  # front ends first: they still answer with all shards there
            ending = [slot for slot in order if (slot.partition("/")[0] in _FRONT) is kind]
            await asyncio.gather(*(self._placing.end(slot, actors[slot]) for slot in ending))
        order += await remove_encoder(self._topology.namespace)
        for slab in slabs(self._topology.namespace):
            self._placing.release(slab)
        return order


_COARSE = MemberRole.COARSE
_FRONT = ("query", "ingest")


def _of_kind(name: str, kind: str) -> bool:
    """Whether a slot, or a group of them, is of a pool or of a role."""
    return not kind or name == kind or name.startswith(f"{kind}/")
