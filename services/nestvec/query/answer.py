"""What a search answers: hits, and everything that must be admitted about them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.collection import Collection
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import NestvecError
from nestvec.core.placement import split_id
from nestvec.core.ports import RerankAnswer, StoredVersion
from nestvec.core.region_merge import UNKNOWN_VERSION
from nestvec.core.regions import RegionOutcome
from nestvec.core.rerank_losses import losses_of
from nestvec.query.plan import Plan


class Hit(NamedTuple):
    """A document and its cosine at the answer's scoring dimension. cross_score: what a
    cross-encoder gave it, where one did. region: where it was found; empty where the collection is
    not shared. internal_id: in this region's store, -1 for one of another's.
    """

    document: Document
    score: float
    cross_score: float | None = None
    region: str = ""
    internal_id: int = -1


@dataclass(slots=True)
class Timings:
    """Milliseconds by stage, in the order they ran."""

    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def resume(self) -> None:
        """Begin again: what has passed since the last mark was no stage of this query's."""
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """End `stage` now."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now


@dataclass(slots=True)
class Answer:
    """Hits, and everything that must be admitted about them. matching: how many documents the
    filter lets through, over the shards that answered. cross_encoder: which one ordered the first
    hits; empty where none did. versions: external id -> the version of that hit, where they were
    asked for; UNKNOWN_VERSION for one that is replaced or deleted by now. regions: each one's
    part, this one first; empty where the collection is not shared.
    """

    collection: Collection
    plan: Plan
    coverage: Coverage
    hits: list[Hit] = field(default_factory=list)
    degradations: list[Degradation] = field(default_factory=list)
    certificate: Certificate = Certificate.NONE
    failure_probability: float = 0.0
    reranked: bool = False
    candidates: int = 0
    fetched: int = 0
    matching: int = 0
    cross_encoder: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    regions: Sequence[RegionOutcome] = ()
    timings: Timings = field(default_factory=Timings)

    @property
    def scoring_dim(self) -> int:
        """What the scores were computed at, degraded or not."""
        if self.reranked or self.plan.rerank:
            # A coarse answer to a reranking plan carries estimates of the full cosine.
            return self.collection.store_dim
        return self.plan.coarse_dim

    def certify_nothing(self) -> None:
        """Take back what was said of the order."""
        self.certificate, self.failure_probability = Certificate.NONE, 0.0

    def degrade(self, kind: DegradationKind, detail: str) -> None:
        """Admit one thing."""
        self.degradations.append(Degradation(kind, detail))


def fill_in(answer: Answer, ids: Ids, documents: Sequence[Document | None], scores: Floats) -> None:
    """The best as hits, as many as the plan reads, ties by external id. What is not known of any is
    left out, and that is admitted.
    """
    best: dict[str, Hit] = {}
    for number, score, document in zip(ids.tolist(), scores.tolist(), documents, strict=True):
        # A replaced document's old row may be found beside its new one: the better hit stays.
        if document is not None and document.id not in best:
            best[document.id] = Hit(document, score, internal_id=number)
    ranked = sorted(best.values(), key=lambda hit: (-hit.score, hit.document.id))
    answer.hits = ranked[: answer.plan.reads]
    if len(best) < len(documents):
        # Whatever would have taken a place that fell free was not looked for.
        answer.certify_nothing()
    lost = sum(document is None for document in documents)
    if lost:
        answer.degrade(
            DegradationKind.PAYLOAD_MISSING,
            f"{lost} hits were left out: their payloads are gone, damaged or out of reach",
        )


def admit_names_only(
    answer: Answer,
    kept: Sequence[Document | None],
    documents: Sequence[Document | None],
    error: NestvecError,
) -> None:
    """kept: those that were at hand whole. error: why the others have an id only."""
    names_only = sum(
        one is not None and whole is None for one, whole in zip(documents, kept, strict=True)
    )
    if names_only:
        answer.degrade(
            DegradationKind.PAYLOAD_MISSING,
            f"{names_only} hits have their id and score only, no text and fields: {error}",
        )


def admit_rerank(answer: Answer, reranked: RerankAnswer) -> None:
    """Take over what a rerank says of itself, and what it lost."""
    answer.reranked = True
    answer.fetched = reranked.fetched
    answer.certificate = reranked.certificate
    answer.failure_probability = reranked.failure_probability
    answer.degradations.extend(losses_of(reranked))
    if answer.coverage.shards_answered < answer.coverage.shards_total and (
        answer.certificate is Certificate.COLLECTION
    ):
        # Nothing is known of the documents of a shard that did not answer.
        answer.certificate = Certificate.WITHIN_CANDIDATES


def version_of(hit: Hit, stands: StoredVersion | None) -> int:
    """Of a hit of this region, by what stands under its name now. UNKNOWN_VERSION for one that was
    replaced or deleted since it was found.
    """
    if stands is None or stands.sequence != split_id(hit.internal_id)[1]:
        return UNKNOWN_VERSION
    return stands.version
