"""What a shard is asked, and tells, of documents that a search should have found."""

from __future__ import annotations

import numpy as np

from nestvec.core.arrays import Bools
from nestvec.core.codec import floats_from_bytes, floats_to_bytes
from nestvec.core.errors import InvalidRequest
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.rpc.wire import column_from_bytes, ids_from_bytes, ids_to_bytes
from nestvec.v1 import coarse_pb2


def request_to_wire(
    ref: coarse_pb2.CollectionRef, request: InspectionRequest
) -> coarse_pb2.InspectDocumentsRequest:
    """ref: names the collection."""
    return coarse_pb2.InspectDocumentsRequest(
        collection=ref,
        queries=floats_to_bytes(request.queries),
        coarse_dim=request.coarse_dim,
        count=request.count,
        bounded=request.bounded,
        rows=ids_to_bytes(request.rows),
        ids=ids_to_bytes(request.ids),
    )


def request_from_wire(
    message: coarse_pb2.InspectDocumentsRequest, store_dim: int
) -> InspectionRequest:
    """Reverse of `request_to_wire`. Raises InvalidRequest."""
    queries = floats_from_bytes(message.queries, store_dim, "queries")
    rows, ids = ids_from_bytes(message.rows, "rows"), ids_from_bytes(message.ids, "ids")
    if len(rows) != len(ids):
        raise InvalidRequest("ids", f"{len(ids)} ids beside {len(rows)} rows")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(queries):
        raise InvalidRequest("rows", f"expected places among {len(queries)} queries")
    if message.count < 1:
        raise InvalidRequest("count", f"{message.count}, expected 1 or more")
    return InspectionRequest(queries, message.coarse_dim, message.count, message.bounded, rows, ids)


def inspection_to_wire(found: Inspection) -> coarse_pb2.InspectDocumentsResponse:
    """Columns as bytes."""
    return coarse_pb2.InspectDocumentsResponse(
        indexed=found.indexed.tobytes(),
        sound=found.sound.tobytes(),
        offered=found.offered.tobytes(),
        code_scores=floats_to_bytes(found.code_scores),
        scan_scores=floats_to_bytes(found.scan_scores),
        cutoffs=floats_to_bytes(found.cutoffs),
        errors=floats_to_bytes(found.errors),
        spreads=floats_to_bytes(found.spreads),
        cpu_s=found.cpu_s,
    )


def inspection_from_wire(message: coarse_pb2.InspectDocumentsResponse, pairs: int) -> Inspection:
    """Reverse of `inspection_to_wire`. Raises InvalidRequest where columns are not of `pairs`."""
    return Inspection(
        indexed=_bools(message.indexed, pairs, "indexed"),
        sound=_bools(message.sound, pairs, "sound"),
        offered=_bools(message.offered, pairs, "offered"),
        code_scores=column_from_bytes(message.code_scores, pairs, "code_scores"),
        scan_scores=column_from_bytes(message.scan_scores, pairs, "scan_scores"),
        cutoffs=column_from_bytes(message.cutoffs, pairs, "cutoffs"),
        errors=column_from_bytes(message.errors, pairs, "errors"),
        spreads=column_from_bytes(message.spreads, pairs, "spreads"),
        cpu_s=message.cpu_s,
    )


def _bools(data: bytes, pairs: int, field: str) -> Bools:
    if len(data) != pairs:
        raise InvalidRequest(field, f"{len(data)} values, expected {pairs}")
    bools: Bools = np.frombuffer(data, np.uint8).astype(np.bool_)
    return bools
