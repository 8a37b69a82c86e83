"""The client's part of a migration: the golden set through both generations, and waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nestvec.client import NestvecClient
from nestvec.core.errors import ConfigError
from nestvec.core.measured import LossBudget
from nestvec.core.migration import (
    HELD,
    Gate,
    GateKind,
    MigrationStatus,
    Phase,
    generation_name,
)
from nestvec.quality.golden import GoldenSet
from nestvec.quality.judged import judge

_AT_ONCE = 64
_HITS = 10
_LOOK_S = 0.3
_ROUNDING = 1e-9
# Where nothing more happens by itself.
_STILL = frozenset(
    {Phase.SWITCHED, Phase.ROLLED_BACK, Phase.FINISHED, Phase.ABORTED, Phase.REFUSED}
)


@dataclass(frozen=True, slots=True)
class Judged:
    """Means over the queries of a golden set."""

    ndcg: float
    recall: float


def golden_gate(
    client: NestvecClient,
    status: MigrationStatus,
    golden: GoldenSet,
    budget: LossBudget,
    search_class: str = "search",
) -> Gate:
    """Every query of the set, asked of both generations as any caller asks, and judged. budget: how
    much less than the old one the new one may have. Raises ConfigError where the collection does
    not hold what the set judges.
    """
    assert status.source is not None
    assert status.target is not None
    _require_held(client, status.collection, golden)
    old, new = (
        _judged(client, generation_name(status.collection, one.generation), golden, search_class)
        for one in (status.source, status.target)
    )
    problems = [
        f"loses {lost:.4f} of {name}, and the budget is {most:g}"
        for name, lost, most in (
            ("nDCG@10", old.ndcg - new.ndcg, budget.ndcg),
            ("recall@10", old.recall - new.recall, budget.recall),
        )
        if lost > most + _ROUNDING
    ]
    said = (
        f"{golden.name}, {len(golden.queries):,} queries: nDCG@10 {old.ndcg:.4f} -> "
        f"{new.ndcg:.4f}, recall@10 {old.recall:.4f} -> {new.recall:.4f}"
    )
    return Gate(GateKind.GOLDEN, not problems, "; ".join([said, *problems]))


def _require_held(client: NestvecClient, collection: str, golden: GoldenSet) -> None:
    judged = list(
        dict.fromkeys(
            document
            for scores in golden.judgments.values()
            for document, score in scores.items()
            if score > 0
        )
    )
    missing: list[str] = []
    for start in range(0, len(judged), _AT_ONCE):
        missing += client.get(collection, judged[start : start + _AT_ONCE]).missing_ids
    if missing:
        raise ConfigError(
            f"collection {collection!r} does not hold {len(missing):,} of the {len(judged):,} "
            f"documents that {golden.name} judges right, the first is {missing[0]!r}; index the "
            f"golden set's documents into it, or take a set of its own documents"
        )


def _judged(client: NestvecClient, name: str, golden: GoldenSet, search_class: str) -> Judged:
    ids, texts = list(golden.queries), list(golden.queries.values())
    rankings: dict[str, Sequence[str]] = {}
    for start in range(0, len(ids), _AT_ONCE):
        results = client.search_batch(
            name,
            texts[start : start + _AT_ONCE],
            search_class=search_class,
            k=_HITS,
            min_coverage=1.0,
            ids_only=True,
        )
        for query, result in zip(ids[start : start + _AT_ONCE], results, strict=True):
            rankings[query] = [hit.id for hit in result.hits]
    values = judge(rankings, golden.judgments, ("ndcg_at_10", "recall_at_10"))
    return Judged(float(values["ndcg_at_10"].mean()), float(values["recall_at_10"].mean()))


def watch(
    client: NestvecClient,
    collection: str,
    tell: Callable[[MigrationStatus], None],
    measure: Callable[[MigrationStatus], Gate] | None = None,
    until: frozenset[Phase] = _STILL,
    look_s: float = _LOOK_S,
) -> MigrationStatus:
    """Tell each state, measure the golden gate when it is time, and return when nothing more comes
    by itself: it has switched or ended, is held by wish, or a gate is closed. What else is said of
    one that is ready passes.
    """
    measured = False
    while True:
        status = client.migration(collection)
        tell(status)
        if status.phase in until or (status.phase is Phase.READY and status.said == HELD):
            return status
        if status.phase is Phase.GATING:
            if measure is not None and not measured:
                client.record_gate(collection, measure(status))
                measured = True
                continue
            if closed(status):
                return status
        time.sleep(look_s)


def closed(status: MigrationStatus) -> list[Gate]:
    """Gates that were measured and did not pass."""
    return [one for one in status.gates if not one.passed]
