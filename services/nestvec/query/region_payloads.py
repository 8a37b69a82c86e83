"""Payloads of other regions' hits: most come along, the others are fetched for final hits only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nestvec.concurrency import within
from nestvec.core.budget import Budget
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import BudgetSpent, NestvecError, WorkerUnavailable, told
from nestvec.core.ports import KnownRegion
from nestvec.query.answer import Answer, Hit
from nestvec.query.plan import SearchOptions

# Of the deadline, for the response.
_KEEP_FOR_RESPONSE_S = 0.005
# Ids in one call.
_MOST_IDS = 1000


@dataclass(frozen=True, slots=True)
class _Unread(Document):
    """Of a hit whose payload is not here yet."""


def unread(external_id: str) -> Document:
    """In the place of a document that is to be fetched."""
    return _Unread(external_id, "")


async def add_payloads(
    answers: Sequence[Answer],
    regions: Mapping[str, KnownRegion],
    silent: Mapping[str, str],
    options: SearchOptions,
    budget: Budget,
) -> None:
    """Put documents in the places of those that are unread: all regions in parallel, one call each
    for all queries. Hits of a region that does not answer keep their ids alone, where the class
    allows it; otherwise raises what that region failed with. silent: regions that are known to be
    out of reach, and why; they are not asked again.
    """
    plan = answers[0].plan
    if options.ids_only and not plan.cross_encode:
        return
    wanted = _wanted(answers)
    if not wanted:
        return
    calls = [(name, ids) for name, ids in wanted if name not in silent]
    timeout_s = budget.stage_s("payload", _KEEP_FOR_RESPONSE_S)
    collection = answers[0].collection.name
    results = await within(
        (regions[name].documents(collection, ids, timeout_s) for name, ids in calls), timeout_s
    )
    read: dict[tuple[str, str], Document] = {}
    failed: dict[str, BaseException] = {
        name: WorkerUnavailable(said) for name, said in silent.items()
    }
    for (name, _), result in zip(calls, results, strict=True):
        if isinstance(result, BaseException):
            failed[name] = _in_time(result)
        else:
            read.update({(name, one.id): one for one in result})
    for error in failed.values():
        if not plan.search_class.degrade or not isinstance(error, NestvecError):
            raise error
    for answer in answers:
        _fill(answer, read, failed)


def _wanted(answers: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    """One a call: (region, ids)."""
    wanted: dict[str, dict[str, None]] = {}
    for answer in answers:
        for hit in answer.hits:
            if isinstance(hit.document, _Unread):
                wanted.setdefault(hit.region, {})[hit.document.id] = None
    return [(name, part) for name, ids in wanted.items() for part in _parts(list(ids))]


def _parts(ids: list[str]) -> Iterable[list[str]]:
    return (ids[start : start + _MOST_IDS] for start in range(0, len(ids), _MOST_IDS))


def _in_time(error: BaseException) -> BaseException:
    return BudgetSpent("payload") if isinstance(error, asyncio.CancelledError) else error


def _fill(
    answer: Answer,
    read: Mapping[tuple[str, str], Document],
    failed: Mapping[str, BaseException],
) -> None:
    """A hit whose payload is gone is left out, as one of this region's would be."""
    hits: list[Hit] = []
    bare: dict[str, int] = {}
    for hit in answer.hits:
        found: Document | None = hit.document
        if isinstance(found, _Unread):
            found = read.get((hit.region, hit.document.id))
            if found is None and hit.region in failed:
                bare[hit.region] = bare.get(hit.region, 0) + 1
                found = Document(hit.document.id, "")
        if found is not None:
            hits.append(hit._replace(document=found))
    lost = len(answer.hits) - len(hits)
    answer.hits = hits
    for region, count in bare.items():
        answer.degrade(
            DegradationKind.PAYLOAD_MISSING,
            f"{count} hits of region {region} have their id and score only, no text and fields: "
            f"{told(failed[region])}",
        )
    if lost:
        # Whatever would have taken a place that fell free was not looked for.
        answer.certify_nothing()
        answer.degrade(
            DegradationKind.PAYLOAD_MISSING,
            f"{lost} hits were left out: their payloads are gone or damaged in their regions",
        )
