"""Which regions a search asks, and when.

PARTITIONED: each region has its own documents. LOCAL_FIRST asks the others where this one is not
enough: it failed or a shard of it did, it has fewer than k hits, or the last of them scores below
the class's `local_score`. ALL asks them at once.

REPLICATED: each region has all documents, some of them a little later. This one answers alone when
it is whole: all of its shards answered, and all that was written elsewhere is known to be here but
for the last few seconds. Otherwise those regions are asked that hold what may be missing, and the
nearest one where a shard is. LOCAL_FIRST and ALL do the same: a whole copy has nothing to add.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nestvec.core.coverage import Coverage
from nestvec.core.regions import RegionPolicy


@dataclass(frozen=True, slots=True)
class Heard:
    """What one region has answered. sufficient: it has as many hits as are wanted, and good ones,
    for every query. staleness_s: how far it may be behind the others; None where that is unknown.
    """

    coverage: Coverage
    sufficient: bool = False
    staleness_s: float | None = None

    @property
    def complete(self) -> bool:
        """Whether all of its shards answered."""
        return self.coverage.fraction >= 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search stands. here: what this region answered; None until then, and where it failed.
    settled: it has answered or failed. heard: of the others. asked: all that were asked. waiting:
    those of them that may still answer.
    """

    here: Heard | None
    settled: bool
    heard: Mapping[str, Heard]
    asked: Collection[str]
    waiting: Collection[str]


class Choice(Protocol):
    """One search's. Regions are told by name, the nearest first."""

    def at_once(self) -> Sequence[str]:
        """Whom to ask as soon as there is a vector."""
        ...

    def hedge(self, now: Progress) -> Sequence[str]:
        """Whom to ask while this region is later than it mostly is."""
        ...

    def late(self, now: Progress) -> Sequence[str]:
        """Whom to ask while this region has used up half of the time."""
        ...

    def more(self, now: Progress) -> Sequence[str]:
        """Whom to ask, after somebody has answered or failed."""
        ...

    def enough(self, now: Progress) -> bool:
        """Whether nobody else need be waited for."""
        ...


@dataclass(frozen=True, slots=True)
class PartitionedChoice:
    """others: all but this one. policy: not LOCAL."""

    policy: RegionPolicy
    others: Sequence[str]

    def at_once(self) -> Sequence[str]:
        """See Choice."""
        return self.others if self.policy is RegionPolicy.ALL else ()

    def hedge(self, now: Progress) -> Sequence[str]:  # noqa: ARG002
        """See Choice. Nobody else has this region's documents."""
        return ()

    def late(self, now: Progress) -> Sequence[str]:  # noqa: ARG002
        """See Choice."""
        return self.others

    def more(self, now: Progress) -> Sequence[str]:
        """See Choice."""
        return self.others if now.settled and not _sufficient(now.here) else ()

    def enough(self, now: Progress) -> bool:
        """See Choice."""
        return self.policy is RegionPolicy.LOCAL_FIRST and _sufficient(now.here)


def _sufficient(here: Heard | None) -> bool:
    return here is not None and here.complete and here.sufficient


@dataclass(frozen=True, slots=True)
class ReplicatedChoice:
    """here: this region's name. behind: those of the others that this one is further behind than
    `within_s`, or not known to be that near to. own: the caller has a watermark, for which this
    region alone waits: others answer beside it, and in its place only where it fails. Then the
    nearest is asked, and all others at once that have what may be missing in its answer: nobody
    there can make up for the watermark, and most of the time is gone.
    """

    here: str
    others: Sequence[str]
    behind: Collection[str]
    within_s: float
    own: bool = False

    def at_once(self) -> Sequence[str]:
        """See Choice."""
        return [name for name in self.others if name in self.behind]

    def hedge(self, now: Progress) -> Sequence[str]:
        """See Choice."""
        return () if now.asked or self.own else self.others[:1]

    def late(self, now: Progress) -> Sequence[str]:
        """See Choice."""
        return () if now.waiting else self._next(now)

    def more(self, now: Progress) -> Sequence[str]:
        """See Choice."""
        if not now.settled or now.waiting or not self.lacking(now):
            return ()
        if self._unpromised(now) and now.asked:
            missing = self._missing(now)
            return [name for name in self.others if name in missing and name not in now.asked]
        return self._next(now)

    def enough(self, now: Progress) -> bool:
        """See Choice."""
        return not self.lacking(now)

    def lacking(self, now: Progress) -> list[str]:
        """The regions of which something may be missing in what was heard so far: all where nobody
        has answered whole.
        """
        return [self.here] if self._unpromised(now) else self._missing(now)

    def _unpromised(self, now: Progress) -> bool:
        """Whether there is a watermark, and this region has not answered whole: nobody else can."""
        return self.own and (now.here is None or not now.here.complete)

    def _missing(self, now: Progress) -> list[str]:
        """As `lacking`, without regard to a watermark."""
        complete = {name for name, one in now.heard.items() if one.complete}
        for name in complete:
            age_s = now.heard[name].staleness_s
            if age_s is not None and age_s <= self.within_s:
                return []
        if now.here is not None and now.here.complete:
            return [name for name in self.others if name in self.behind and name not in complete]
        return [name for name in (self.here, *self.others) if name not in complete]

    def _next(self, now: Progress) -> Sequence[str]:
        return [name for name in self.others if name not in now.asked][:1]


def behind(
    others: Sequence[str], ages: Mapping[str, float | None], within_s: float
) -> dict[str, float | None]:
    """Of `others`, those of which something older than `within_s` may be missing here, and since
    when; None where that is not known.
    """
    found = {name: ages.get(name) for name in others}
    return {name: age for name, age in found.items() if age is None or age > within_s}
