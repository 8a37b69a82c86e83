"""Calibrations, and the plans chosen by them, as messages, and back."""

from __future__ import annotations

from nestvec.core.calibration import CalibratedPoint, Calibration, ClassCalibration
from nestvec.core.errors import InvalidRequest
from nestvec.rpc.evidence_wire import DTYPE_FROM_WIRE, DTYPE_TO_WIRE, code_from_wire, code_to_wire
from nestvec.v1 import admin_pb2


def calibration_to_wire(one: Calibration) -> admin_pb2.Calibration:
    """All of it but the identity, which is the store's own."""
    return admin_pb2.Calibration(
        fingerprint=one.fingerprint,
        store_dim=one.store_dim,
        coarse_code=code_to_wire(one.coarse_code),
        store_dtype=DTYPE_TO_WIRE[one.store_dtype],
        generation=one.generation,
        documents=one.documents,
        kinds=[admin_pb2.TierKind(dim=dim, kind=kind) for dim, kind in one.kinds],
        source=one.source,
        queries=one.queries,
        classes=[_class_to_wire(each) for each in one.classes],
        window=one.window,
        windows=one.windows,
        confidence=one.confidence,
        created_ms=one.created_ms,
        version=one.version,
    )


def calibration_from_wire(message: admin_pb2.Calibration) -> Calibration:
    """Reverse of `calibration_to_wire`. Raises InvalidRequest."""
    if message.store_dtype not in DTYPE_FROM_WIRE:
        raise InvalidRequest("calibration.store_dtype", "not given, or not known here")
    return Calibration(
        fingerprint=message.fingerprint,
        store_dim=message.store_dim,
        coarse_code=code_from_wire(message.coarse_code),
        store_dtype=DTYPE_FROM_WIRE[message.store_dtype],
        generation=message.generation,
        documents=message.documents,
        kinds=tuple((one.dim, one.kind) for one in message.kinds),
        source=message.source,
        queries=message.queries,
        classes=tuple(_class_from_wire(one) for one in message.classes),
        window=message.window,
        windows=message.windows,
        confidence=message.confidence,
        created_ms=message.created_ms,
        version=message.version,
    )


def _class_to_wire(one: ClassCalibration) -> admin_pb2.ClassCalibration:
    return admin_pb2.ClassCalibration(
        search_class=one.name, k=one.k, points=[_point_to_wire(point) for point in one.points]
    )


def _class_from_wire(message: admin_pb2.ClassCalibration) -> ClassCalibration:
    points = tuple(_point_from_wire(one) for one in message.points)
    return ClassCalibration(message.search_class, message.k, points)


def _point_to_wire(one: CalibratedPoint) -> admin_pb2.CalibratedPoint:
    return admin_pb2.CalibratedPoint(
        coarse_dim=one.coarse_dim,
        candidates=one.candidates,
        rerank=one.rerank,
        bound_z=one.bound_z,
        recall=one.recall,
        recall_low=one.low,
        recall_high=one.high,
        window_low=one.window_low,
        cost_ms=one.cost_ms,
        p95_ms=one.p95_ms,
        fetched=one.fetched,
    )


def _point_from_wire(message: admin_pb2.CalibratedPoint) -> CalibratedPoint:
    return CalibratedPoint(
        coarse_dim=message.coarse_dim,
        candidates=message.candidates,
        rerank=message.rerank,
        bound_z=message.bound_z,
        recall=message.recall,
        low=message.recall_low,
        high=message.recall_high,
        window_low=message.window_low,
        cost_ms=message.cost_ms,
        p95_ms=message.p95_ms,
        fetched=message.fetched,
    )
