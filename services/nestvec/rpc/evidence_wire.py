"""Codes, measurements and budgets as messages, and back."""

from __future__ import annotations

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import InvalidRequest
from nestvec.core.measured import Evidence, LossBudget, Measurement
from nestvec.v1 import admin_pb2

_CODE_TO_WIRE = {
    CoarseCode.AUTO: admin_pb2.COARSE_CODE_UNSPECIFIED,
    CoarseCode.FP32: admin_pb2.COARSE_CODE_FP32,
    CoarseCode.FP16: admin_pb2.COARSE_CODE_FP16,
    CoarseCode.INT8: admin_pb2.COARSE_CODE_INT8,
    CoarseCode.FOUR_BIT: admin_pb2.COARSE_CODE_FOUR_BIT,
    CoarseCode.RABITQ: admin_pb2.COARSE_CODE_RABITQ,
    CoarseCode.PQ: admin_pb2.COARSE_CODE_PQ,
}
_CODE_FROM_WIRE = {wire: code for code, wire in _CODE_TO_WIRE.items()}
DTYPE_TO_WIRE = {
    VectorDtype.FP32: admin_pb2.STORE_DTYPE_FP32,
    VectorDtype.FP16: admin_pb2.STORE_DTYPE_FP16,
    VectorDtype.INT8: admin_pb2.STORE_DTYPE_INT8,
}
DTYPE_FROM_WIRE = {wire: dtype for dtype, wire in DTYPE_TO_WIRE.items()}


def code_to_wire(code: CoarseCode) -> admin_pb2.CoarseCode.ValueType:
    """Unspecified for AUTO."""
    return _CODE_TO_WIRE[code]


def code_from_wire(value: admin_pb2.CoarseCode.ValueType) -> CoarseCode:
    """Reverse of `code_to_wire`. Raises InvalidRequest for one that this version does not know."""
    if value not in _CODE_FROM_WIRE:
        known = ", ".join(code.value for code in CoarseCode)
        raise InvalidRequest("coarse_code", f"no code has number {value} here; known: {known}")
    return _CODE_FROM_WIRE[value]


def evidence_to_wire(evidence: Evidence) -> admin_pb2.Evidence:
    """All of it."""
    budget = None
    if evidence.budget is not None:
        budget = admin_pb2.LossBudget(
            ndcg_at_10=evidence.budget.ndcg, recall_at_10=evidence.budget.recall
        )
    return admin_pb2.Evidence(
        budget=budget,
        measured=[_measurement_to_wire(one) for one in evidence.measured],
        override=evidence.override,
    )


def evidence_from_wire(message: admin_pb2.Evidence) -> Evidence:
    """Reverse of `evidence_to_wire`. Raises InvalidRequest."""
    budget = None
    if message.HasField("budget"):
        budget = LossBudget(message.budget.ndcg_at_10, message.budget.recall_at_10)
    measured = tuple(_measurement_from_wire(one) for one in message.measured)
    return Evidence(budget, measured, message.override)


def _measurement_to_wire(one: Measurement) -> admin_pb2.Measurement:
    return admin_pb2.Measurement(
        fingerprint=one.fingerprint,
        store_dim=one.store_dim,
        dim=one.dim,
        coarse_code=_CODE_TO_WIRE[one.coarse_code],
        store_dtype=DTYPE_TO_WIRE[one.store_dtype],
        judged=one.judged,
        source=one.source,
        documents=one.documents,
        queries=one.queries,
        candidates=one.candidates,
        ndcg_lost=one.ndcg_lost,
        recall_lost=one.recall_lost,
    )


def _measurement_from_wire(message: admin_pb2.Measurement) -> Measurement:
    if message.store_dtype not in DTYPE_FROM_WIRE:
        raise InvalidRequest("measured.store_dtype", "not given, or not known here")
    return Measurement(
        fingerprint=message.fingerprint,
        store_dim=message.store_dim,
        dim=message.dim,
        coarse_code=code_from_wire(message.coarse_code),
        store_dtype=DTYPE_FROM_WIRE[message.store_dtype],
        judged=message.judged,
        source=message.source,
        documents=message.documents,
        queries=message.queries,
        candidates=message.candidates,
        ndcg_lost=message.ndcg_lost,
        recall_lost=message.recall_lost,
    )
