"""What a copy of prefixes has found, as one region's answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.coverage import Degradation, DegradationKind
from nestvec.core.home_rerank import Sent
from nestvec.core.ports import CoarseHits, PrefixAnswer, RegionAnswer, RegionHits, RegionQuery
from nestvec.query.shards import ShardsAnswer, best_estimates

Names = dict[int, str]


@dataclass(frozen=True, slots=True)
class FoundInCopy:
    """sent: of each query, what its home shall put in order; none where no rerank was asked for.
    names: internal id -> external id, of all that is sent or may be a hit.
    """

    copy: Collection
    asked: ShardsAnswer
    sent: Sequence[Sent]
    names: Names


def wanted_ids(asked: ShardsAnswer, sent: Sequence[Sent]) -> Ids:
    """Of which names are needed, ascending. The k best estimates are among what is sent."""
    columns = [one.hits.ids for one in sent] or [hits.ids for hits in asked.hits]
    return np.unique(np.concatenate(columns))


def named(sent: Sent, names: Names) -> tuple[CoarseHits, list[str]]:
    """What is sent, by external id: without those of which nobody knows the name, each document
    once. A replaced one's old row may be found beside its new one: the better bound counts.
    """
    rows: dict[str, int] = {}
    for row, number in enumerate(sent.hits.ids.tolist()):
        name = names.get(number)
        if name is not None:
            rows.setdefault(name, row)
    hits, places = sent.hits, np.array(list(rows.values()), np.int64)
    kept = CoarseHits(hits.ids[places], hits.estimates[places], hits.half_widths[places], None)
    return kept, list(rows)


def best(found: FoundInCopy, hits: CoarseHits, k: int) -> RegionHits:
    """The k best by estimate, ties by external id."""
    scored: dict[str, float] = {}
    ids, scores = best_estimates(hits, k)
    for number, score in zip(ids.tolist(), scores.tolist(), strict=True):
        name = found.names.get(number)
        if name is not None:
            scored.setdefault(name, score)
    ranked = sorted(scored.items(), key=lambda one: (-one[1], one[0]))[:k]
    return RegionHits(
        ids=[name for name, _ in ranked],
        scores=np.array([score for _, score in ranked], np.float32),
        degradations=tuple(found.asked.degradations),
        candidates=len(hits.ids),
        matching=found.asked.matching,
    )


def in_order_of_estimates(
    found: FoundInCopy,
    hits: CoarseHits,
    query: RegionQuery,
    reason: str,
    age_s: float | None,
) -> RegionHits:
    """The k best by estimate; where a rerank was wanted, why there was none is admitted. age_s: of
    the copy; None where it was never whole.
    """
    first = best(found, hits, query.k)
    if not query.rerank:
        return first
    age = "not whole yet" if age_s is None else f"up to {age_s:.3g} s old"
    admitted = Degradation(
        DegradationKind.RERANK_SKIPPED,
        f"hits are in the order of estimates, from the copy of its prefixes here ({age}): {reason}",
    )
    return replace(first, degradations=(*first.degradations, admitted))


def answer_of(
    region: str,
    query: RegionQuery,
    found: FoundInCopy,
    hits: Sequence[RegionHits],
    began_s: float,
    said: str = "",
) -> PrefixAnswer:
    """hits: one a query. began_s: monotonic. said: see ports.PrefixAnswer."""
    copy = found.copy
    assert copy.prefixes is not None
    answer = RegionAnswer(
        region=region,
        generation=copy.prefixes.generation,
        fingerprint=copy.space.fingerprint,
        scoring_dim=copy.store_dim if query.rerank else copy.tiers[0],
        coarse_dim=copy.tiers[0],
        coverage=found.asked.coverage,
        hits=hits,
        seconds=time.monotonic() - began_s,
    )
    return PrefixAnswer(answer, said)
