"""The query application: one question through the rooms, and an honest account of the answer.

encode -> coarse (every shard) -> rerank (bounded) -> payloads -> order, ties by external id
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.budget import Budget
from nestvec.core.certificate import Certificate
from nestvec.core.collection import Collection
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.document import Document, check_text, payload_from_bytes
from nestvec.core.errors import (
    BudgetSpent,
    CorruptVector,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.merge import merge_top
from nestvec.core.ports import (
    Catalogue,
    CoarseHits,
    CoarseQuery,
    CoarseSearcher,
    Encoder,
    RerankAnswer,
    Reranker,
    RerankQuery,
    VectorStore,
)
from nestvec.core.space import Role
from nestvec.query.plan import Limits, Plan, SearchClass, SearchOptions, make_plan
from nestvec.query.shards import ask_shards

# What the later stages of a query are promised when an earlier one is slow, in seconds.
_KEEP_FOR_RERANK_S = 0.02
_KEEP_FOR_PAYLOAD_S = 0.005
BOUND_Z = 5.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A document and its cosine at the answer's scoring dimension."""

    document: Document
    score: float


@dataclass(slots=True)
class Timings:
    """Milliseconds by stage, in the order they ran."""

    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def mark(self, stage: str) -> None:
        """End `stage` now."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now


@dataclass(slots=True)
class Answer:
    """Hits, and everything that must be admitted about them."""

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
    timings: Timings = field(default_factory=Timings)

    @property
    def scoring_dim(self) -> int:
        """What the scores were computed at, degraded or not."""
        if self.reranked or self.plan.rerank:
            # A coarse answer to a reranking plan carries estimates of the full cosine.
            return self.collection.store_dim
        return self.plan.coarse_dim

    def degrade(self, kind: DegradationKind, detail: str) -> None:
        """Admit one thing."""
        self.degradations.append(Degradation(kind, detail))


@dataclass(frozen=True, slots=True)
class Vectors:
    """Query vectors that the caller encoded. values: (n, dim) float32."""

    values: Floats
    fingerprint: str


class QueryApp:
    """Search and reading. Knows rooms by their ports only."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoder: Encoder,
        shards: Sequence[CoarseSearcher],
        reranker: Reranker,
        store: VectorStore,
        classes: Sequence[SearchClass],
        limits: Limits,
    ) -> None:
        self._catalogue = catalogue
        self._encoder = encoder
        self._shards = shards
        self._reranker = reranker
        self._store = store
        self.classes = {one.name: one for one in classes}
        self.limits = limits

    async def search(
        self,
        collection_name: str,
        queries: Sequence[str] | Vectors,
        options: SearchOptions,
        timeout_s: float,
    ) -> list[Answer]:
        """One answer a query, in order. All of one collection, class and deadline."""
        budget = Budget.of(timeout_s, time.monotonic)
        collection = await self._catalogue.get(collection_name)
        plan = make_plan(options, self.classes, self.limits, collection)
        timings = Timings()
        vectors = await self._vectors(collection, queries, budget)
        timings.mark("encode")
        query = CoarseQuery(
            collection=collection.name,
            generation=collection.generation,
            fingerprint=collection.space.fingerprint,
            queries=vectors,
            coarse_dim=plan.coarse_dim,
            count=plan.candidates if plan.rerank else plan.k,
            bound_z=BOUND_Z if plan.rerank else None,
        )
        keep_s = _KEEP_FOR_PAYLOAD_S + (_KEEP_FOR_RERANK_S if plan.rerank else 0.0)
        try:
            found = await ask_shards(self._shards, query, budget.stage_s("coarse", keep_s))
        except NotFound:
            # Dropped, or dropped and made anew, by another process: what is at hand is old.
            self._catalogue.forget(collection_name)
            raise
        found.coverage.require(plan.min_coverage)
        timings.mark("coarse")
        answers = []
        for vector, hits in zip(query.queries, found.hits, strict=True):
            answer = Answer(collection, plan, found.coverage, candidates=len(hits.ids))
            answer.timings.stages |= timings.stages
            answer.degradations.extend(found.degradations)
            await self._complete(answer, vector, hits, options, budget)
            answers.append(answer)
        return answers

    async def _vectors(
        self, collection: Collection, queries: Sequence[str] | Vectors, budget: Budget
    ) -> Floats:
        """What the shards are asked: (n, store_dim) float32, unit."""
        if isinstance(queries, Vectors):
            self._check_count(len(queries.values), "vectors")
            collection.space.require_same(queries.fingerprint, "the query vector")
            return _accepted(collection, queries.values)
        self._check_count(len(queries), "texts")
        for number, text in enumerate(queries):
            field_name = "query.text" if len(queries) == 1 else f"texts.{number}"
            check_text(text, self.limits.max_text_bytes, field_name)
        space = self._encoder.space
        collection.space.require_same(
            space.fingerprint,
            f"this server's model {space.model} (collection {collection.name!r} was made with "
            f"{collection.space.model}: serve that one, or search with its vectors)",
        )
        vectors = await self._encoder.encode(queries, Role.QUERY, budget.stage_s("encode"))
        return collection.project(vectors)

    def _check_count(self, count: int, field_name: str) -> None:
        if not 1 <= count <= self.limits.max_batch:
            raise InvalidRequest(
                field_name,
                f"{count} queries, expected 1 to {self.limits.max_batch}; send more in further "
                f"calls",
            )

    async def _complete(
        self,
        answer: Answer,
        vector: Floats,
        hits: CoarseHits,
        options: SearchOptions,
        budget: Budget,
    ) -> None:
        if answer.plan.rerank:
            ids, scores = await self._rerank(answer, vector, hits, options, budget)
            answer.timings.mark("rerank")
        else:
            ids, scores = hits.ids, hits.estimates
        await self._add_payloads(answer, ids, scores, budget)
        answer.timings.mark("payload")

    async def _rerank(
        self,
        answer: Answer,
        vector: Floats,
        hits: CoarseHits,
        options: SearchOptions,
        budget: Budget,
    ) -> tuple[Ids, Floats]:
        query = RerankQuery(vector, hits, answer.plan.k, BOUND_Z, options.exhaustive)
        try:
            reranked = await self._reranker.rerank(
                answer.collection, query, budget.stage_s("rerank", _KEEP_FOR_PAYLOAD_S)
            )
        except (StoreUnavailable, WorkerUnavailable, BudgetSpent) as error:
            if not answer.plan.search_class.degrade:
                raise
            answer.degrade(
                DegradationKind.RERANK_SKIPPED, f"hits are in the order of estimates: {error}"
            )
            ids, scores = merge_top([(hits.ids, hits.estimates)], answer.plan.k)
            return ids, scores
        _admit_rerank(answer, reranked)
        return reranked.ids, reranked.scores

    async def _add_payloads(self, answer: Answer, ids: Ids, scores: Floats, budget: Budget) -> None:
        if not len(ids):
            return
        try:
            async with asyncio.timeout(budget.stage_s("payload")):
                values = await self._store.payloads(answer.collection, ids)
        except TimeoutError:
            raise BudgetSpent("payload") from None
        best: dict[str, Hit] = {}
        lost = 0
        for number, score, value in zip(ids, scores, values, strict=True):
            try:
                if value is None:
                    raise CorruptVector(str(number), "its payload is gone")
                document = payload_from_bytes(value, str(number))
            except CorruptVector:
                lost += 1
                continue
            # A replaced document's old row may be found beside its new one: the better hit stays.
            if document.id not in best:
                best[document.id] = Hit(document, float(score))
        ranked = sorted(best.values(), key=lambda hit: (-hit.score, hit.document.id))
        answer.hits = ranked[: answer.plan.k]
        if lost:
            answer.degrade(
                DegradationKind.PAYLOAD_MISSING,
                f"{lost} hits were left out: their payloads are gone or damaged",
            )

    async def get_documents(
        self, collection_name: str, ids: Sequence[str], with_vectors: bool, timeout_s: float
    ) -> tuple[Collection, list[tuple[Document, Floats | None]], list[str]]:
        """(collection, [(document, (store_dim,) float32 or None)], missing ids), in order.

        Raises CorruptVector naming the document when what is stored is not what was written.
        """
        if not 1 <= len(ids) <= self.limits.max_batch * 4:
            raise InvalidRequest("ids", f"{len(ids)}, expected 1 to {self.limits.max_batch * 4}")
        collection = await self._catalogue.get(collection_name)
        try:
            async with asyncio.timeout(timeout_s):
                internal = await self._store.find(collection, ids)
                known = np.flatnonzero(internal >= 0)
                payloads = await self._store.payloads(collection, internal[known])
                vectors: list[bytes | None] = [None] * len(known)
                if with_vectors:
                    vectors = await self._store.vectors(collection, internal[known])
        except TimeoutError:
            raise BudgetSpent("get") from None
        found: list[tuple[Document, Floats | None]] = []
        missing = [ids[int(number)] for number in np.flatnonzero(internal < 0)]
        for number, payload, vector in zip(known, payloads, vectors, strict=True):
            name = ids[int(number)]
            if payload is None:
                # Deleted between the two reads.
                missing.append(name)
                continue
            document = payload_from_bytes(payload, name)
            decoded = None
            if with_vectors:
                decoded = collection.codec.decode_one(vector or b"", name)
            found.append((document, decoded))
        return collection, found, missing


def _accepted(collection: Collection, vectors: Floats) -> Floats:
    """A caller's vectors, checked and cut to (n, store_dim). Of several, says which is bad."""
    try:
        return collection.accept(vectors, "query.vector")
    except InvalidRequest:
        for number in range(len(vectors) if len(vectors) > 1 else 0):
            collection.accept(vectors[number : number + 1], f"vectors.{number}")
        raise


def _admit_rerank(answer: Answer, reranked: RerankAnswer) -> None:
    answer.reranked = True
    answer.fetched = reranked.fetched
    answer.certificate = reranked.certificate
    answer.failure_probability = reranked.failure_probability
    if reranked.certificate is Certificate.ESTIMATED:
        answer.degrade(
            DegradationKind.RERANK_PARTIAL,
            f"{reranked.fetched} of {reranked.considered} candidates were fetched before time ran "
            f"out; allow more time or ask for fewer candidates",
        )
    if len(reranked.missing):
        answer.degrade(
            DegradationKind.VECTOR_MISSING,
            f"{len(reranked.missing)} candidates had no stored vector and were left out",
        )
    if len(reranked.corrupt):
        answer.degrade(
            DegradationKind.VECTOR_CORRUPT,
            f"{len(reranked.corrupt)} candidates had a damaged vector and were left out; "
            f"ingest them again",
        )
    if answer.coverage.shards_answered < answer.coverage.shards_total and (
        answer.certificate is Certificate.COLLECTION
    ):
        # Nothing is known of the documents of a shard that did not answer.
        answer.certificate = Certificate.WITHIN_CANDIDATES
