"""What the registry says is held, against what the file asks for: what `up` must not change."""

from __future__ import annotations

from collections.abc import Collection

from nestvec.core.errors import ConfigError
from nestvec.core.members import ClusterView, Layout, MemberRole
from nestvec_cluster.pieces import Group, coarse_groups
from nestvec_cluster.topology import Topology


def require_not_elsewhere(topology: Topology, view: ClusterView, actors: Collection[str]) -> None:
    """Raise ConfigError where the members are not actors of this Ray, and the file wants them to
    be: front ends of which it asks for none run elsewhere.
    """
    elsewhere = [
        role
        for role, section in (
            (MemberRole.QUERY, topology.query),
            (MemberRole.INGEST, topology.ingest),
        )
        if section.count == 0
    ]
    strangers = [
        one for one in view.members if one.name not in actors and one.role not in elsewhere
    ]
    if strangers and not actors:
        one = strangers[0]
        raise ConfigError(
            f"cluster {topology.name!r} runs already, elsewhere: {one.name} is at "
            f"{one.address} on {one.node}, and is not an actor of this Ray; take it down "
            f"there, or give this one another name and store.prefix"
        )


def require_same_shards(topology: Topology, view: ClusterView) -> None:
    """Changing a live collection's shards moves its documents: that is another command. Raises
    ConfigError.
    """
    for name in topology.collections:
        assignment = view.assignment(name)
        wanted = topology.layout_of(name)
        if assignment is None or assignment.current == wanted:
            continue
        held = assignment.current
        raise ConfigError(
            f"collection {name!r} is held by {held} (pool/shards) and the file asks for "
            f"{wanted}, so nothing was changed; if it was moved, write `shards: "
            f"{held.shards}` and its replicas into the file; to move it while it serves: "
            f"`nestvec reshard '{name}' {wanted.shards}`"
        )


def kept_groups(topology: Topology, view: ClusterView, actors: Collection[str]) -> list[Group]:
    """Workers that collections are held by, or move between, beside those of the file: as many
    replicas as run now, or as the pool has in the file.
    """
    held = {layout for one in view.assignments.values() for layout in one.layouts()}
    groups = []
    for layout in sorted(held - set(topology.layouts()), key=str):
        ran = [int(slot.rpartition(".")[2]) for slot in actors if is_of(slot, layout)]
        replicas = max(ran) + 1 if ran else replicas_of(topology, layout)
        groups += coarse_groups(topology, layout, replicas)
    return groups


def replicas_of(topology: Topology, layout: Layout) -> int:
    """Of each shard, as many as the pool's layout in the file has."""
    return next((n for one, n in topology.layouts().items() if one.pool == layout.pool), 1)


def is_of(name: str, layout: Layout) -> bool:
    """Whether a slot, or a group of them, is one of a layout's workers."""
    return name.startswith(f"{layout}-")
