"""What an operator is told of the regions, as one of them sees the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestvec.core.regions import HeldCollection


@dataclass(frozen=True, slots=True)
class ReplicationStatus:
    """One collection's way from another region to this one.

    lag: changes there that are not here. staleness_s: since all that was written there was known to
    be here; None: not yet. refused: documents that cannot be carried over. said: what it waits for;
    empty while it is well. prefix_dim: of a copy of prefixes; 0: whole documents. nbytes: of
    its log and documents, that came over the wire. documents, stored_bytes: that a copy of prefixes
    has here, in the store.
    """

    collection: str
    lag: int = 0
    staleness_s: float | None = None
    refused: int = 0
    said: str = ""
    prefix_dim: int = 0
    nbytes: int = 0
    documents: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RegionStatus:
    """One region as another sees it. reachable: whether it answered last. said: why not, or what is
    wrong with it. round_trip_s: measured; 0 before the first answer. clock_skew_s: its clock less
    this one's. replication: of what is copied from there.
    """

    name: str
    here: bool
    endpoints: Sequence[str]
    reachable: bool
    said: str = ""
    round_trip_s: float = 0.0
    clock_skew_s: float = 0.0
    collections: Sequence[HeldCollection] = ()
    replication: Sequence[ReplicationStatus] = ()


@dataclass(frozen=True, slots=True)
class RegionDifference:
    """One other region against this one: ids that only one of the two has, and those at another
    version. examples: a few of these ids. said: why it could not be compared; empty where it was.
    contents: how many at the same version, which a caller chose, had their contents compared;
    other_contents: of these, how many differ. prefix_dim: of a copy of prefixes; 0: whole ones.
    """

    region: str
    documents_here: int = 0
    documents_there: int = 0
    missing_here: int = 0
    missing_there: int = 0
    different: int = 0
    examples: Sequence[str] = ()
    said: str = ""
    contents: int = 0
    other_contents: int = 0
    prefix_dim: int = 0

    @property
    def clean(self) -> bool:
        """Whether it was compared, and nothing differs."""
        different = self.missing_here or self.missing_there or self.different
        return not (self.said or different or self.other_contents)
