"""From what several regions found to one answer a query: one list, with payloads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nestvec.core.budget import Budget
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.errors import BudgetSpent, StoreUnavailable
from nestvec.core.ports import RegionHits, StoredVersion
from nestvec.core.region_merge import RegionPart, merge_parts, merged_certificate
from nestvec.query.answer import Answer, Hit, version_of
from nestvec.query.documents import Documents
from nestvec.query.gathered import Gathered
from nestvec.query.other_regions import OtherRegions
from nestvec.query.plan import SearchOptions
from nestvec.query.region_outcomes import admit, coverage_of, name_region, outcomes_of, require
from nestvec.query.region_payloads import add_payloads, unread
from nestvec.telemetry.logs import logger

_log = logger()


async def answers_of(
    gathered: Gathered,
    regions: OtherRegions,
    documents: Documents,
    options: SearchOptions,
    budget: Budget,
) -> list[Answer]:
    """One answer a query. Raises BelowCoverage where less answered than the plan allows."""
    coverage = coverage_of(gathered, regions)
    require(coverage, gathered)
    outcomes = outcomes_of(gathered, regions)
    stood = await _stood(gathered, documents, budget)
    answers = [_merged(gathered, number, stood, regions) for number in range(gathered.queries)]
    for answer in answers:
        answer.coverage, answer.regions = coverage, outcomes
        admit(answer, gathered, regions.map.here)
    silent = {name: one.prefixes for name, one in gathered.replies.items() if one.prefixes}
    await add_payloads(answers, regions.others, silent, options, budget)
    return answers


class _Stood(NamedTuple):
    """What is known here, by external id: documents that live, and versions of deletions."""

    live: Mapping[str, StoredVersion]
    deleted: Mapping[str, int]

    @property
    def newest(self) -> dict[str, int]:
        """No older version of these is a hit, wherever it was found."""
        # Of a document and its deletion at one version the deletion stands (ports.VectorStore).
        newest = {name: version + 1 for name, version in self.deleted.items()}
        newest.update((name, one.version) for name, one in self.live.items())
        return newest


_NOTHING = _Stood({}, {})


async def _stood(gathered: Gathered, documents: Documents, budget: Budget) -> _Stood:
    """Of all hits, where copies of several regions are to be told apart. Nothing where the store
    does not say: the other regions' word counts then.
    """
    if not gathered.replicated or not gathered.replies:
        return _NOTHING
    names = {
        name
        for reply in gathered.replies.values()
        for hits in reply.answer.hits
        for name in hits.ids
    }
    names.update(hit.document.id for answer in gathered.here or () for hit in answer.hits)
    if not names:
        return _NOTHING
    asked, collection = sorted(names), gathered.collection
    try:
        timeout_s = budget.stage_s("versions") / 2
        live, deleted = await asyncio.gather(
            documents.versions(collection, asked, timeout_s),
            documents.deletions(collection, asked, timeout_s),
        )
    except (StoreUnavailable, BudgetSpent) as error:
        _log.warning("regions.versions_unknown", reason=str(error))
        return _NOTHING
    return _Stood(live, deleted)


def _merged(gathered: Gathered, number: int, stood: _Stood, regions: OtherRegions) -> Answer:
    """The answer to one query of the batch."""
    own = None if gathered.here is None else gathered.here[number]
    if own is not None:
        name_region(own, regions.map.here)
    answer = _empty(gathered) if own is None else own
    replies = gathered.replies
    # Nearest first, whoever answered first: of copies that are alike that one is taken.
    found = [(one, replies[one].answer.hits[number]) for one in regions.others if one in replies]
    if not found:
        if not gathered.everywhere and answer.certificate is Certificate.COLLECTION:
            # Nothing is known of the documents of a region that did not answer.
            answer.certificate = Certificate.WITHIN_CANDIDATES
        return answer
    parts = [] if own is None else [_part_here(own, stood.live, gathered.replicated)]
    others = len(parts)
    parts += [_part(hits) for _, hits in found]
    merged = merge_parts(parts, answer.plan.reads, stood.newest)
    hits = [
        answer.hits[row] if part < others else _hit(*found[part - others], row)
        for part, row in merged.hits[: answer.plan.shown]
    ]
    answer.hits = hits
    answer.certificate, answer.failure_probability = merged_certificate(
        parts, merged.certain, gathered.everywhere
    )
    _add_up(answer, found, gathered.replicated)
    return answer


def _empty(gathered: Gathered) -> Answer:
    """For hits of others alone."""
    plan = gathered.plan
    answer = Answer(gathered.collection, plan, Coverage(0, 0, 0, 0), reranked=plan.rerank)
    if plan.promise is not None and plan.promise.missed:
        answer.degrade(DegradationKind.TARGET_MISSED, plan.promise.missed)
    return answer


def _part(hits: RegionHits) -> RegionPart:
    return RegionPart(
        hits.ids, hits.scores, hits.versions, hits.certificate, hits.failure_probability
    )


def _part_here(answer: Answer, stood: Mapping[str, StoredVersion], replicated: bool) -> RegionPart:
    hits = answer.hits
    versions = None
    if replicated:
        found = (version_of(hit, stood.get(hit.document.id)) for hit in hits)
        versions = np.fromiter(found, np.int64, len(hits))
    return RegionPart(
        [hit.document.id for hit in hits],
        np.array([hit.score for hit in hits], np.float32),
        versions,
        answer.certificate,
        answer.failure_probability,
    )


def _hit(region: str, hits: RegionHits, row: int) -> Hit:
    known = hits.documents[row] if row < len(hits.documents) else unread(hits.ids[row])
    return Hit(known, float(hits.scores[row]), region=region)


def _add_up(answer: Answer, found: Sequence[tuple[str, RegionHits]], replicated: bool) -> None:
    """What others did for it."""
    for name, hits in found:
        answer.candidates += hits.candidates
        answer.fetched += hits.fetched
        if replicated:
            answer.matching = max(answer.matching, hits.matching)
        else:
            answer.matching += hits.matching
        answer.degradations.extend(
            Degradation(one.kind, f"region {name}: {one.detail}") for one in hits.degradations
        )
