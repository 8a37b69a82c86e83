"""Asking the shards why documents were missed, and what their answers come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.placement import shard_of, split_id
from nestvec.core.ports import CoarseSearcher, Shards
from nestvec.core.sampled import SampledAnswer
from nestvec.quality.attribution import Cause, Facts, Miss, cause_of, without_asking
from nestvec.quality.cpu_budget import CpuBudget
from nestvec.quality.exact_pass import Exact
from nestvec.quality.live_recall import Held
from nestvec.telemetry.logs import logger

# Queries that a shard is asked about at once: each of them is two scans.
_QUERIES_AT_ONCE = 32
# Of each query that missed something, so many candidates are looked at as well; where this share of
# them is foreign, they have pushed the right ones out.
_WITNESSES = 8
_FOREIGN_SHARE = 0.25
_log = logger()

# A sample's number, and an internal id.
_Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One sample, and what exact search makes of it."""

    sample: SampledAnswer
    exact: Exact
    held: Held

    def misses(self) -> list[tuple[int, Miss]]:
        """Internal id and what is known of it here, for each that was missed."""
        sample, exact = self.sample, self.exact
        found = []
        for place in self.held.missed.tolist():
            internal = int(exact.ids[place])
            shard = shard_of(split_id(internal)[0], sample.collection.partitions, sample.shards)
            miss = Miss(
                shard in sample.missing_shards,
                sample.certified
                or (sample.reranked and bool((sample.candidates == internal).any())),
                sample.cut,
                float(exact.prefix_scores[place]),
                exact.floor,
            )
            found.append((internal, miss))
        return found


async def explain(
    source: Shards, compared: Sequence[Compared], budget: CpuBudget
) -> list[list[Cause]]:
    """The cause of each miss, for each sample. All are of one collection."""
    misses = [one.misses() for one in compared]
    asked: dict[_Pair, None] = {}
    for number, (one, mine) in enumerate(zip(compared, misses, strict=True)):
        open_ones = [(internal, miss) for internal, miss in mine if without_asking(miss) is None]
        asked |= {(number, internal): None for internal, _ in open_ones}
        if any(not miss.candidate for _, miss in open_ones):
            asked |= {(number, internal): None for internal in _witnesses(one.sample)}
    facts = await _ask(source, compared, list(asked), budget) if asked else {}
    causes = []
    for number, (one, mine) in enumerate(zip(compared, misses, strict=True)):
        foreign = _foreign(facts, number, _witnesses(one.sample))
        causes.append([cause_of(miss, _facts(facts.get((number, i)), foreign)) for i, miss in mine])
    return causes


def _witnesses(sample: SampledAnswer) -> list[int]:
    ids = sample.candidates
    if not len(ids):
        return []
    some = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _WITNESSES)).astype(np.int64))
    return [int(one) for one in ids[some]]


def _foreign(facts: Mapping[_Pair, tuple[Inspection, int]], number: int, ids: list[int]) -> bool:
    """Whether many of these are indexed under codes that are not theirs."""
    told = [facts[number, one] for one in ids if (number, one) in facts]
    indexed = [bool(found.sound[row]) for found, row in told if found.indexed[row]]
    return bool(indexed) and indexed.count(False) >= _FOREIGN_SHARE * len(indexed)


def _facts(told: tuple[Inspection, int] | None, foreign_ahead: bool) -> Facts | None:
    if told is None:
        return None
    found, row = told
    return Facts(
        indexed=bool(found.indexed[row]),
        sound=bool(found.sound[row]),
        offered=bool(found.offered[row]),
        code_score=float(found.code_scores[row]),
        scan_score=float(found.scan_scores[row]),
        cutoff=float(found.cutoffs[row]),
        error=float(found.errors[row]),
        spread=float(found.spreads[row]),
        foreign_ahead=foreign_ahead,
    )


async def _ask(
    source: Shards, compared: Sequence[Compared], pairs: Sequence[_Pair], budget: CpuBudget
) -> dict[_Pair, tuple[Inspection, int]]:
    """Where each pair stands in which answer; those that no shard answered for are not in it."""
    collection = compared[0].sample.collection
    shards = source.of(collection.name)
    groups: dict[tuple[int, int, int, bool], list[_Pair]] = defaultdict(list)
    for number, internal in pairs:
        sample = compared[number].sample
        shard = shard_of(split_id(internal)[0], collection.partitions, max(len(shards), 1))
        groups[shard, sample.coarse_dim, sample.count, sample.reranked].append((number, internal))
    told: dict[_Pair, tuple[Inspection, int]] = {}
    for (shard, dim, count, bounded), group in groups.items():
        if shard >= len(shards):
            continue
        for some in _by_queries(group):
            request = _request(compared, some, dim, count, bounded)
            found = await _inspect(shards[shard], collection, request, budget)
            if found is not None:
                told |= {pair: (found, row) for row, pair in enumerate(some)}
            await budget.pause()
    return told


def _by_queries(pairs: Sequence[_Pair]) -> list[list[_Pair]]:
    numbers = list(dict.fromkeys(number for number, _ in pairs))
    group_of = {number: place // _QUERIES_AT_ONCE for place, number in enumerate(numbers)}
    groups: dict[int, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        groups[group_of[pair[0]]].append(pair)
    return list(groups.values())


def _request(
    compared: Sequence[Compared], pairs: Sequence[_Pair], dim: int, count: int, bounded: bool
) -> InspectionRequest:
    numbers = list(dict.fromkeys(number for number, _ in pairs))
    place_of = {number: place for place, number in enumerate(numbers)}
    return InspectionRequest(
        queries=np.stack([compared[number].sample.vector for number in numbers]),
        coarse_dim=dim,
        count=count,
        bounded=bounded,
        rows=np.array([place_of[number] for number, _ in pairs], np.int64),
        ids=np.array([internal for _, internal in pairs], np.int64),
    )


async def _inspect(
    shard: CoarseSearcher, collection: Collection, request: InspectionRequest, budget: CpuBudget
) -> Inspection | None:
    try:
        found = await budget.metered(shard.inspect(collection, request))
    except NestvecError as error:
        _log.warning("recall.shard_not_asked", collection=collection.name, reason=str(error))
        return None
    if len(found) != len(request.ids):
        _log.error(
            "recall.miscounted", collection=collection.name, asked=len(request.ids), got=len(found)
        )
        return None
    budget.charge(found.cpu_s)
    return found
