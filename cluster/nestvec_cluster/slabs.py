"""What is reserved for processes: Ray's placement groups, by their names alone.

Nothing is remembered beside Ray. So a placement group's name says whose it is, which pieces of a
group of processes stand in it, and which of several holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestvec_cluster.pieces import Group, Piece
from nestvec_cluster.topology import digest


@dataclass(frozen=True, slots=True)
class Slab:
    """One placement group: the bundles `first` to `first + count` of a Group. move: how often its
    only piece was moved to another node; 0 where it stands as it was placed first. placed: whether
    all of it stands on nodes that live. nodes: their ids.
    """

    name: str
    group: str
    first: int
    count: int
    shape: str
    move: int = 0
    placed: bool = True
    nodes: frozenset[str] = frozenset()


def slab_name(
    namespace: str, group: str, first: int, resources: Mapping[str, float], move: int = 0
) -> str:
    """In it: whose it is, which pieces, the digest of what each takes, and its move."""
    return f"{namespace}:{group}:{first}:{_shape(resources)}" + (f".{move}" if move else "")


def slab_named(
    name: str, count: int, placed: bool = True, nodes: frozenset[str] = frozenset()
) -> Slab:
    """What `slab_name` has written. count: of its bundles."""
    group, first, shape = name.partition(":")[2].rsplit(":", 2)
    shape, _, move = shape.partition(".")
    return Slab(name, group, int(first), count, shape, int(move or 0), placed, nodes)


def covering(group: Group, there: Sequence[Slab]) -> dict[int, Slab]:
    """Number of a piece -> the slab in which it stands, or is to: of several the last move's."""
    shape = _shape(group.resources)
    ours = [one for one in there if one.group == group.name and one.shape == shape]
    return {
        number: one
        for one in sorted(ours, key=lambda one: one.move)
        for number in range(one.first, min(one.first + one.count, len(group.pieces)))
    }


def promised_nodes(group: Group, number: int, there: Sequence[Slab]) -> set[str]:
    """Where other pieces of a group than `number` were moved to, or are on their way to."""
    moved = [one for n, one in covering(group, there).items() if one.move and n != number]
    return {node for one in moved for node in one.nodes}


def made_from(piece: Piece, slab: Slab) -> str:
    """What a running actor tells as its digest: other settings or another place differ."""
    return f"{piece.digest}@{slab.name}"


def _shape(resources: Mapping[str, float]) -> str:
    return digest(dict(resources))[:8]
