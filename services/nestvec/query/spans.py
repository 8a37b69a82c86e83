"""What the spans of a traced search say: figures and names, nothing of its texts."""

from __future__ import annotations

from collections.abc import Sequence

from nestvec.core.ports import CoarseQuery
from nestvec.query.answer import Answer
from nestvec.query.shards import ShardsAnswer
from nestvec.telemetry import tracing
from nestvec.telemetry.tracing import Attributes, Span


def tell_answers(answers: Sequence[Answer]) -> None:
    """Of the call's own span, as the log line has it. Of a batch: the least coverage, and all that
    was considered and fetched.
    """
    span = tracing.current()
    if span is None or not answers:
        return
    first = answers[0]
    degradations = {one.kind.value for answer in answers for one in answer.degradations}
    span.set(
        {
            "nestvec.collection": first.collection.name,
            "nestvec.generation": first.collection.generation,
            "nestvec.search_class": first.plan.search_class.name,
            "nestvec.coarse_dim": first.plan.coarse_dim,
            "nestvec.scoring_dim": first.scoring_dim,
            "nestvec.queries": len(answers),
            "nestvec.hits": sum(len(one.hits) for one in answers),
            "nestvec.candidates": sum(one.candidates for one in answers),
            "nestvec.fetched": sum(one.fetched for one in answers),
            "nestvec.filtered": first.plan.filter is not None,
            "nestvec.coverage": round(min(one.coverage.fraction for one in answers), 6),
            "nestvec.certificate": first.certificate.value,
            "nestvec.degradations": sorted(degradations),
            "nestvec.cross_encoder": first.cross_encoder,
        }
    )
    if first.regions:
        span.set({"nestvec.regions": [f"{one.name}:{one.state.value}" for one in first.regions]})


def tell_shards(span: Span, query: CoarseQuery, found: ShardsAnswer) -> None:
    """Of the stage `coarse`."""
    span.set(
        {
            "nestvec.coarse_dim": query.coarse_dim,
            "nestvec.count": query.count,
            "nestvec.shards": found.coverage.shards_total,
            "nestvec.shards_answered": found.coverage.shards_answered,
            "nestvec.coverage": round(found.coverage.fraction, 6),
            "nestvec.documents": found.coverage.documents_answered,
            "nestvec.candidates": sum(len(hits.ids) for hits in found.hits),
            "nestvec.matching": found.matching,
        }
    )


def of_rerank(answer: Answer) -> Attributes:
    """Of the stage `rerank`, once it has ended."""
    return {
        "nestvec.candidates": answer.candidates,
        "nestvec.fetched": answer.fetched,
        "nestvec.scoring_dim": answer.scoring_dim,
        "nestvec.certificate": answer.certificate.value,
    }
