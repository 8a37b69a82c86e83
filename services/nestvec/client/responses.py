"""Responses as the values that callers see."""

from __future__ import annotations

from nestvec.client.values import (
    CalibratedPlan,
    CollectionDescription,
    CollectionInfo,
    Degradation,
    DeleteResult,
    Explanation,
    GetResult,
    Hit,
    SearchClassInfo,
    SearchResult,
    ServerInfo,
    ServerLimits,
    SpaceRef,
    StoredDocument,
)
from nestvec.core.codec import VectorDtype, floats_from_bytes
from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.ports import StoreUsage
from nestvec.rpc.calibration_wire import calibration_from_wire
from nestvec.rpc.evidence_wire import code_from_wire, evidence_from_wire
from nestvec.rpc.field_wire import fields_from_wire, schema_from_wire
from nestvec.rpc.region_outcome_wire import outcome_from_wire, told_policy
from nestvec.rpc.wire import (
    certificate_from_wire,
    dtype_from_wire,
    space_from_wire,
    tier_from_wire,
)
from nestvec.v1 import admin_pb2, common_pb2, ingest_pb2, query_pb2

_KINDS: dict[int, str] = {
    common_pb2.DegradationKind.Value(f"DEGRADATION_KIND_{kind.name}"): kind
    for kind in DegradationKind
}


def search_result(message: query_pb2.SearchResponse) -> SearchResult:
    """One answer."""
    return SearchResult(
        hits=tuple(
            Hit(
                hit.id,
                hit.score,
                hit.text,
                fields_from_wire(hit.fields),
                hit.cross_score if hit.HasField("cross_score") else None,
                hit.region,
            )
            for hit in message.hits
        ),
        coarse=_space_ref(message.coarse_space),
        scoring=_space_ref(message.scoring_space),
        coverage=Coverage(
            message.coverage.shards_total,
            message.coverage.shards_answered,
            message.coverage.documents_total,
            message.coverage.documents_answered,
        ),
        degradations=tuple(
            Degradation(_KINDS.get(one.kind, "unknown"), one.detail) for one in message.degradations
        ),
        certificate=certificate_from_wire(message.certificate),
        failure_probability=message.failure_probability,
        search_class=message.search_class,
        generation=message.generation,
        explanation=_explanation(message.explanation) if message.HasField("explanation") else None,
        cross_encoder=message.cross_encoder,
        plan=_plan(message.plan) if message.HasField("plan") else None,
        regions=tuple(map(outcome_from_wire, message.regions)),
    )


def search_results(message: query_pb2.BatchSearchResponse) -> list[SearchResult]:
    """In the order of the queries."""
    return [search_result(response) for response in message.responses]


def get_result(message: query_pb2.GetDocumentsResponse) -> GetResult:
    """Documents, with vectors where they were asked for."""
    dim = message.space.dim
    return GetResult(
        documents=tuple(
            StoredDocument(
                stored.document.id,
                stored.document.text,
                fields_from_wire(stored.document.fields),
                floats_from_bytes(stored.vector, dim, "vector")[0] if stored.vector else None,
            )
            for stored in message.documents
        ),
        missing_ids=tuple(message.missing_ids),
        space=_space_ref(message.space),
    )


def some_ids(message: query_pb2.ListDocumentIdsResponse) -> tuple[list[str], str]:
    """Ids, and the token of the next ones."""
    return list(message.ids), message.next_page_token


def delete_result(message: ingest_pb2.DeleteDocumentsResponse) -> DeleteResult:
    """Counted, with what was not there."""
    return DeleteResult(
        message.deleted, tuple(message.missing_ids), tuple(message.stale_ids), message.watermark
    )


def created(message: admin_pb2.CreateCollectionResponse) -> CollectionInfo:
    """The collection made, or found."""
    return collection_info(message.collection)


def collections(message: admin_pb2.ListCollectionsResponse) -> list[CollectionInfo]:
    """By name."""
    return [collection_info(one) for one in message.collections]


def description(message: admin_pb2.DescribeCollectionResponse) -> CollectionDescription:
    """What it is and what it holds."""
    info = collection_info(message.collection)
    store = message.store
    return CollectionDescription(
        **vars(info),
        tier_status=tuple(tier_from_wire(tier) for tier in message.tiers),
        store=StoreUsage(
            store.documents,
            store.vector_bytes_per_document,
            store.payload_bytes_per_document,
            store.used_memory_bytes,
            store.tombstones,
            store.log_entries,
        ),
        shards=message.shards,
    )


def server_info(message: admin_pb2.DescribeServerResponse) -> ServerInfo:
    """Version, space, classes and limits."""
    return ServerInfo(
        version=message.version,
        space=space_from_wire(message.space),
        search_classes=tuple(
            SearchClassInfo(
                one.name,
                one.coarse_dim,
                one.k,
                one.candidates,
                one.rerank,
                one.min_coverage,
                one.target_recall if one.HasField("target_recall") else None,
                one.cross_encode,
                told_policy(one.regions),
                one.local_score if one.HasField("local_score") else None,
            )
            for one in message.search_classes
        ),
        limits=ServerLimits(
            message.max_k,
            message.max_candidates,
            message.max_batch,
            message.max_text_bytes,
            message.max_ids,
            message.max_message_bytes,
        ),
        cross_encoder=message.cross_encoder,
        spaces=tuple(space_from_wire(one) for one in message.spaces),
    )


def nothing(message: admin_pb2.DropCollectionResponse) -> None:
    """Done is all there is to say."""
    del message


def _space_ref(message: common_pb2.SpaceRef) -> SpaceRef:
    return SpaceRef(message.fingerprint, message.dim)


def _explanation(message: query_pb2.Explanation) -> Explanation:
    stages = {timing.stage: timing.milliseconds for timing in message.stages}
    return Explanation(stages, message.candidates, message.fetched, message.matching)


def _plan(message: query_pb2.CalibratedPlan) -> CalibratedPlan:
    return CalibratedPlan(
        message.coarse_dim,
        message.candidates,
        message.rerank,
        message.bound_z,
        message.target_recall,
        message.measured_recall,
        message.recall_low,
        message.recall_high,
        message.confidence,
        message.reaches_target,
    )


def collection_info(message: admin_pb2.CollectionDescription) -> CollectionInfo:
    """What a collection is."""
    return CollectionInfo(
        name=message.name,
        space=space_from_wire(message.space),
        store_dim=message.store_dim,
        store_dtype=dtype_from_wire(message.store_dtype) or VectorDtype.FP16,
        tiers=tuple(message.tiers),
        generation=message.generation,
        partitions=message.partitions,
        fields={one.name: one.type for one in schema_from_wire(message.fields)},
        coarse_code=code_from_wire(message.coarse_code),
        evidence=evidence_from_wire(message.evidence),
        calibration=(
            calibration_from_wire(message.calibration) if message.HasField("calibration") else None
        ),
    )
