"""Asking every shard, keeping what arrived, and saying what did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nestvec.concurrency import within
from nestvec.core.arrays import Floats, Ids
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    NotFound,
    SpaceMismatch,
    told,
)
from nestvec.core.merge import merge_top
from nestvec.core.placement import partitions_of
from nestvec.core.ports import CoarseAnswer, CoarseHits, CoarseQuery, CoarseSearcher, Shards
from nestvec.core.shard_counts import shard_counts
from nestvec.telemetry import metrics, tracing
from nestvec.telemetry.logs import logger

# Collections, generations and layouts of which is remembered what each shard holds.
_MOST_HELD = 1024
_log = logger()


@dataclass(frozen=True, slots=True)
class ShardsAnswer:
    """hits: one a query, over all shards that answered, best first. matching: how many of their
    documents the filter lets through. refused: what a shard does not serve, and the others do.
    missing: the numbers of the shards that did not answer.
    """

    hits: list[CoarseHits]
    coverage: Coverage
    degradations: list[Degradation]
    matching: int
    refused: NotFound | None = None
    missing: tuple[int, ...] = ()


class HeldDocuments:
    """How many documents each shard of a collection said that it holds, when it answered last."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int], list[int | None]] = {}

    def of(self, query: CoarseQuery, shards: int) -> list[int | None]:
        """One a shard; None for one that has not answered yet."""
        return self._held.get((query.collection, query.generation, shards)) or [None] * shards

    def learn(self, query: CoarseQuery, shards: int, answers: Mapping[int, CoarseAnswer]) -> None:
        """answers: by shard."""
        key = query.collection, query.generation, shards
        held = self._held.pop(key, None) or [None] * shards
        for number, answer in answers.items():
            held[number] = answer.documents
        if len(self._held) >= _MOST_HELD:
            del self._held[next(iter(self._held))]
        self._held[key] = held


async def ask_shards(
    source: Shards,
    query: CoarseQuery,
    timeout_s: float,
    held: HeldDocuments | None = None,
    partitions: int = 0,
) -> ShardsAnswer:
    """Search every shard within `timeout_s`. Missing ones are named, not raised.

    held: what to remember from call to call. partitions: of the collection; 0 where unknown.
    Raises what is wrong with the request itself (a space, a tier): no shard can answer that. When
    no shard answers, raises the first shard's error.
    """
    shards = source.of(query.collection)
    if len(shards) == 1:
        # The common embedded case: no tasks, no merge.
        alone = await _search(shards[0], 0, query, timeout_s)
        coverage = Coverage(1, 1, alone.documents, alone.documents)
        return ShardsAnswer(alone.hits, coverage, [], alone.matching)
    held = held or HeldDocuments()
    promised = source.promised(query.collection, query.generation)
    documents = [
        last if number is None else number
        for number, last in zip(promised, held.of(query, len(shards)), strict=True)
    ]
    return await _ask_many(shards, query, timeout_s, documents, held, partitions)


async def _ask_many(
    shards: Sequence[CoarseSearcher],
    query: CoarseQuery,
    timeout_s: float,
    documents: Sequence[int | None],
    held: HeldDocuments,
    partitions: int,
) -> ShardsAnswer:
    """documents: how many each shard is known to hold."""
    deadline_s = time.monotonic() + timeout_s
    counts = dict(enumerate(_counts(query.count, documents, partitions)))
    answers, errors = await _ask_each(shards, query, counts, timeout_s)
    if not answers:
        raise next(iter(errors.values()))
    hits = _merged(answers, query)
    short = _exhausted(answers, hits, counts, query.count)
    left_s = deadline_s - time.monotonic()
    if short and left_s > 0.0:
        metrics.SHARDS_ASKED_AGAIN.inc(len(short))
        again, _ = await _ask_each(shards, query, dict.fromkeys(short, query.count), left_s)
        # One that did not answer again has answered before: what it said then stays.
        answers |= again
        hits = _merged(answers, query)
    held.learn(query, len(shards), answers)
    return ShardsAnswer(
        hits,
        _coverage(answers, errors, documents),
        [_missing(number, error) for number, error in errors.items()],
        sum(answer.matching for answer in answers.values()),
        next((error for error in errors.values() if isinstance(error, NotFound)), None),
        tuple(errors),
    )


def _counts(count: int, documents: Sequence[int | None], partitions: int) -> tuple[int, ...]:
    """How many each shard is asked for."""
    if partitions and not any(documents):
        # As good as nothing is known but what each shard was given.
        shards = len(documents)
        documents = [len(partitions_of(one, partitions, shards)) for one in range(shards)]
    return shard_counts(count, documents)


async def _ask_each(
    shards: Sequence[CoarseSearcher],
    query: CoarseQuery,
    counts: Mapping[int, int],
    timeout_s: float,
) -> tuple[dict[int, CoarseAnswer], dict[int, BaseException]]:
    """Ask some shards, each for its own count. By shard: the answers, and why there was none."""
    results = await within(
        (
            _search(
                shards[number],
                number,
                query if count == query.count else replace(query, count=count),
                timeout_s,
            )
            for number, count in counts.items()
        ),
        timeout_s,
    )
    answers: dict[int, CoarseAnswer] = {}
    errors: dict[int, BaseException] = {}
    for number, result in zip(counts, results, strict=True):
        if isinstance(result, CoarseAnswer):
            answers[number] = result
        elif isinstance(result, InvalidRequest | SpaceMismatch):
            raise result
        else:
            errors[number] = _named(result)
            if not isinstance(errors[number], NestvecError):
                # A bug of that shard: the others still answer, and the log says where to look.
                _log.error("coarse.shard_failed", shard=number, exc_info=result)
    return answers, errors


def _search(
    shard: CoarseSearcher, number: int, query: CoarseQuery, timeout_s: float
) -> Coroutine[Any, Any, CoarseAnswer]:
    asking = shard.search(query, timeout_s)
    if tracing.current() is None:
        return asking
    attributes = {"nestvec.shard": number, "nestvec.count": query.count}
    return tracing.in_part("coarse.shard", attributes, asking)


def _named(error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
        return BudgetSpent("coarse")
    return error


def _exhausted(
    answers: Mapping[int, CoarseAnswer],
    merged: Sequence[CoarseHits],
    counts: Mapping[int, int],
    count: int,
) -> list[int]:
    """Shards of which all that they were asked for is among the best, and which hold more: their
    next ones might be among the best too. Placement makes that as rare as `shard_counts` says,
    except where it is skewed and not known yet, or where a filter fits the placement.
    """
    return [
        number
        for number, answer in answers.items()
        if counts[number] < count
        and any(
            counts[number] <= len(hits.ids) < answer.matching
            and (len(best.ids) < count or _least_upper(hits) >= _least_upper(best))
            for hits, best in zip(answer.hits, merged, strict=True)
        )
    ]


def _least_upper(hits: CoarseHits) -> float:
    """Best come first."""
    return float(hits.estimates[-1] + hits.half_widths[-1])


def _coverage(
    answers: Mapping[int, CoarseAnswer],
    errors: Mapping[int, BaseException],
    documents: Sequence[int | None],
) -> Coverage:
    """A silent shard counts with what it is known to hold. Where nobody knows, as an average one:
    shards hold nearly equal shares (placement by hash), and leaving its documents out of the total
    would be worse.
    """
    answered = sum(answer.documents for answer in answers.values())
    missed = [documents[number] for number in errors]
    known = sum(number for number in missed if number is not None)
    unknown = round(answered / len(answers) * missed.count(None))
    shards = len(answers) + len(errors)
    return Coverage(shards, len(answers), answered + known + unknown, answered)


def _missing(number: int, error: BaseException) -> Degradation:
    return Degradation(
        DegradationKind.SHARD_MISSING, f"shard {number} did not answer: {told(error)}"
    )


def _merged(answers: Mapping[int, CoarseAnswer], query: CoarseQuery) -> list[CoarseHits]:
    """One a query."""
    return [
        merge_hits([answer.hits[number] for answer in answers.values()], query.count)
        for number in range(len(query.queries))
    ]


def merge_hits(parts: Sequence[CoarseHits], count: int) -> CoarseHits:
    """The best `count` of several shards by upper bound: all bound the same quantity."""
    ids = np.concatenate([part.ids for part in parts])
    estimates = np.concatenate([part.estimates for part in parts])
    half_widths = np.concatenate([part.half_widths for part in parts])
    uppers = estimates + half_widths
    order = np.lexsort((ids, -uppers))
    best, cut = order[:count], order[count:]
    # A bound that is no number is none: NaN stays NaN, here and below.
    rest = _rest_upper_bound(parts, float(uppers[cut].max(initial=-np.inf)))
    return CoarseHits(
        ids[best],
        estimates[best],
        half_widths[best],
        rest,
        sum(part.rest_count for part in parts) + len(cut),
        _rest_half_width(parts, half_widths[cut]),
    )


def best_estimates(hits: CoarseHits, k: int) -> tuple[Ids, Floats]:
    """The k best by estimate, and every further one that ties with the last: ties are settled by
    external id, which nobody knows here.
    """
    ids, scores = merge_top([(hits.ids, hits.estimates)], len(hits.ids))
    kept = k if len(ids) <= k else int(np.searchsorted(-scores, -scores[k - 1], side="right"))
    return ids[:kept], scores[:kept]


def _rest_half_width(parts: Sequence[CoarseHits], cut: Floats) -> float:
    widths = [part.rest_half_width for part in parts if part.rest_count]
    # Of one that does not tell its own, nothing is known of all.
    return 0.0 if 0.0 in widths else float(np.max([cut.max(initial=0.0), *widths]))


def _rest_upper_bound(parts: Sequence[CoarseHits], cut: float) -> float | None:
    bounds = [part.rest_upper_bound for part in parts]
    known = [bound for bound in bounds if bound is not None]
    return None if len(known) < len(bounds) else float(np.max([cut, *known]))
