"""What several regions are asked, and what has come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.ports import RegionAnswer, RegionQuery
from nestvec.query.answer import Answer
from nestvec.query.plan import Plan, SearchOptions


@dataclass(frozen=True, slots=True)
class Reply:
    """What one other region has answered. seconds: from asking until it was here. prefixes: a copy
    of its prefixes answered in its place, and why it did not itself; empty where it did.
    """

    answer: RegionAnswer
    seconds: float
    prefixes: str = ""


@dataclass(slots=True)
class Gathered:
    """All that came of one search. here: this region's answers, one a query; None where it failed,
    or, `overtaken`, was not waited for: `here_said` says why. missing, excluded, not_asked: region
    -> why. lacking: regions of which something may be missing that is older than `within_s`, where
    all hold all documents; behind: since when this region may lack it, in seconds.
    """

    collection: Collection
    plan: Plan
    queries: int
    replicated: bool
    here: list[Answer] | None = None
    here_said: str = ""
    overtaken: bool = False
    replies: dict[str, Reply] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    not_asked: dict[str, str] = field(default_factory=dict)
    behind: dict[str, float | None] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    within_s: float = 0.0

    @property
    def here_lost(self) -> bool:
        """Whether this region has no part in the answer that it should have."""
        return self.here is None and not self.overtaken

    @property
    def everywhere(self) -> bool:
        """Whether every region that may hold documents has answered."""
        if self.replicated:
            return not self.lacking
        return self.here is not None and not (self.missing or self.excluded or self.not_asked)


def question(
    gathered: Gathered, vectors: Floats, options: SearchOptions, inline_bytes: int
) -> RegionQuery:
    """As another region is asked. vectors: (n, store_dim) float32, unit."""
    plan, promise = gathered.plan, gathered.plan.promise
    measured = promise is not None and promise.point is not None
    return RegionQuery(
        collection=gathered.collection.name,
        fingerprint=gathered.collection.space.fingerprint,
        queries=vectors,
        search_class=plan.search_class.name,
        k=plan.reads,
        coarse_dim=plan.coarse_dim,
        candidates=plan.candidates,
        rerank=plan.rerank,
        bound_z=plan.bound_z if plan.told or measured else None,
        filter=plan.filter,
        target_recall=promise.target if promise is not None and measured else None,
        exhaustive=options.exhaustive,
        versions=gathered.replicated,
        inline_bytes=inline_bytes,
        ids_only=options.ids_only and not plan.cross_encode,
    )


def unmergeable(answer: RegionAnswer, gathered: Gathered) -> str:
    """Why what a region has cannot be put together with the others; empty where it can."""
    space, plan = gathered.collection.space, gathered.plan
    if answer.fingerprint != space.fingerprint:
        return (
            f"its collection is in space {answer.fingerprint}, and here in {space.fingerprint}: "
            f"scores of two models cannot be compared; finish its migration"
        )
    if len(answer.hits) != gathered.queries:
        return f"it answered {len(answer.hits)} queries of {gathered.queries}"
    scoring_dim = gathered.collection.store_dim if plan.rerank else plan.coarse_dim
    if answer.scoring_dim != scoring_dim:
        return f"its scores are of {answer.scoring_dim} dimensions, and here of {scoring_dim}"
    return ""
