"""Who belongs to a cluster, and which workers hold which shard of a collection.

A member holds a lease: it renews it with every heartbeat and is no longer counted when two are
missed. Each time it joins it gets a new incarnation, and calls name the incarnation that they mean:
a worker that was away too long, or another one that listens on its old port, cannot answer for it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

# Raise it when the internal services change their meaning: members of two protocols never meet.
PROTOCOL = 1
# The assignment of every collection that has none of its own.
EVERY_COLLECTION = "*"


class MemberRole(enum.StrEnum):
    """What a process offers."""

    COARSE = "coarse"
    ENCODER = "encoder"
    RERANK = "rerank"
    CROSS_ENCODER = "cross_encoder"
    QUERY = "query"
    INGEST = "ingest"


class MemberState(enum.StrEnum):
    """Only READY ones are asked by those who answer queries; the others are told of changes all
    the same.
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Layout:
    """A set of coarse workers that hold `shards` shards between them. Another number of shards is
    another layout: workers of both may stand side by side.
    """

    pool: str
    shards: int

    def __str__(self) -> str:
        return f"{self.pool}/{self.shards}"


@dataclass(frozen=True, slots=True)
class Place:
    """Which shard of which layout a coarse worker holds."""

    layout: Layout
    shard: int

    def worker(self, replica: int) -> str:
        """The name of one of its replicas in the cluster."""
        return f"{self.layout}-{self.shard}.{replica}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a member tells of itself with each heartbeat, for coverage and for `status`.

    documents: "NAME:GENERATION" -> how many this worker holds. lag: changes it has not indexed.
    p95_ms: of what it answered lately; 0 where nothing was asked. queue: calls that wait.
    """

    documents: Mapping[str, int] = field(default_factory=dict)
    lag: int = 0
    memory_bytes: int = 0
    p95_ms: float = 0.0
    queue: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a cluster.

    name: its slot, the same after a restart, as "docs/4-2.0" (shard 2, replica 0). address:
    host:port. incarnation: given by the registry at each joining, never given twice. fingerprint:
    of an encoder, its space. place: of a coarse worker. version: of nestvec, for people.
    """

    name: str
    role: MemberRole
    address: str
    node: str = ""
    incarnation: int = 0
    state: MemberState = MemberState.STARTING
    protocol: int = PROTOCOL
    version: str = ""
    fingerprint: str = ""
    place: Place | None = None
    facts: Facts = field(default_factory=Facts)

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return self.state is MemberState.READY


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which workers hold a collection. current: asked. coming: filled beside it, asked by nobody
    yet. previous: kept up to date, so that going back is one step. left: was gone back from, and is
    kept up to date all the same, so that it may be asked again.
    """

    current: Layout
    coming: Layout | None = None
    previous: Layout | None = None
    left: Layout | None = None

    def layouts(self) -> tuple[Layout, ...]:
        """All that follow the collection's log."""
        all_ = (self.current, self.coming, self.previous, self.left)
        return tuple(one for one in all_ if one is not None)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All that the registry knows, at one moment. revision: rises with every change but that of
    facts. members: those whose lease holds. assignments: by collection, and EVERY_COLLECTION.
    promised: (layout, shard) -> the documents that it was last known to hold, in the form of
    Facts.documents; it outlives the workers.
    """

    revision: int
    members: tuple[Member, ...] = ()
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    promised: Mapping[tuple[Layout, int], Mapping[str, int]] = field(default_factory=dict)

    def assignment(self, collection: str) -> Assignment | None:
        """Its own, or that of every collection; None where there is neither."""
        return self.assignments.get(collection) or self.assignments.get(EVERY_COLLECTION)

    def of_role(self, role: MemberRole) -> list[Member]:
        """By name."""
        return sorted((one for one in self.members if one.role is role), key=lambda one: one.name)

    def ready(self) -> set[str]:
        """The names of all that are READY."""
        return {one.name for one in self.members if one.is_ready}

    def workers(self, layout: Layout, shard: int) -> list[Member]:
        """Whoever holds a shard, ready or not, by name."""
        place = Place(layout, shard)
        return [one for one in self.of_role(MemberRole.COARSE) if one.place == place]


def documents_key(collection: str, generation: int) -> str:
    """How Facts.documents names a collection."""
    return f"{collection}:{generation}"
