"""Questions and answers between regions. What comes from another one is believed in nothing: each
column, number and name is looked at before it may meet this region's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nestvec.core.codec import floats_from_bytes, floats_to_bytes
from nestvec.core.coverage import Degradation, DegradationKind
from nestvec.core.document import Document, check_id
from nestvec.core.errors import InvalidRequest
from nestvec.core.filters import Filter
from nestvec.core.ports import RegionAnswer, RegionHits, RegionQuery, RegionRerank
from nestvec.core.regions import HeldCollection, RegionDescription
from nestvec.rpc.field_wire import filter_from_wire, filter_to_wire
from nestvec.rpc.region_checks import (
    checked_coverage,
    checked_ids,
    checked_versions,
    nonsense,
    require_region,
    require_scores,
)
from nestvec.rpc.wire import (
    certificate_from_wire,
    certificate_to_wire,
    column_from_bytes,
    coverage_to_wire,
    degradation_to_wire,
    document_from_wire,
    document_to_wire,
    hits_from_wire,
    hits_to_wire,
    ids_from_bytes,
    ids_to_bytes,
)
from nestvec.v1 import common_pb2, region_pb2

# Of what another region admits, so much is passed on.
_MOST_ADMITTED = 16
_LONGEST_DETAIL = 400
_MOST_COLLECTIONS = 4096
_KINDS = {
    common_pb2.DegradationKind.Value(f"DEGRADATION_KIND_{kind.name}"): kind
    for kind in DegradationKind
}

# --- questions ----------------------------------------------------------------------------------


def query_to_wire(
    query: RegionQuery, caller: str, round_trip_s: float
) -> region_pb2.SearchRegionRequest:
    """round_trip_s: what the way takes, so that the answer is here in time."""
    return region_pb2.SearchRegionRequest(
        caller=caller,
        collection=query.collection,
        space=common_pb2.SpaceRef(fingerprint=query.fingerprint, dim=query.queries.shape[1]),
        queries=floats_to_bytes(query.queries),
        search_class=query.search_class,
        k=query.k,
        coarse_dim=query.coarse_dim,
        candidates=query.candidates,
        rerank=query.rerank,
        bound_z=query.bound_z or 0.0,
        filter=None if query.filter is None else filter_to_wire(query.filter),
        target_recall=query.target_recall,
        exhaustive_rerank=query.exhaustive,
        versions=query.versions,
        inline_bytes=query.inline_bytes,
        ids_only=query.ids_only,
        round_trip_ms=round_trip_s * 1e3,
    )


def query_from_wire(message: region_pb2.SearchRegionRequest) -> RegionQuery:
    """Reverse of `query_to_wire`. Raises InvalidRequest."""
    wanted: Filter | None = None
    if message.HasField("filter"):
        wanted = filter_from_wire(message.filter)
    return RegionQuery(
        collection=message.collection,
        fingerprint=message.space.fingerprint,
        queries=floats_from_bytes(message.queries, message.space.dim, "queries"),
        search_class=message.search_class,
        k=message.k,
        coarse_dim=message.coarse_dim,
        candidates=message.candidates,
        rerank=message.rerank,
        bound_z=message.bound_z or None,
        filter=wanted,
        target_recall=message.target_recall if message.HasField("target_recall") else None,
        exhaustive=message.exhaustive_rerank,
        versions=message.versions,
        inline_bytes=message.inline_bytes,
        ids_only=message.ids_only,
    )


def rerank_to_wire(
    query: RegionRerank, caller: str, round_trip_s: float
) -> region_pb2.RerankRegionRequest:
    """As `query_to_wire`."""
    candidates = hits_to_wire(query.hits, bounded=True)
    candidates.ids = b""
    return region_pb2.RerankRegionRequest(
        caller=caller,
        collection=query.collection,
        space=common_pb2.SpaceRef(fingerprint=query.fingerprint, dim=len(query.query)),
        query=floats_to_bytes(query.query),
        ids=query.ids,
        candidates=candidates,
        k=query.k,
        bound_z=query.bound_z,
        inline_bytes=query.inline_bytes,
        ids_only=query.ids_only,
        round_trip_ms=round_trip_s * 1e3,
        versions=b"" if query.versions is None else ids_to_bytes(query.versions),
    )


def rerank_from_wire(message: region_pb2.RerankRegionRequest) -> RegionRerank:
    """Reverse of `rerank_to_wire`. Raises InvalidRequest."""
    vectors = floats_from_bytes(message.query, message.space.dim, "query")
    if len(vectors) != 1:
        raise InvalidRequest("query", f"{len(vectors)} vectors, expected 1")
    if message.k < 1:
        raise InvalidRequest("k", f"{message.k}, expected 1 or more")
    if not message.bound_z > 0.0:
        raise InvalidRequest("bound_z", f"{message.bound_z}, expected more than 0")
    ids = [check_id(one, f"ids.{number}") for number, one in enumerate(message.ids)]
    if len(set(ids)) < len(ids):
        raise InvalidRequest("ids", "one stands twice; name each document once")
    versions = ids_from_bytes(message.versions, "versions") if message.versions else None
    if versions is not None and len(versions) != len(ids):
        raise InvalidRequest("versions", f"{len(versions)}, expected one an id: {len(ids)}")
    columns = message.candidates
    columns.ids = ids_to_bytes(np.arange(len(ids)))
    return RegionRerank(
        collection=message.collection,
        fingerprint=message.space.fingerprint,
        query=vectors[0],
        ids=ids,
        hits=hits_from_wire(columns),
        k=message.k,
        bound_z=message.bound_z,
        inline_bytes=message.inline_bytes,
        ids_only=message.ids_only,
        versions=versions,
    )


# --- answers, as they leave -----------------------------------------------------------------------


def answer_to_wire(answer: RegionAnswer) -> region_pb2.SearchRegionResponse:
    """All of it."""
    return region_pb2.SearchRegionResponse(
        region=answer.region,
        generation=answer.generation,
        scoring_space=common_pb2.SpaceRef(fingerprint=answer.fingerprint, dim=answer.scoring_dim),
        coarse_dim=answer.coarse_dim,
        coverage=coverage_to_wire(answer.coverage),
        hits=[region_hits_to_wire(hits) for hits in answer.hits],
        milliseconds=answer.seconds * 1e3,
        staleness_s=staleness_to_wire(answer.staleness_s),
    )


def staleness_to_wire(seconds: float | None) -> float:
    """Negative where it is not known."""
    return -1.0 if seconds is None else seconds


def staleness_from_wire(seconds: float) -> float | None:
    """Reverse of `staleness_to_wire`."""
    return None if seconds < 0.0 else seconds


def region_hits_to_wire(hits: RegionHits) -> region_pb2.RegionHits:
    """Columns, and the documents that come along."""
    return region_pb2.RegionHits(
        ids=hits.ids,
        scores=floats_to_bytes(hits.scores),
        versions=b"" if hits.versions is None else ids_to_bytes(hits.versions),
        documents=[document_to_wire(document) for document in hits.documents],
        certificate=certificate_to_wire(hits.certificate),
        failure_probability=hits.failure_probability,
        degradations=[degradation_to_wire(one) for one in hits.degradations],
        candidates=hits.candidates,
        fetched=hits.fetched,
        matching=hits.matching,
    )


def description_to_wire(description: RegionDescription) -> region_pb2.DescribeRegionResponse:
    """All of it."""
    return region_pb2.DescribeRegionResponse(
        region=description.name,
        number=description.number,
        now_ms=description.now_ms,
        collections=[held_to_wire(held) for held in description.collections.values()],
    )


def held_to_wire(held: HeldCollection) -> region_pb2.RegionCollection:
    """Of one collection."""
    return region_pb2.RegionCollection(
        name=held.name,
        generation=held.generation,
        space=common_pb2.SpaceRef(fingerprint=held.fingerprint, dim=held.dim),
        documents=held.documents,
        staleness_s=held.staleness_s,
        tiers=held.tiers,
    )


# --- answers, as they arrive ----------------------------------------------------------------------


def answer_from_wire(
    message: region_pb2.SearchRegionResponse, query: RegionQuery, region: str
) -> RegionAnswer:
    """What `region` answered to `query`. Raises WorkerUnavailable unless all of it can be true."""
    require_region(message.region, region)
    if len(message.hits) != len(query.queries):
        nonsense(region, f"{len(message.hits)} answers to {len(query.queries)} queries")
    space, way = message.scoring_space, (message.milliseconds, message.staleness_s)
    if not space.fingerprint or space.dim < 1 or message.coarse_dim < 1:
        nonsense(region, f"scores of {space.dim} dimensions in space {space.fingerprint!r}")
    if not all(map(math.isfinite, way)) or message.milliseconds < 0.0:
        nonsense(region, f"it took {way[0]} ms, and is {way[1]} s behind")
    staleness_s = staleness_from_wire(message.staleness_s)
    return RegionAnswer(
        region=region,
        generation=message.generation,
        fingerprint=space.fingerprint,
        scoring_dim=space.dim,
        coarse_dim=message.coarse_dim,
        coverage=checked_coverage(message.coverage, region),
        hits=[region_hits_from_wire(one, query.k, query.versions, region) for one in message.hits],
        seconds=message.milliseconds / 1e3,
        staleness_s=staleness_s,
    )


def region_hits_from_wire(
    message: region_pb2.RegionHits, k: int, versions: bool, region: str
) -> RegionHits:
    """One query's hits. versions: whether they were asked for. As `answer_from_wire`."""
    try:
        ids = checked_ids(message.ids, k, region)
        scores = column_from_bytes(message.scores, len(ids), "scores")
        certificate = certificate_from_wire(message.certificate)
        require_scores(scores, certificate, region)
        documents = [document_from_wire(one) for one in message.documents]
        told = checked_versions(message.versions, len(ids), region) if versions else None
    except InvalidRequest as error:
        nonsense(region, str(error))
    if [one.id for one in documents] != ids[: len(documents)]:
        nonsense(region, "documents that are not those of its hits")
    probability = message.failure_probability
    if not 0.0 <= probability <= 1.0:
        nonsense(region, f"a failure probability of {probability}")
    counts = (message.candidates, message.fetched, message.matching)
    if min(counts) < 0:
        nonsense(region, f"counts of {counts}")
    return RegionHits(
        ids=ids,
        scores=scores,
        versions=told,
        documents=documents,
        certificate=certificate,
        failure_probability=probability,
        degradations=_admitted(message.degradations),
        candidates=message.candidates,
        fetched=message.fetched,
        matching=message.matching,
    )


def documents_from_wire(
    messages: Sequence[common_pb2.Document], asked: Sequence[str], region: str
) -> list[Document]:
    """Documents of `asked`, in that order. As `answer_from_wire`."""
    try:
        documents = [document_from_wire(one) for one in messages]
    except InvalidRequest as error:
        nonsense(region, str(error))
    left = iter(asked)
    # `in` goes on from where it stopped: so they are some of those asked for, in their order.
    if not all(one.id in left for one in documents):
        nonsense(region, "documents that were not asked for, or in another order")
    return documents


def description_from_wire(
    message: region_pb2.DescribeRegionResponse, region: str
) -> RegionDescription:
    """What `region` says of itself. As `answer_from_wire`."""
    require_region(message.region, region)
    if len(message.collections) > _MOST_COLLECTIONS:
        nonsense(region, f"{len(message.collections)} collections")
    held = {one.name: held_from_wire(one) for one in message.collections}
    for one in held.values():
        if one.documents < 0 or one.dim < 1:
            nonsense(region, f"{one.documents} documents of {one.dim} dimensions")
        if not all(0.0 <= age < math.inf for age in one.staleness_s.values()):
            nonsense(region, f"collection {one.name!r} that is behind by no number of seconds")
    return RegionDescription(region, message.number, message.now_ms, held)


def held_from_wire(message: region_pb2.RegionCollection) -> HeldCollection:
    """Reverse of `held_to_wire`."""
    space = message.space
    return HeldCollection(
        message.name,
        message.generation,
        space.fingerprint,
        space.dim,
        message.documents,
        dict(message.staleness_s),
        tuple(message.tiers),
    )


def _admitted(messages: Sequence[common_pb2.Degradation]) -> list[Degradation]:
    """What this version knows of it."""
    return [
        Degradation(_KINDS[one.kind], one.detail[:_LONGEST_DETAIL])
        for one in messages[:_MOST_ADMITTED]
        if one.kind in _KINDS
    ]
