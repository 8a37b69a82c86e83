"""Messages to core types and back. Columns stay columns; nothing is copied row by row."""

from __future__ import annotations

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.codec import VectorDtype, floats_from_bytes
from nestvec.core.collection import Collection
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import CoarseHits, ShardVerification, TierDifference, TierStatus
from nestvec.core.space import Prompts, Recipe, Role, Space
from nestvec.rpc.calibration_wire import calibration_to_wire
from nestvec.rpc.evidence_wire import (
    DTYPE_FROM_WIRE,
    DTYPE_TO_WIRE,
    code_to_wire,
    evidence_to_wire,
)
from nestvec.rpc.field_wire import fields_from_wire, fields_to_wire, schema_to_wire
from nestvec.v1 import admin_pb2, coarse_pb2, common_pb2, encoder_pb2

# --- spaces and collections ---------------------------------------------------------------------


def space_to_wire(space: Space) -> common_pb2.SpaceDescription:
    """All of it, so that a client can make vectors of the space by itself."""
    return common_pb2.SpaceDescription(
        fingerprint=space.fingerprint,
        model=space.model,
        weights=space.weights,
        dim=space.dim,
        trained_dims=space.trained_dims,
        layer_norm=space.recipe.layer_norm,
        query_prompt=space.prompts.query,
        document_prompt=space.prompts.document,
    )


def space_from_wire(message: common_pb2.SpaceDescription) -> Space:
    """The space described.

    Raises SpaceMismatch when the fingerprint is not that of what is described: then the other side
    computes fingerprints differently, and nothing it sends may be compared.
    """
    space = Space(
        model=message.model,
        dim=message.dim,
        weights=message.weights,
        trained_dims=tuple(message.trained_dims),
        recipe=Recipe(layer_norm=message.layer_norm),
        prompts=Prompts(message.query_prompt, message.document_prompt),
    )
    space.require_same(message.fingerprint, "the space described by the other side")
    return space


def collection_ref(collection: Collection) -> coarse_pb2.CollectionRef:
    """Names one generation, for the internal services."""
    space = common_pb2.SpaceRef(fingerprint=collection.space.fingerprint, dim=collection.store_dim)
    return coarse_pb2.CollectionRef(
        name=collection.name, generation=collection.generation, space=space
    )


def dtype_from_wire(value: admin_pb2.StoreDtype.ValueType) -> VectorDtype | None:
    """None where unspecified. Raises InvalidRequest for one that this version does not know."""
    if value != admin_pb2.STORE_DTYPE_UNSPECIFIED and value not in DTYPE_FROM_WIRE:
        known = ", ".join(dtype.value for dtype in VectorDtype)
        raise InvalidRequest("store_dtype", f"no dtype has number {value} here; known: {known}")
    return DTYPE_FROM_WIRE.get(value)


def dtype_to_wire(dtype: VectorDtype) -> admin_pb2.StoreDtype.ValueType:
    """Reverse of `dtype_from_wire`."""
    return DTYPE_TO_WIRE[dtype]


def collection_to_wire(collection: Collection) -> admin_pb2.CollectionDescription:
    """For the public admin service."""
    calibration = collection.calibrated
    return admin_pb2.CollectionDescription(
        name=collection.name,
        space=space_to_wire(collection.space),
        store_dim=collection.store_dim,
        store_dtype=DTYPE_TO_WIRE[collection.store_dtype],
        tiers=collection.tiers,
        generation=collection.generation,
        partitions=collection.partitions,
        fields=schema_to_wire(collection.fields),
        coarse_code=code_to_wire(collection.coarse_code),
        evidence=evidence_to_wire(collection.evidence),
        calibration=None if calibration is None else calibration_to_wire(calibration),
    )


def tier_to_wire(status: TierStatus) -> common_pb2.TierDescription:
    """A tier's figures."""
    return common_pb2.TierDescription(
        dim=status.dim,
        documents=status.documents,
        deleted=status.deleted,
        segments=status.segments,
        bytes=status.nbytes,
        name_bytes=status.name_nbytes,
    )


def tier_from_wire(message: common_pb2.TierDescription) -> TierStatus:
    """Reverse of `tier_to_wire`."""
    return TierStatus(
        message.dim,
        message.documents,
        message.deleted,
        tuple(message.segments),
        message.bytes,
        message.name_bytes,
    )


# --- documents ----------------------------------------------------------------------------------


def document_to_wire(document: Document) -> common_pb2.Document:
    """A document with its fields."""
    return common_pb2.Document(
        id=document.id, text=document.text, fields=fields_to_wire(document.fields)
    )


def document_from_wire(message: common_pb2.Document) -> Document:
    """Reverse of `document_to_wire`. Raises InvalidRequest."""
    return Document(message.id, message.text, fields_from_wire(message.fields))


# --- what an answer admits ----------------------------------------------------------------------

_KIND_TO_WIRE = {
    kind: common_pb2.DegradationKind.Value(f"DEGRADATION_KIND_{kind.name}")
    for kind in DegradationKind
}
_CERTIFICATE_TO_WIRE = {
    certificate: common_pb2.Certificate.Value(f"CERTIFICATE_{certificate.name}")
    for certificate in Certificate
}
_CERTIFICATE_FROM_WIRE = {wire: one for one, wire in _CERTIFICATE_TO_WIRE.items()}


def degradation_to_wire(degradation: Degradation) -> common_pb2.Degradation:
    """Kind and detail."""
    return common_pb2.Degradation(kind=_KIND_TO_WIRE[degradation.kind], detail=degradation.detail)


def certificate_to_wire(certificate: Certificate) -> common_pb2.Certificate.ValueType:
    """By name."""
    return _CERTIFICATE_TO_WIRE[certificate]


def certificate_from_wire(value: common_pb2.Certificate.ValueType) -> Certificate:
    """An unknown one, from a newer server, promises nothing that this version can state."""
    return _CERTIFICATE_FROM_WIRE.get(value, Certificate.NONE)


def coverage_to_wire(coverage: Coverage) -> common_pb2.Coverage:
    """With the fraction worked out."""
    return common_pb2.Coverage(
        shards_total=coverage.shards_total,
        shards_answered=coverage.shards_answered,
        documents_total=coverage.documents_total,
        documents_answered=coverage.documents_answered,
        fraction=coverage.fraction,
    )


# --- columns ------------------------------------------------------------------------------------


def ids_to_bytes(ids: Ids) -> bytes:
    """Little-endian int64."""
    return ids.astype("<i8", copy=False).tobytes()


def ids_from_bytes(data: bytes, field: str) -> Ids:
    """Raises InvalidRequest on a ragged length."""
    if len(data) % 8:
        raise InvalidRequest(field, f"{len(data)} bytes are not a whole number of int64 ids")
    return np.frombuffer(data, "<i8").astype(np.int64, copy=False)


def column_from_bytes(data: bytes, length: int, field: str) -> Floats:
    """(length,) float32. Raises InvalidRequest on another length."""
    column = floats_from_bytes(data, 1, field)[:, 0]
    if len(column) != length:
        raise InvalidRequest(field, f"{len(column)} values beside {length} ids")
    return column


def hits_to_wire(hits: CoarseHits, bounded: bool) -> coarse_pb2.CandidateColumns:
    """One query's candidates."""
    return coarse_pb2.CandidateColumns(
        ids=ids_to_bytes(hits.ids),
        estimates=hits.estimates.astype("<f4", copy=False).tobytes(),
        half_widths=hits.half_widths.astype("<f4", copy=False).tobytes() if bounded else b"",
        rest_upper_bound=hits.rest_upper_bound,
        rest_count=hits.rest_count,
        rest_half_width=hits.rest_half_width,
    )


def hits_from_wire(message: coarse_pb2.CandidateColumns) -> CoarseHits:
    """Reverse of `hits_to_wire`. Raises InvalidRequest when columns differ in length."""
    ids = ids_from_bytes(message.ids, "candidates.ids")
    half_widths = (
        column_from_bytes(message.half_widths, len(ids), "candidates.half_widths")
        if message.half_widths
        else np.zeros(len(ids), np.float32)
    )
    rest = message.rest_upper_bound if message.HasField("rest_upper_bound") else None
    return CoarseHits(
        ids,
        column_from_bytes(message.estimates, len(ids), "candidates.estimates"),
        half_widths,
        rest,
        message.rest_count,
        message.rest_half_width,
    )


def verification_to_wire(found: ShardVerification) -> coarse_pb2.VerifyShardResponse:
    """What one shard's comparison with the store found."""
    return coarse_pb2.VerifyShardResponse(
        tiers=[
            coarse_pb2.TierDifference(
                dim=tier.dim,
                documents=tier.documents,
                missing=tier.missing,
                surplus=tier.surplus,
                compared=tier.compared,
                different=tier.different,
            )
            for tier in found.tiers
        ],
        store_documents=found.store_documents,
        damaged=ids_to_bytes(found.damaged),
    )


def verification_from_wire(message: coarse_pb2.VerifyShardResponse) -> ShardVerification:
    """Reverse of `verification_to_wire`. Raises InvalidRequest."""
    tiers = [
        TierDifference(
            tier.dim, tier.documents, tier.missing, tier.surplus, tier.compared, tier.different
        )
        for tier in message.tiers
    ]
    damaged = ids_from_bytes(message.damaged, "damaged")
    return ShardVerification(tiers, message.store_documents, damaged)


_ROLE_TO_WIRE = {
    Role.QUERY: encoder_pb2.TEXT_ROLE_QUERY,
    Role.DOCUMENT: encoder_pb2.TEXT_ROLE_DOCUMENT,
}


def role_to_wire(role: Role) -> encoder_pb2.TextRole.ValueType:
    """By name."""
    return _ROLE_TO_WIRE[role]


def role_from_wire(value: encoder_pb2.TextRole.ValueType) -> Role:
    """Raises InvalidRequest where unspecified: a wrong prompt would ruin ranking unnoticed."""
    for role, wire in _ROLE_TO_WIRE.items():
        if wire == value:
            return role
    raise InvalidRequest("role", "unspecified; say whether the texts are queries or documents")
