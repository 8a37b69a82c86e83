"""Asking every shard, keeping what arrived, and saying what did not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    NotFound,
    SpaceMismatch,
)
from nestvec.core.ports import CoarseAnswer, CoarseHits, CoarseQuery, Shards
from nestvec.telemetry.logs import logger

_log = logger()


@dataclass(frozen=True, slots=True)
class ShardsAnswer:
    """hits: one a query, over all shards that answered, best first. matching: how many of their
    documents the filter lets through. refused: what a shard does not serve, and the others do.
    """

    hits: list[CoarseHits]
    coverage: Coverage
    degradations: list[Degradation]
    matching: int
    refused: NotFound | None = None


async def ask_shards(source: Shards, query: CoarseQuery, timeout_s: float) -> ShardsAnswer:
    """Search every shard within `timeout_s`. Missing ones are named, not raised.

    Raises what is wrong with the request itself (a space, a tier): no shard can answer that. When
    no shard answers, raises the first shard's error.
    """
    shards = source.of(query.collection)
    if len(shards) == 1:
        # The common embedded case: no tasks, no merge.
        alone = await shards[0].search(query, timeout_s)
        coverage = Coverage(1, 1, alone.documents, alone.documents)
        return ShardsAnswer(alone.hits, coverage, [], alone.matching)
    tasks = [asyncio.create_task(shard.search(query, timeout_s)) for shard in shards]
    try:
        await asyncio.wait(tasks, timeout=timeout_s)
    finally:
        # The late ones; and all of them when the caller itself goes away.
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    answers: list[CoarseAnswer] = []
    errors: dict[int, BaseException] = {}
    for number, result in enumerate(results):
        if isinstance(result, CoarseAnswer):
            answers.append(result)
        elif isinstance(result, InvalidRequest | SpaceMismatch):
            raise result
        else:
            errors[number] = _named(result)
            if not isinstance(errors[number], NestvecError):
                # A bug of that shard: the others still answer, and the log says where to look.
                _log.error("coarse.shard_failed", shard=number, exc_info=result)
    if not answers:
        raise next(iter(errors.values()))
    return _merged(answers, errors, query, len(shards))


def _named(error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
        return BudgetSpent("coarse")
    return error


def _merged(
    answers: list[CoarseAnswer], errors: dict[int, BaseException], query: CoarseQuery, shards: int
) -> ShardsAnswer:
    documents = sum(answer.documents for answer in answers)
    # Shards hold nearly equal shares (placement by hash), so a silent one counts as an average
    # one: better than leaving its documents out of the total.
    promised = documents if not errors else round(documents / len(answers) * shards)
    degradations = [
        Degradation(
            DegradationKind.SHARD_MISSING,
            f"shard {number} did not answer: "
            f"{error if isinstance(error, NestvecError) else type(error).__name__}",
        )
        for number, error in errors.items()
    ]
    hits = [
        merge_hits([answer.hits[number] for answer in answers], query.count)
        for number in range(len(query.queries))
    ]
    return ShardsAnswer(
        hits,
        Coverage(shards, len(answers), promised, documents),
        degradations,
        sum(answer.matching for answer in answers),
        next((error for error in errors.values() if isinstance(error, NotFound)), None),
    )


def merge_hits(parts: Sequence[CoarseHits], count: int) -> CoarseHits:
    """The best `count` of several shards by upper bound: all bound the same quantity."""
    ids = np.concatenate([part.ids for part in parts])
    estimates = np.concatenate([part.estimates for part in parts])
    half_widths = np.concatenate([part.half_widths for part in parts])
    uppers = estimates + half_widths
    order = np.lexsort((ids, -uppers))
    best, cut = order[:count], order[count:]
    rest = _rest_upper_bound(parts, float(uppers[cut[0]]) if len(cut) else -np.inf)
    return CoarseHits(
        ids[best],
        estimates[best],
        half_widths[best],
        rest,
        sum(part.rest_count for part in parts) + len(cut),
    )


def _rest_upper_bound(parts: Sequence[CoarseHits], cut: float) -> float | None:
    bounds = [part.rest_upper_bound for part in parts]
    known = [bound for bound in bounds if bound is not None]
    return None if len(known) < len(bounds) else max([cut, *known])
