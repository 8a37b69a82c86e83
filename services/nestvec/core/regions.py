"""Regions: whole deployments that answer for each other, as each of them sees the others."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from nestvec.core.collection import Collection


class Sharing(enum.StrEnum):
    """PARTITIONED: each region has documents of its own. REPLICATED: each has all of them."""

    PARTITIONED = "partitioned"
    REPLICATED = "replicated"


class RegionPolicy(enum.StrEnum):
    """Which regions answer. LOCAL_FIRST: others where this one is not enough (see query.regional).
    ALL: every one that may hold documents of the collection.
    """

    LOCAL = "local"
    LOCAL_FIRST = "local_first"
    ALL = "all"


class RegionState(enum.StrEnum):
    """What became of a region in one answer.

    MISSING: it did not answer in time, or failed. EXCLUDED: what it has cannot be merged (another
    space, other dimensions). PREFIXES: it is out of reach, and this region's copy of its prefixes
    answered in its place, in coarse order.
    """

    ANSWERED = "answered"
    NOT_ASKED = "not_asked"
    MISSING = "missing"
    EXCLUDED = "excluded"
    PREFIXES = "prefixes"


@dataclass(frozen=True, slots=True)
class RegionPlace:
    """One region of the map. number: part of every version made there. endpoints: host:port.
    rtt_s: what a round trip to it is expected to take, until it is measured.
    """

    name: str
    number: int
    endpoints: tuple[str, ...]
    rtt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Shared:
    """How one collection is shared. prefixes_of: regions whose part of it is also held here as rows
    of the tier `prefix_dim` alone.
    """

    sharing: Sharing
    prefixes_of: tuple[str, ...] = ()
    prefix_dim: int = 256


@dataclass(frozen=True, slots=True)
class RegionMap:
    """All regions, the nearest first, and the collections that they share; checked in config.py."""

    here: str
    places: tuple[RegionPlace, ...]
    collections: Mapping[str, Shared] = field(default_factory=dict)

    @property
    def others(self) -> tuple[RegionPlace, ...]:
        """All but this one, the nearest first."""
        return tuple(one for one in self.places if one.name != self.here)

    @property
    def own(self) -> RegionPlace:
        """The region that this map is read in."""
        return next(one for one in self.places if one.name == self.here)

    def shared(self, collection: str) -> Shared | None:
        """How; None for a collection that is this region's alone."""
        return self.collections.get(collection)

    def replicated(self, collection: str) -> bool:
        """Whether every region holds all of it."""
        shared = self.shared(collection)
        return shared is not None and shared.sharing is Sharing.REPLICATED


@dataclass(frozen=True, slots=True)
class RegionOutcome:
    """One region's part in an answer. documents: that it asked, or where it is missing was last
    known to hold. milliseconds: from asking to its answer. staleness_s: how far it may be behind
    the others; None where that is unknown or nothing is replicated.
    """

    name: str
    state: RegionState
    documents: int = 0
    said: str = ""
    milliseconds: float = 0.0
    staleness_s: float | None = None


@dataclass(frozen=True, slots=True)
class HeldCollection:
    """A collection as a region describes it. dim: its store_dim. staleness_s: region -> seconds
    since all that was written there was known to be here; of one that is replicated. tiers: that
    are searched there; empty where an older release does not say.
    """

    name: str
    generation: int
    fingerprint: str
    dim: int
    documents: int
    staleness_s: Mapping[str, float] = field(default_factory=dict)
    tiers: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        collection: Collection,
        documents: int,
        staleness_s: Mapping[str, float] | None = None,
    ) -> HeldCollection:
        """As it stands, with so many documents."""
        return cls(
            collection.name,
            collection.generation,
            collection.space.fingerprint,
            collection.store_dim,
            documents,
            staleness_s or {},
            collection.tiers,
        )


@dataclass(frozen=True, slots=True)
class RegionDescription:
    """now_ms: its wall clock, milliseconds since 1970."""

    name: str
    number: int
    now_ms: int
    collections: Mapping[str, HeldCollection] = field(default_factory=dict)
