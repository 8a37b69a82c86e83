"""Some finished answers are put aside, without their texts, to be searched again exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.ports import CoarseHits
from nestvec.core.sampled import SampledAnswer, TakeSample
from nestvec.query.answer import Answer
from nestvec.query.shards import ShardsAnswer

_CUT = frozenset({DegradationKind.RERANK_PARTIAL, DegradationKind.RERANK_SKIPPED})


@dataclass(frozen=True, slots=True)
class AnswerSampler:
    """share: of the queries that are sampled, 0 to 1, each by itself. take: where they go.
    pass_over: told why one that was drawn cannot be searched again. draw: uniform in [0, 1).
    """

    share: float
    take: TakeSample
    pass_over: Callable[[str], None]
    draw: Callable[[], float] = random.random

    def offer(
        self,
        answer: Answer,
        vector: Floats,
        hits: CoarseHits,
        ids: Ids,
        found: ShardsAnswer,
        began_s: float,
    ) -> None:
        """hits: what all shards together offered. ids: of the answer, best first. began_s:
        monotonic.
        """
        if self.draw() >= self.share:
            return
        plan = answer.plan
        if plan.filter is not None:
            # What it lets through is known to the shards alone.
            self.pass_over("filtered")
            return
        self.take(
            SampledAnswer(
                collection=answer.collection,
                search_class=plan.search_class.name,
                coarse_dim=plan.coarse_dim,
                k=plan.reads,
                count=plan.asks,
                reranked=plan.rerank,
                # A row of a batch keeps all of the batch alive.
                vector=vector.copy(),
                hits=ids,
                candidates=hits.ids,
                missing_shards=found.missing,
                shards=answer.coverage.shards_total,
                cut=any(one.kind in _CUT for one in answer.degradations),
                began_s=began_s,
                certified=answer.certificate is Certificate.COLLECTION,
            )
        )
