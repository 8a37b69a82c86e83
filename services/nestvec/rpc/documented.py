"""With which errors each RPC may end: the only table of it, which docs and fuzzing are held to.

An error stands for its gRPC status (rpc/status.py). INTERNAL and UNKNOWN are of no RPC: they are
bugs.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from nestvec.core import errors
from nestvec.rpc.status import code_of_kind

Kinds = tuple[type[errors.NestvecError], ...]

# Any request may be wrong, anybody may be unknown, and anything below may be away, late or full.
EVERY: Kinds = (
    errors.InvalidRequest,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.Overloaded,
    errors.StoreUnavailable,
    errors.WorkerUnavailable,
    errors.BudgetSpent,
)
# What gRPC says itself, at either end: given up, late, out of reach, too large, not served here.
OF_GRPC = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
)

_MISSING: Kinds = (errors.NotFound,)
_READ: Kinds = (errors.NotFound, errors.CorruptVector)
# By a reference, which names the space too.
_REFERRED: Kinds = (errors.NotFound, errors.SpaceMismatch)
_COPIED: Kinds = (*_REFERRED, errors.CorruptVector)
_SEARCHED: Kinds = (
    errors.NotFound,
    errors.SpaceMismatch,
    errors.NotCalibrated,
    errors.BelowCoverage,
    errors.CorruptVector,
    errors.ConfigError,
)
_CHANGED: Kinds = (errors.NotFound, errors.SpaceMismatch, errors.ConfigError)
_MIGRATED: Kinds = (*_CHANGED, errors.MigrationRefused)
_KEPT: Kinds = (errors.NotFound, errors.SnapshotFailed, errors.CorruptVector, errors.ConfigError)
_SHARD: Kinds = (errors.NotFound, errors.SpaceMismatch, errors.CorruptVector, errors.ConfigError)

_SERVICES: Mapping[str, Mapping[str, Kinds]] = {
    "nestvec.v1.QueryService": {
        "Search": _SEARCHED,
        "BatchSearch": _SEARCHED,
        "GetDocuments": _READ,
        "ListDocumentIds": _READ,
    },
    "nestvec.v1.QualityService": {"DescribeLiveRecall": ()},
    "nestvec.v1.IngestService": {
        "IngestDocuments": (*_CHANGED, errors.StreamConflict, errors.StreamTakenOver),
        "DeleteDocuments": _READ,
    },
    "nestvec.v1.AdminService": {
        "CreateCollection": (errors.AlreadyExists, *_CHANGED),
        "ListCollections": (errors.ConfigError,),
        "DescribeCollection": _MISSING,
        "DropCollection": (*_MISSING, errors.MigrationRefused),
        "AddTier": (*_MIGRATED, errors.CorruptVector),
        "DropTier": _MIGRATED,
        "SetCalibration": (*_MIGRATED, errors.NotCalibrated),
        "DropCalibration": _MIGRATED,
        "VerifyCollection": _READ,
        "SnapshotShards": _KEPT,
        "BackUpCollection": _KEPT,
        "RestoreCollection": (*_KEPT, errors.AlreadyExists, errors.SpaceMismatch),
        "DescribeServer": (),
    },
    "nestvec.v1.MigrationService": {
        "BeginMigration": _MIGRATED,
        "DescribeMigration": _MISSING,
        "RecordGate": _MIGRATED,
        "StepMigration": _MIGRATED,
    },
    "nestvec.v1.RegionAdminService": {
        "DescribeRegions": (errors.ConfigError,),
        "VerifyRegions": (*_READ, errors.ConfigError),
    },
    "nestvec.v1.EncoderService": {
        "Encode": (errors.SpaceMismatch, errors.ConfigError),
        "DescribeEncoder": (errors.SpaceMismatch, errors.ConfigError),
    },
    "nestvec.v1.CoarseService": {
        "SearchCoarse": _SHARD,
        "StreamSearches": (),
        "OpenCollection": _SHARD,
        "ReachWatermark": _REFERRED,
        "DescribeProgress": _REFERRED,
        "SnapshotShard": (*_KEPT, errors.SpaceMismatch),
        "VerifyShard": _SHARD,
        "SettleCollection": _SHARD,
        "CloseCollection": _REFERRED,
        "DescribeTiers": _REFERRED,
        "NameDocuments": _SHARD,
        "InspectDocuments": _SHARD,
    },
    "nestvec.v1.RerankService": {"Rerank": _SHARD},
    "nestvec.v1.CrossEncoderService": {"ScorePairs": (), "DescribeCrossEncoder": ()},
    "nestvec.v1.RegionService": {
        "DescribeRegion": (errors.ConfigError,),
        "SearchRegion": _SEARCHED,
        "RerankRegion": _SEARCHED,
        "FetchDocuments": _COPIED,
        "ReadRecord": _COPIED,
        "ReadPositions": _COPIED,
        "ReadLog": _COPIED,
        "ListVersions": _COPIED,
        "ListTombstones": _COPIED,
        "ReadVersions": _COPIED,
        "ReadDocuments": _COPIED,
    },
}

# By path, as gRPC names a method: what it may end with beside EVERY.
ERRORS: Mapping[str, Kinds] = {
    f"/{service}/{method}": kinds
    for service, methods in _SERVICES.items()
    for method, kinds in methods.items()
}


def statuses(path: str) -> frozenset[grpc.StatusCode]:
    """What a client may see, OK among it. Raises KeyError for an RPC that is not in the table."""
    own = map(code_of_kind, (*EVERY, *ERRORS[path]))
    return frozenset((grpc.StatusCode.OK, *OF_GRPC, *own))
