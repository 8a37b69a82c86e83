"""One question through this region's rooms: encode -> coarse (every shard) -> rerank (bounded) ->
payloads -> order, ties by external id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from nestvec.core.arrays import Floats, Ids
from nestvec.core.budget import Budget
from nestvec.core.collection import Collection
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    NotCalibrated,
    NotFound,
    Overloaded,
    SpaceMismatch,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.ports import (
    Carrying,
    Catalogue,
    CoarseHits,
    CoarseQuery,
    CollectionEncoders,
    Reranker,
    RerankQuery,
    Shards,
)
from nestvec.core.watermark import Watermark
from nestvec.query.admission import Admission
from nestvec.query.answer import (
    Answer,
    Timings,
    admit_names_only,
    admit_rerank,
    fill_in,
    version_of,
)
from nestvec.query.documents import Documents
from nestvec.query.names import with_names
from nestvec.query.plan import Limits, Plan, Planner, SearchClass, SearchOptions
from nestvec.query.promise import Promise, Promises
from nestvec.query.sampled import AnswerSampler
from nestvec.query.shards import HeldDocuments, ShardsAnswer, ask_shards, best_estimates
from nestvec.query.spans import of_rerank, tell_shards
from nestvec.query.standing import Standing
from nestvec.query.vectors import QueryVectors, Vectors
from nestvec.telemetry.tracing import part

# What the later stages of a query are promised when an earlier one is slow, in seconds.
_KEEP_FOR_RERANK_S = 0.02
_KEEP_FOR_PAYLOAD_S = 0.005
# Of what is left, that a store which does not answer may cost each stage that can do without it.
_STORE_SHARE = 0.75

# Told of plan and vectors as soon as they are known: (collection, plan, (n, store_dim) float32).
Begin = Callable[[Collection, Plan, Floats], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all shards together found. vectors: (n, store_dim) float32, one a query."""

    plan: Plan
    vectors: Floats
    found: ShardsAnswer


class OwnSearch:
    """Knows rooms by their ports only. sampler: is told of a share of the answers. carrying: for
    watermarks of another generation.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        encoders: CollectionEncoders,
        shards: Shards,
        reranker: Reranker,
        documents: Documents,
        classes: dict[str, SearchClass],
        limits: Limits,
        admission: Admission,
        sampler: AnswerSampler | None,
        carrying: Carrying | None,
    ) -> None:
        self._catalogue = catalogue
        self._vectors = QueryVectors(encoders, limits)
        self.shards = shards
        self._reranker = reranker
        self._documents = documents
        self._planner = Planner(classes, limits)
        self._admission = admission
        self._held = HeldDocuments()
        self._promises = Promises(limits.max_candidates)
        self._standing = Standing(catalogue, shards)
        self.sampler = sampler
        self._carrying = carrying

    async def answer(
        self,
        collection_name: str,
        queries: Sequence[str] | Vectors,
        options: SearchOptions,
        budget: Budget,
        begin: Begin | None = None,
    ) -> list[Answer]:
        """One answer a query, in order: `plan.reads` hits each. begin: given where other regions
        may answer too; then it is for the caller to say whether what answered is enough.
        """
        began_s = time.monotonic()
        timings = Timings()
        collection = await self._catalogue.get(collection_name)
        asked = await self._ask(collection, queries, options, budget, timings, begin)
        if not isinstance(asked, _Asked) or asked.found.refused is not None:
            # Another process has dropped it, or made it anew, or changed its tiers: what is at hand
            # may be old. Where it is not, asking the same again would change nothing.
            newest = await self._newest(collection_name, collection, budget)
            if newest != collection:
                collection = newest
                asked = await self._ask(collection, queries, options, budget, timings, begin)
        left = _without_tier(collection, options, _refused(asked))
        while left is not None:
            # It is being built: the collection has it already, and not every shard yet.
            again = await self._ask(left, queries, options, budget, timings, begin)
            asked = again if isinstance(again, _Asked) else asked
            left = _without_tier(left, options, _refused(again))
        if not isinstance(asked, _Asked):
            raise asked
        if begin is None:
            asked.found.coverage.require(asked.plan.min_coverage)
        # Another generation, or a caller's own knobs: no figure of what the class serves.
        live = collection_name == collection.name and not options.knobs
        answers = []
        for vector, hits in zip(asked.vectors, asked.found.hits, strict=True):
            answer = _begun(collection, asked, hits, timings)
            ids = await self._complete(answer, vector, hits, options, budget)
            if self.sampler is not None and live:
                self.sampler.offer(answer, vector, hits, ids, asked.found, began_s)
            answers.append(answer)
        if options.versions:
            await self._add_versions(answers, budget)
        return answers

    async def _newest(self, name: str, collection: Collection, budget: Budget) -> Collection:
        """What the store lists now; what is at hand where it cannot be asked."""
        self._catalogue.forget(name)
        try:
            async with asyncio.timeout(_STORE_SHARE * budget.stage_s("catalogue")):
                return await self._catalogue.get(name)
        except (StoreUnavailable, TimeoutError):
            return collection

    async def _ask(
        self,
        collection: Collection,
        queries: Sequence[str] | Vectors,
        options: SearchOptions,
        budget: Budget,
        timings: Timings,
        begin: Begin | None,
    ) -> _Asked | NotFound | InvalidRequest | SpaceMismatch | NotCalibrated:
        """The first two stages. NotFound where no shard serves what was planned; the others where
        the request does not fit this record of the collection.
        """
        try:
            plan = self._planner.plan(options, collection)
            with part("encode"):
                vectors = await self._vectors.of(collection, queries, budget)
            if plan.promise is not None:
                plan = await self._promised(plan, plan.promise, collection, len(vectors), budget)
        except (InvalidRequest, SpaceMismatch, NotCalibrated) as error:
            return error
        timings.mark("encode")
        if begin is not None:
            await begin(collection, plan, vectors)
        query = CoarseQuery(
            collection=collection.name,
            generation=collection.generation,
            fingerprint=collection.space.fingerprint,
            queries=vectors,
            coarse_dim=plan.coarse_dim,
            count=plan.asks,
            bound_z=plan.bound_z if plan.rerank else None,
            alone=self._admission.under_way == 1,
            filter=plan.filter,
            watermark=await self._watermark(options.watermark, collection, budget),
            certified_k=plan.certified_k,
        )
        keep_s = _KEEP_FOR_PAYLOAD_S + (_KEEP_FOR_RERANK_S if plan.rerank else 0.0)
        try:
            with part("coarse") as span:
                found = await ask_shards(
                    self.shards,
                    query,
                    budget.stage_s("coarse", keep_s),
                    self._held,
                    collection.partitions,
                )
                if span is not None:
                    tell_shards(span, query, found)
        except NotFound as error:
            return error
        timings.mark("coarse")
        return _Asked(plan, vectors, found)

    async def _watermark(
        self, watermark: Watermark | None, collection: Collection, budget: Budget
    ) -> Watermark | None:
        """In terms of the generation that is asked, and of this region. Raises BudgetSpent while it
        is not carried over to that one, or has not come from another region.
        """
        if watermark is None or self._carrying is None:
            return watermark
        return await self._carrying.translated(watermark, collection, budget.stage_s("carrying"))

    async def _promised(
        self, plan: Plan, promise: Promise, collection: Collection, queries: int, budget: Budget
    ) -> Plan:
        """The plan that was measured to keep the promise in what is left of the time. Raises
        NotCalibrated.
        """
        held = await self._standing.of(collection, budget.left_s())
        left_s = budget.stage_s("coarse", _KEEP_FOR_PAYLOAD_S)
        kept = self._promises.keep(
            promise,
            collection,
            held,
            plan.search_class.name,
            plan.reads,
            left_s * 1e3 / queries,
        )
        return plan.by(kept)

    async def _complete(
        self,
        answer: Answer,
        vector: Floats,
        hits: CoarseHits,
        options: SearchOptions,
        budget: Budget,
    ) -> Ids:
        """Fill the answer in. Returns the internal ids that were found for it, best first."""
        if answer.plan.rerank:
            with part("rerank") as span:
                ids, scores = await self._rerank(answer, vector, hits, options, budget)
                if span is not None:
                    span.set(of_rerank(answer))
            answer.timings.mark("rerank")
        else:
            ids, scores = hits.ids, hits.estimates
        with part("payload"):
            await self._add_documents(answer, ids, scores, budget)
        answer.timings.mark("payload")
        return ids

    async def _rerank(
        self,
        answer: Answer,
        vector: Floats,
        hits: CoarseHits,
        options: SearchOptions,
        budget: Budget,
    ) -> tuple[Ids, Floats]:
        query = RerankQuery(
            vector, hits, answer.plan.reads, answer.plan.bound_z, options.exhaustive
        )
        timeout_s = budget.stage_s("rerank", _KEEP_FOR_PAYLOAD_S)
        if answer.plan.search_class.degrade:
            timeout_s *= _STORE_SHARE
        try:
            reranked = await self._reranker.rerank(answer.collection, query, timeout_s)
        except (StoreUnavailable, WorkerUnavailable, BudgetSpent, Overloaded) as error:
            if not answer.plan.search_class.degrade:
                raise
            answer.degrade(
                DegradationKind.RERANK_SKIPPED, f"hits are in the order of estimates: {error}"
            )
            return best_estimates(hits, answer.plan.reads)
        admit_rerank(answer, reranked)
        return reranked.ids, reranked.scores

    async def _add_documents(
        self, answer: Answer, ids: Ids, scores: Floats, budget: Budget
    ) -> None:
        if not len(ids):
            return
        collection = answer.collection
        degrade = answer.plan.search_class.degrade
        try:
            share = _STORE_SHARE if degrade else 1.0
            documents = await self._documents.read(collection, ids, budget, share)
        except (StoreUnavailable, BudgetSpent, Overloaded) as error:
            if not degrade:
                raise
            kept = self._documents.kept(collection, ids)
            timeout_s = budget.stage_s("names")
            documents = await with_names(self.shards, collection, ids, kept, timeout_s)
            admit_names_only(answer, kept, documents, error)
        fill_in(answer, ids, documents, scores)

    async def _add_versions(self, answers: Sequence[Answer], budget: Budget) -> None:
        """For whoever puts copies of several regions together: where the store does not say, their
        word counts.
        """
        names = sorted({hit.document.id for one in answers for hit in one.hits})
        if not names:
            return
        try:
            stands = await self._documents.versions(
                answers[0].collection, names, budget.stage_s("versions")
            )
        except (StoreUnavailable, BudgetSpent):
            stands = {}
        for answer in answers:
            answer.versions = {
                hit.document.id: version_of(hit, stands.get(hit.document.id)) for hit in answer.hits
            }


def _begun(collection: Collection, asked: _Asked, hits: CoarseHits, timings: Timings) -> Answer:
    """With what is known before the rerank. timings: of the stages that a batch shares."""
    plan, found = asked.plan, asked.found
    answer = Answer(
        collection, plan, found.coverage, candidates=len(hits.ids), matching=found.matching
    )
    answer.timings.stages |= timings.stages
    answer.degradations.extend(found.degradations)
    if plan.promise is not None and plan.promise.missed:
        answer.degrade(DegradationKind.TARGET_MISSED, plan.promise.missed)
    return answer


def _refused(asked: _Asked | NestvecError) -> NestvecError | None:
    """What some shard, or all of them, do not serve."""
    return asked.found.refused if isinstance(asked, _Asked) else asked


def _without_tier(
    collection: Collection, options: SearchOptions, refused: NestvecError | None
) -> Collection | None:
    """The collection without the tier that a shard does not serve; None where it was not that, or
    nothing else may be searched.
    """
    if not isinstance(refused, NotFound) or refused.kind != "tier":
        return None
    tiers = tuple(dim for dim in collection.tiers if str(dim) != refused.name)
    if options.coarse_dim is not None or not tiers or tiers == collection.tiers:
        return None
    return replace(collection, tiers=tiers)
