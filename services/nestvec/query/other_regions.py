"""Other regions, as the searches of one server need them: who they are, and what was last known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestvec.core.coverage import Coverage
from nestvec.core.hedging import Hedging
from nestvec.core.ports import KnownRegion, PrefixCopies, Staleness
from nestvec.core.regions import RegionMap, RegionPolicy
from nestvec.query.plan import SearchOptions
from nestvec.query.region_choice import Choice, PartitionedChoice, ReplicatedChoice, behind


@dataclass(frozen=True, slots=True)
class RegionRules:
    """whole_within_s: a replicated collection that may be further behind is not whole here.
    inline_bytes: of payloads that come with a region's hits, for each query.
    """

    whole_within_s: float = 30.0
    inline_bytes: int = 16 * 1024


class OtherRegions:
    """All but the one that this server is in. others: one each, in the order of the map. staleness:
    None where nothing is followed. prefixes: copies of what others hold, that are here.
    """

    def __init__(
        self,
        regions: RegionMap,
        others: Sequence[KnownRegion],
        staleness: Staleness | None = None,
        rules: RegionRules | None = None,
        prefixes: PrefixCopies | None = None,
    ) -> None:
        places = [one.name for one in regions.others]
        assert [one.name for one in others] == places, "one each of the map, in its order"
        self.map = regions
        self.others = {one.name: one for one in others}
        self.staleness = staleness
        self.rules = rules or RegionRules()
        self.prefixes = prefixes
        self.hedging = Hedging()
        self._covered: dict[tuple[str, str], Coverage] = {}

    def ages(self, collection: str) -> dict[str, float | None] | None:
        """Other region -> how far this one may be behind it, in seconds; None where unknown. None
        altogether where the regions do not hold the same documents.
        """
        if not self.map.replicated(collection):
            return None
        ages = {} if self.staleness is None else self.staleness.of(collection)
        return {name: ages.get(name) for name in self.others}

    def learn(self, collection: str, region: str, coverage: Coverage) -> None:
        """What it answered last."""
        self._covered[collection, region] = coverage

    def last_held(self, collection: str, region: str) -> tuple[int | None, int]:
        """(documents, shards) of one that has not answered: as it told last. At least one shard."""
        last = self._covered.get((collection, region))
        other = self.others.get(region)
        known = None if other is None else other.known(collection)
        if last is None:
            return known, 1
        return last.documents_total if known is None else known, max(1, last.shards_total)

    def within_s(self, options: SearchOptions) -> float:
        """How far behind a replicated collection still counts as whole."""
        asked = options.max_staleness_s
        return self.rules.whole_within_s if asked is None else asked

    def choice(self, collection: str, policy: RegionPolicy, options: SearchOptions) -> Choice:
        """Whom a search asks, and when. policy: not LOCAL."""
        others = tuple(self.others)
        ages = self.ages(collection)
        if ages is None:
            return PartitionedChoice(policy, others)
        within_s = self.within_s(options)
        return ReplicatedChoice(
            self.map.here,
            others,
            tuple(behind(others, ages, within_s)),
            within_s,
            own=options.watermark is not None,
        )
