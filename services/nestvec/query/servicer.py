"""QueryService over QueryApp: messages in, messages out, the tier on every log line and counter."""

from __future__ import annotations

import asyncio
from functools import cache, lru_cache
from typing import Any

import grpc
from prometheus_client import Counter, Histogram

from nestvec.core.certificate import Certificate
from nestvec.core.codec import floats_from_bytes, floats_to_bytes
from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.errors import InvalidRequest, NestvecError
from nestvec.core.regions import RegionPolicy
from nestvec.core.watermark import Watermark
from nestvec.query.admission import class_label
from nestvec.query.answer import Answer
from nestvec.query.app import QueryApp, Vectors
from nestvec.query.documents import Documents
from nestvec.query.plan import SearchOptions
from nestvec.query.promise import Promise
from nestvec.query.timing import timed
from nestvec.rpc.field_wire import fields_to_wire, filter_from_wire
from nestvec.rpc.region_outcome_wire import outcome_to_wire, policy_from_wire
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.rpc.status import code_of
from nestvec.rpc.wire import (
    certificate_to_wire,
    coverage_to_wire,
    degradation_to_wire,
    document_to_wire,
)
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger
from nestvec.v1 import common_pb2, query_pb2, query_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
# Bytes. Longer ones have a long filter, or a watermark that will not come again.
_SHORT_OPTIONS = 512
_log = logger()


class QueryServicer(query_pb2_grpc.QueryServiceServicer):
    """Searches and reads. cap_s: the deadline of a call that brings none, and the longest one."""

    def __init__(self, app: QueryApp, documents: Documents, cap_s: float) -> None:
        self._app = app
        self._documents = documents
        self._cap_s = cap_s

    async def Search(
        self, request: query_pb2.SearchRequest, context: Context
    ) -> query_pb2.SearchResponse:
        """See query.proto."""
        kind = request.WhichOneof("query")
        if kind is None:
            raise InvalidRequest("query", "neither text nor vector; give one")
        queries = [request.text] if kind == "text" else _vector(request.vector)
        answers = await self._answers(request.collection, queries, request.options, context)
        return _respond(answers[0], request.options)

    async def BatchSearch(
        self, request: query_pb2.BatchSearchRequest, context: Context
    ) -> query_pb2.BatchSearchResponse:
        """See query.proto."""
        has_vectors = request.HasField("vectors")
        if has_vectors == bool(request.texts):
            raise InvalidRequest("texts", "give either texts or vectors, not both or neither")
        queries = _vectors(request.vectors) if has_vectors else list(request.texts)
        answers = await self._answers(request.collection, queries, request.options, context)
        responses = [_respond(answer, request.options) for answer in answers]
        return query_pb2.BatchSearchResponse(responses=responses)

    async def _answers(
        self,
        collection: str,
        queries: list[str] | Vectors,
        options: query_pb2.SearchOptions,
        context: Context,
    ) -> list[Answer]:
        label = class_label(options.search_class, self._app.classes)
        with timed(label):
            try:
                timeout_s = time_left_s(context, self._cap_s)
                return await self._app.search(collection, queries, _options(options), timeout_s)
            except NestvecError as error:
                self._tell_failed(label, options, error)
                raise

    def _tell_failed(
        self, label: str, options: query_pb2.SearchOptions, error: NestvecError
    ) -> None:
        """The tier that was asked for, or the class's; 0 for a class that does not exist."""
        known = self._app.classes.get(label)
        coarse_dim = 0 if known is None else known.coarse_dim
        if options.HasField("coarse_dim"):
            coarse_dim = options.coarse_dim
        _log.info(
            "search.failed",
            search_class=label,
            coarse_dim=coarse_dim,
            status=code_of(error).name,
        )

    async def GetDocuments(
        self,
        request: query_pb2.GetDocumentsRequest,
        context: Context,
    ) -> query_pb2.GetDocumentsResponse:
        """See query.proto."""
        collection, found, missing = await self._documents.get(
            request.collection,
            list(request.ids),
            request.include_vectors,
            time_left_s(context, self._cap_s),
        )
        documents = [
            query_pb2.StoredDocument(
                document=document_to_wire(document),
                vector=b"" if vector is None else floats_to_bytes(vector),
            )
            for document, vector in found
        ]
        space = common_pb2.SpaceRef(
            fingerprint=collection.space.fingerprint, dim=collection.store_dim
        )
        return query_pb2.GetDocumentsResponse(documents=documents, missing_ids=missing, space=space)

    async def ListDocumentIds(
        self, request: query_pb2.ListDocumentIdsRequest, context: Context
    ) -> query_pb2.ListDocumentIdsResponse:
        """See query.proto."""
        ids, following = await self._documents.ids(
            request.collection, request.page_token, time_left_s(context, self._cap_s)
        )
        return query_pb2.ListDocumentIdsResponse(ids=ids, next_page_token=following)


def mount(app: QueryApp, documents: Documents, cap_s: float) -> Mounted:
    """For a server."""
    return Mounted(
        query_pb2.DESCRIPTOR,
        "QueryService",
        QueryServicer(app, documents, cap_s),
        query_pb2_grpc.add_QueryServiceServicer_to_server,
    )


def _vector(message: query_pb2.QueryVector) -> Vectors:
    vectors = _vectors(message)
    if len(vectors.values) != 1:
        raise InvalidRequest(
            "query.vector.values",
            f"{len(message.values)} bytes are {len(vectors.values)} vectors of "
            f"{message.space.dim} dimensions; Search takes one, BatchSearch several",
        )
    return vectors


def _vectors(message: query_pb2.QueryVector) -> Vectors:
    if not message.space.fingerprint:
        raise InvalidRequest(
            "query.vector.space",
            "a vector must name its space; DescribeCollection tells the collection's",
        )
    if message.space.dim < 1:
        raise InvalidRequest(
            "query.vector.space.dim",
            f"{message.space.dim}; expected how many values each vector has",
        )
    values = floats_from_bytes(message.values, message.space.dim, "query.vector.values")
    return Vectors(values, message.space.fingerprint)


def _options(message: query_pb2.SearchOptions) -> SearchOptions:
    """A lane of callers asks with the same options again and again, so short ones are kept."""
    data = message.SerializeToString()
    return _kept_options(data) if len(data) <= _SHORT_OPTIONS else _read_options(message)


@lru_cache(maxsize=256)
def _kept_options(data: bytes) -> SearchOptions:
    return _read_options(query_pb2.SearchOptions.FromString(data))


def _read_options(message: query_pb2.SearchOptions) -> SearchOptions:
    def given(name: str) -> Any:
        return getattr(message, name) if message.HasField(name) else None  # type: ignore[arg-type]

    return SearchOptions(
        search_class=message.search_class,
        k=given("k"),
        coarse_dim=given("coarse_dim"),
        candidates=given("candidates"),
        rerank=given("rerank"),
        min_coverage=given("min_coverage"),
        exhaustive=message.exhaustive_rerank,
        cross_encode=given("cross_encode"),
        filter=filter_from_wire(message.filter) if message.HasField("filter") else None,
        watermark=(
            Watermark.from_bytes(message.watermark, "options.watermark")
            if message.watermark
            else None
        ),
        target_recall=given("target_recall"),
        bound_z=given("bound_z"),
        regions=_policy(message),
        max_staleness_s=given("max_staleness_s"),
        ids_only=message.ids_only,
    )


def _policy(message: query_pb2.SearchOptions) -> RegionPolicy | None:
    try:
        return policy_from_wire(message.regions)
    except KeyError:
        known = ", ".join(one.name for one in RegionPolicy)
        raise InvalidRequest(
            "options.regions", f"{message.regions} is none that this server knows: {known}"
        ) from None


def _respond(answer: Answer, options: query_pb2.SearchOptions) -> query_pb2.SearchResponse:
    # Once the response is on its way: nobody waits for a log line.
    asyncio.get_running_loop().call_soon(_tell, answer)
    response = query_pb2.SearchResponse()
    response.CopyFrom(
        _same_for_all(
            answer.collection.space.fingerprint,
            answer.plan.coarse_dim,
            answer.scoring_dim,
            answer.plan.search_class.name,
            answer.collection.generation,
            answer.coverage,
        )
    )
    response.cross_encoder = answer.cross_encoder
    response.certificate = certificate_to_wire(answer.certificate)
    response.failure_probability = answer.failure_probability
    if answer.degradations:
        response.degradations.extend(map(degradation_to_wire, answer.degradations))
    if answer.plan.promise is not None:
        response.plan.CopyFrom(_plan(answer, answer.plan.promise))
    if answer.regions:
        response.regions.extend(map(outcome_to_wire, answer.regions))
    _add_hits(response, answer, options.ids_only)
    if options.explain:
        response.explanation.candidates = answer.candidates
        response.explanation.fetched = answer.fetched
        response.explanation.matching = answer.matching
        for stage, milliseconds in answer.timings.stages.items():
            response.explanation.stages.add(stage=stage, milliseconds=milliseconds)
    return response


def _add_hits(response: query_pb2.SearchResponse, answer: Answer, ids_only: bool) -> None:
    add = response.hits.add
    for hit in answer.hits:
        document, score, cross_score, region, _ = hit
        if ids_only:
            add(id=document.id, score=score, cross_score=cross_score, region=region)
        elif document.fields:
            fields = fields_to_wire(document.fields)
            add(
                id=document.id,
                score=score,
                text=document.text,
                fields=fields,
                cross_score=cross_score,
                region=region,
            )
        else:
            add(
                id=document.id,
                score=score,
                text=document.text,
                cross_score=cross_score,
                region=region,
            )


# What a plan was measured without.
_TAKES_RECALL = frozenset(
    {
        DegradationKind.SHARD_MISSING,
        DegradationKind.REGION_MISSING,
        DegradationKind.RERANK_SKIPPED,
        DegradationKind.RERANK_PARTIAL,
        DegradationKind.VECTOR_MISSING,
        DegradationKind.VECTOR_CORRUPT,
        DegradationKind.PAYLOAD_MISSING,
    }
)


def _plan(answer: Answer, promise: Promise) -> query_pb2.CalibratedPlan:
    plan, point = answer.plan, promise.point
    taken = any(one.kind in _TAKES_RECALL for one in answer.degradations)
    return query_pb2.CalibratedPlan(
        coarse_dim=plan.coarse_dim,
        candidates=plan.candidates,
        rerank=plan.rerank,
        bound_z=plan.bound_z if plan.rerank else 0.0,
        target_recall=promise.target,
        measured_recall=0.0 if point is None else point.recall,
        recall_low=0.0 if point is None else point.low,
        recall_high=1.0 if point is None else point.high,
        confidence=promise.confidence,
        reaches_target=not promise.missed and not taken,
    )


@lru_cache(maxsize=64)
def _same_for_all(
    fingerprint: str,
    coarse_dim: int,
    scoring_dim: int,
    search_class: str,
    generation: int,
    coverage: Coverage,
) -> query_pb2.SearchResponse:
    """What one answer of a lane has in common with the next: to be copied, not changed."""
    return query_pb2.SearchResponse(
        coarse_space=common_pb2.SpaceRef(fingerprint=fingerprint, dim=coarse_dim),
        scoring_space=common_pb2.SpaceRef(fingerprint=fingerprint, dim=scoring_dim),
        coverage=coverage_to_wire(coverage),
        search_class=search_class,
        generation=generation,
    )


def _tell(answer: Answer) -> None:
    """Log and count one answer. The tier is on all of it."""
    plan, name, tier = answer.plan, answer.plan.search_class.name, answer.plan.coarse_dim
    _searches(name, tier, answer.scoring_dim, answer.certificate).inc()
    for stage, milliseconds in answer.timings.stages.items():
        _stage_seconds(stage, name, tier).observe(milliseconds / 1e3)
    if answer.reranked:
        metrics.CANDIDATES.labels(str(tier)).observe(answer.candidates)
        metrics.FETCHED.labels(str(tier)).observe(answer.fetched)
    metrics.COVERAGE.labels(name).observe(answer.coverage.fraction)
    for one in answer.degradations:
        metrics.DEGRADATIONS.labels(one.kind.value).inc()
    _log.info(
        "search.completed",
        collection=answer.collection.name,
        search_class=name,
        coarse_dim=plan.coarse_dim,
        scoring_dim=answer.scoring_dim,
        hits=len(answer.hits),
        candidates=answer.candidates,
        fetched=answer.fetched,
        filtered=plan.filter is not None,
        matching=answer.matching,
        coverage=round(answer.coverage.fraction, 6),
        certificate=answer.certificate.value,
        cross_encoder=answer.cross_encoder,
        degradations=[one.kind.value for one in answer.degradations],
        milliseconds=round(sum(answer.timings.stages.values()), 3),
        **({"regions": _states(answer)} if answer.regions else {}),
    )


def _states(answer: Answer) -> dict[str, str]:
    return {one.name: one.state.value for one in answer.regions}


# A label is looked up under a lock; there are few of these, and one is wanted on every query.


@cache
def _searches(name: str, coarse_dim: int, scoring_dim: int, certificate: Certificate) -> Counter:
    return metrics.SEARCHES.labels(name, str(coarse_dim), str(scoring_dim), certificate.value)


@cache
def _stage_seconds(stage: str, name: str, coarse_dim: int) -> Histogram:
    return metrics.STAGE_SECONDS.labels(stage, name, str(coarse_dim))
