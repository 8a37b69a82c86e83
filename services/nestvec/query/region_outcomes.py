"""What became of each region in an answer, what was covered, and what must be admitted of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.errors import BelowCoverage
from nestvec.core.region_merge import MissingPart, coverage_of_copies, coverage_of_parts
from nestvec.core.regions import RegionOutcome, RegionState
from nestvec.query.answer import Answer
from nestvec.query.gathered import Gathered
from nestvec.query.other_regions import OtherRegions
from nestvec.query.plan import SearchOptions
from nestvec.query.region_choice import behind


def admit_alone(answers: Sequence[Answer], regions: OtherRegions, options: SearchOptions) -> None:
    """Where no other region was asked, by the caller's policy or the class's: a copy that is behind
    says so.
    """
    here, collection = regions.map.here, answers[0].collection.name
    ages = regions.ages(collection)
    oldest_s = None if ages is None else _oldest(ages)
    held = answers[0].coverage.documents_answered
    outcomes = [RegionOutcome(here, RegionState.ANSWERED, held, staleness_s=oldest_s)]
    for name in regions.others:
        held = regions.last_held(collection, name)[0] or 0
        outcomes.append(
            RegionOutcome(name, RegionState.NOT_ASKED, held, "the policy is to ask here alone")
        )
    within_s = regions.within_s(options)
    far = {} if ages is None else behind(tuple(regions.others), ages, within_s)
    for answer in answers:
        name_region(answer, here)
        answer.regions = outcomes
        if far:
            _admit_stale(answer, far, within_s)


def name_region(answer: Answer, here: str) -> None:
    """All of its hits are this region's."""
    answer.hits = [hit._replace(region=here) for hit in answer.hits]


# --- what was covered ---------------------------------------------------------------------------


def coverage_of(gathered: Gathered, regions: OtherRegions) -> Coverage:
    """Of all that were asked: one that is missing counts with what it was last known to hold."""
    answered = [reply.answer.coverage for reply in gathered.replies.values()]
    if gathered.here is not None:
        answered.insert(0, gathered.here[0].coverage)
    lost = [*gathered.missing, *gathered.excluded]
    if gathered.here_lost:
        lost.insert(0, regions.map.here)
    if len(answered) == 1 and not lost:
        return answered[0]
    name = gathered.collection.name
    missing = [MissingPart(*regions.last_held(name, one)) for one in lost]
    return (coverage_of_copies if gathered.replicated else coverage_of_parts)(answered, missing)


def require(coverage: Coverage, gathered: Gathered) -> None:
    """Raise BelowCoverage, naming the regions that have no part."""
    least = gathered.plan.min_coverage
    if coverage.fraction >= least:
        return
    answered = f"{coverage.shards_answered} of {coverage.shards_total} shards answered"
    lost = [*gathered.missing, *gathered.excluded]
    if lost:
        answered += f", none of region {' and '.join(lost)}"
    raise BelowCoverage(coverage.fraction, least, answered)


def outcomes_of(gathered: Gathered, regions: OtherRegions) -> tuple[RegionOutcome, ...]:
    """One a region: the one that answers here first, then the others as the map has them."""
    others = (_outcome(name, gathered, regions) for name in regions.others)
    return (_outcome_here(gathered, regions), *others)


def _outcome_here(gathered: Gathered, regions: OtherRegions) -> RegionOutcome:
    name, collection = regions.map.here, gathered.collection.name
    if gathered.here is None:
        state = RegionState.MISSING if gathered.here_lost else RegionState.NOT_ASKED
        held = regions.last_held(collection, name)[0] or 0
        return RegionOutcome(name, state, held, gathered.here_said)
    first = gathered.here[0]
    ages = regions.ages(collection)
    return RegionOutcome(
        name,
        RegionState.ANSWERED,
        first.coverage.documents_answered,
        milliseconds=sum(first.timings.stages.values()),
        staleness_s=None if ages is None else _oldest(ages),
    )


def _outcome(name: str, gathered: Gathered, regions: OtherRegions) -> RegionOutcome:
    reply = gathered.replies.get(name)
    if reply is not None:
        return RegionOutcome(
            name,
            RegionState.PREFIXES if reply.prefixes else RegionState.ANSWERED,
            reply.answer.coverage.documents_answered,
            reply.prefixes,
            reply.seconds * 1e3,
            reply.answer.staleness_s if gathered.replicated else None,
        )
    held = regions.last_held(gathered.collection.name, name)[0] or 0
    for state, why in (
        (RegionState.EXCLUDED, gathered.excluded),
        (RegionState.MISSING, gathered.missing),
    ):
        if name in why:
            return RegionOutcome(name, state, held, why[name])
    return RegionOutcome(name, RegionState.NOT_ASKED, held, gathered.not_asked.get(name, ""))


# --- what is admitted ---------------------------------------------------------------------------


def admit(answer: Answer, gathered: Gathered, here: str) -> None:
    """What is missing, was left out, or may be old. here: this region's name."""
    kind = DegradationKind.REGION_MISSING
    # Of regions that hold the same, one that is missing takes nothing from a whole answer.
    if gathered.lacking or not gathered.replicated:
        if gathered.here_lost:
            said = gathered.here_said
            answer.degrade(kind, f"region {here} (this one) did not answer: {said}")
        for name, said in gathered.missing.items():
            answer.degrade(kind, f"region {name} did not answer: {said}")
    for name, said in gathered.excluded.items():
        answer.degrade(kind, f"region {name} was left out: {said}")
    for name, reply in gathered.replies.items():
        if reply.prefixes:
            answer.degrade(
                kind,
                f"hits of region {name} are in the order of estimates, from the copy of its "
                f"prefixes that is here: {reply.prefixes}",
            )
    if gathered.lacking:
        far = {name: gathered.behind.get(name) for name in gathered.lacking}
        _admit_stale(answer, far, gathered.within_s)


def _admit_stale(answer: Answer, far: Mapping[str, float | None], within_s: float) -> None:
    told = (
        f"{name} ({'not known how old' if age is None else f'up to {age:.3g} s old'})"
        for name, age in far.items()
    )
    answer.degrade(
        DegradationKind.REGION_STALE,
        f"writes may be missing of region {', '.join(told)}; {within_s:g} s are allowed",
    )


def _oldest(ages: Mapping[str, float | None]) -> float | None:
    known = [age for age in ages.values() if age is not None]
    return max(known, default=0.0) if len(known) == len(ages) else None
