"""What `nestvec status` shows of a cluster: tables for people, plain data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    ClusterView,
    Layout,
    Member,
    MemberRole,
    MemberState,
)
from nestvec_cluster.tables import megabytes, one_line

_COLORS = {
    MemberState.READY.value: "green",
    MemberState.STARTING.value: "yellow",
    MemberState.DRAINING.value: "yellow",
    "missing": "red",
}
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A Ray node. resources: in all, as Ray counts them."""

    id: str
    address: str
    alive: bool
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One look. expected: the slots that should be there, whether they are or not. ray: empty, or
    what is wrong with it; base: of the supervisor, empty where there is none on this machine.
    """

    name: str
    view: ClusterView
    nodes: Sequence[NodeStatus]
    expected: Sequence[str]
    ray: str = ""
    base: str = ""

    @property
    def missing(self) -> list[str]:
        """Slots without a member that holds a lease."""
        there = {one.name for one in self.view.members}
        return [slot for slot in self.expected if slot not in there]

    @property
    def unready(self) -> list[str]:
        """Slots whose member is not READY, or that have none."""
        ready = self.view.ready()
        return [slot for slot in self.expected if slot not in ready]


def status_data(status: ClusterStatus) -> dict[str, Any]:
    """For --json."""
    view = status.view
    return {
        "cluster": status.name,
        "ray": status.ray or "ok",
        "base": status.base,
        "nodes": [asdict(one) for one in status.nodes],
        "members": [_member_data(one) for one in view.members],
        "missing": status.missing,
        "ready": not status.unready,
        "assignments": {
            name: {
                kind: None if layout is None else str(layout)
                for kind, layout in _kinds(one).items()
            }
            for name, one in view.assignments.items()
        },
    }


def _member_data(member: Member) -> dict[str, Any]:
    place = member.place
    return {
        "name": member.name,
        "role": member.role.value,
        "state": member.state.value,
        "address": member.address,
        "node": member.node,
        "incarnation": member.incarnation,
        "version": member.version,
        "pool": None if place is None else str(place.layout),
        "shard": None if place is None else place.shard,
        "documents": sum(member.facts.documents.values()),
        "lag": member.facts.lag,
        "memory_bytes": member.facts.memory_bytes,
        "p95_ms": member.facts.p95_ms,
        "queue": member.facts.queue,
    }


def status_tables(status: ClusterStatus) -> RenderableType:
    """Nodes, then shards x replicas, then front ends and encoder replicas."""
    parts: list[RenderableType] = [_headline(status), _nodes(status)]
    for layout in _layouts(status.view):
        parts += [Text(), _workers(status, layout)]
    parts += [Text(), _others(status)]
    return Group(*parts)


def print_status(console: Console, status: ClusterStatus) -> None:
    """Once."""
    console.print(status_tables(status))


def _headline(status: ClusterStatus) -> Text:
    line = Text(f"cluster {status.name}: ")
    if status.ray:
        return line.append(status.ray, style="red")
    if status.unready:
        return line.append(f"{len(status.unready)} of {len(status.expected)} not ready", "yellow")
    return line.append(f"all {len(status.expected)} ready", style="green")


def _nodes(status: ClusterStatus) -> Table:
    table = _table("node", "address", "state", "CPUs", "GPUs", "processes")
    for one in status.nodes:
        processes = [m for m in status.view.members if m.node.endswith(f"/{one.id[:6]}")]
        table.add_row(
            one.id[:6],
            one.address,
            _state("ready" if one.alive else MISSING),
            f"{one.resources.get('CPU', 0):g}",
            f"{one.resources.get('GPU', 0):g}",
            str(len(processes)),
        )
    return table


def _layouts(view: ClusterView) -> list[Layout]:
    held = {layout for one in view.assignments.values() for layout in one.layouts()}
    held |= {one.place.layout for one in view.members if one.place is not None}
    return sorted(held, key=str)


def _workers(status: ClusterStatus, layout: Layout) -> Table:
    holds = _holds(status.view, layout)
    table = _table(
        f"shard of {layout.pool}", "worker", "state", "node", "documents", "lag", "memory", "p95"
    )
    if holds:
        table.caption = one_line(f"holds {', '.join(holds)}")
        table.caption_justify = "left"
    gone = [slot for slot in status.missing if slot.startswith(f"{layout}-")]
    for shard in range(layout.shards):
        for member in status.view.workers(layout, shard):
            table.add_row(f"{shard} of {layout.shards}", *_facts(member))
        for slot in gone:
            if slot.startswith(f"{layout}-{shard}."):
                table.add_row(f"{shard} of {layout.shards}", slot, _state(MISSING))
    return table


def _holds(view: ClusterView, layout: Layout) -> list[str]:
    """Which collections, and while one moves between layouts: as which of them."""
    told = []
    for name, one in sorted(view.assignments.items()):
        kinds = _kinds(one)
        moves = one.layouts() != (one.current,)
        named = "all others" if name == EVERY_COLLECTION else name
        told += [f"{named} ({kind})" if moves else named for kind in kinds if kinds[kind] == layout]
    return told


def _facts(member: Member) -> list[str | Text]:
    facts = member.facts
    return [
        member.name,
        _state(member.state.value),
        member.node,
        f"{sum(facts.documents.values()):,}",
        f"{facts.lag:,}",
        megabytes(facts.memory_bytes) if facts.memory_bytes else "-",
        f"{facts.p95_ms:.1f} ms" if facts.p95_ms else "-",
    ]


def _others(status: ClusterStatus) -> Table:
    table = _table("process", "state", "address", "node", "memory", "p95", "queue")
    for role in (role for role in MemberRole if role is not MemberRole.COARSE):
        for member in status.view.of_role(role):
            facts = member.facts
            table.add_row(
                member.name,
                _state(member.state.value),
                member.address,
                member.node,
                megabytes(facts.memory_bytes) if facts.memory_bytes else "-",
                f"{facts.p95_ms:.1f} ms" if facts.p95_ms else "-",
                str(facts.queue),
            )
        for slot in status.missing:
            if slot.startswith(f"{role.value}/"):
                table.add_row(slot, _state(MISSING))
    return table


def _state(state: str) -> Text:
    return Text(state, style=_COLORS.get(state, ""))


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, no_wrap=True, overflow="ellipsis")
    return table


def _kinds(one: Assignment) -> dict[str, Layout | None]:
    """Its layouts, by what they are to it."""
    return {
        "current": one.current,
        "coming": one.coming,
        "previous": one.previous,
        "left": one.left,
    }
