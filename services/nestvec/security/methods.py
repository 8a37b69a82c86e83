"""Which right each RPC takes: the only table of it. An RPC that is not in it cannot be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from nestvec.security.grants import Verb


class Scope(Enum):
    """Where a caller must have the right."""

    # On the collection that the request names.
    NAMED = "the collection"
    # On one collection at least: what is told of others is left out, or is no secret.
    SOME = "any one"
    # On all, as a pattern `*` grants it.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Rule:
    """verbs: any one is enough. collection: the request's field with its name, dots between; one
    that is empty takes the right on all, or with SOME on one. shown: a list in the answer and the
    field of each entry with its collection: only entries that the caller may know of stay. speaks:
    whether the request says which region calls (`caller`), which the credentials must be of.
    """

    verbs: tuple[Verb, ...]
    scope: Scope = Scope.NAMED
    collection: str = ""
    shown: tuple[str, str] | None = None
    speaks: bool = False


_SEARCH, _INGEST, _ADMIN = (Verb.SEARCH,), (Verb.INGEST,), (Verb.ADMIN,)
_INTERNAL, _REGION = (Verb.INTERNAL,), (Verb.REGION,)
# To search or to write one must know what is there.
_ANY = (Verb.SEARCH, Verb.INGEST, Verb.ADMIN)
# The field of a message that is a reference, not a name.
_REF = "collection.name"


def _named(verbs: tuple[Verb, ...], field: str) -> Rule:
    return Rule(verbs, Scope.NAMED, field)


def _region(field: str) -> Rule:
    return Rule(_REGION, Scope.NAMED, field, speaks=True)


_internal = Rule(_INTERNAL, Scope.SOME)

_SERVICES: Mapping[str, Mapping[str, Rule]] = {
    "nestvec.v1.QueryService": {
        "Search": _named(_SEARCH, "collection"),
        "BatchSearch": _named(_SEARCH, "collection"),
        "GetDocuments": _named(_SEARCH, "collection"),
        "ListDocumentIds": _named(_SEARCH, "collection"),
    },
    "nestvec.v1.QualityService": {
        "DescribeLiveRecall": Rule(
            _SEARCH, Scope.SOME, "collection", shown=("classes", "collection")
        ),
    },
    "nestvec.v1.IngestService": {
        "IngestDocuments": _named(_INGEST, "collection"),
        "DeleteDocuments": _named(_INGEST, "collection"),
    },
    "nestvec.v1.AdminService": {
        "CreateCollection": _named(_ADMIN, "name"),
        "ListCollections": Rule(_ANY, Scope.SOME, shown=("collections", "name")),
        "DescribeCollection": _named(_ANY, "name"),
        "DropCollection": _named(_ADMIN, "name"),
        "AddTier": _named(_ADMIN, "name"),
        "DropTier": _named(_ADMIN, "name"),
        "SetCalibration": _named(_ADMIN, "name"),
        "DropCalibration": _named(_ADMIN, "name"),
        "VerifyCollection": _named(_ADMIN, "name"),
        "SnapshotShards": _named(_ADMIN, "name"),
        # They write and read wherever the server may; a backup holds any collection's documents.
        "BackUpCollection": Rule(_ADMIN, Scope.ALL),
        "RestoreCollection": Rule(_ADMIN, Scope.ALL),
        "DescribeServer": Rule(_ANY, Scope.SOME),
    },
    "nestvec.v1.MigrationService": {
        "BeginMigration": _named(_ADMIN, "collection"),
        "DescribeMigration": _named(_ADMIN, "collection"),
        "RecordGate": _named(_ADMIN, "collection"),
        "StepMigration": _named(_ADMIN, "collection"),
    },
    "nestvec.v1.RegionAdminService": {
        "DescribeRegions": Rule(_ADMIN, Scope.ALL),
        "VerifyRegions": _named(_ADMIN, "collection"),
    },
    # Offered by front ends as well, to clients that bring their own vectors.
    "nestvec.v1.EncoderService": {
        "Encode": Rule((Verb.SEARCH, Verb.INGEST), Scope.SOME),
        "DescribeEncoder": Rule((Verb.SEARCH, Verb.INGEST), Scope.SOME),
    },
    "nestvec.v1.CoarseService": {
        "SearchCoarse": _internal,
        "StreamSearches": _internal,
        "OpenCollection": _internal,
        "ReachWatermark": _internal,
        "DescribeProgress": _internal,
        "SnapshotShard": _internal,
        "VerifyShard": _internal,
        "SettleCollection": _internal,
        "CloseCollection": _internal,
        "DescribeTiers": _internal,
        "NameDocuments": _internal,
        "InspectDocuments": _internal,
    },
    "nestvec.v1.RerankService": {"Rerank": _internal},
    "nestvec.v1.CrossEncoderService": {
        "ScorePairs": _internal,
        "DescribeCrossEncoder": _internal,
    },
    "nestvec.v1.RegionService": {
        "DescribeRegion": Rule(_REGION, Scope.SOME, speaks=True),
        "SearchRegion": _region("collection"),
        "RerankRegion": _region("collection"),
        "FetchDocuments": _region("collection"),
        "ReadRecord": _region("collection"),
        "ReadPositions": _region(_REF),
        "ReadLog": _region(_REF),
        "ListVersions": _region(_REF),
        "ListTombstones": _region(_REF),
        "ReadVersions": _region(_REF),
        "ReadDocuments": _region(_REF),
    },
    "grpc.reflection.v1alpha.ServerReflection": {
        "ServerReflectionInfo": Rule((*_ANY, Verb.REGION), Scope.SOME),
    },
}

# By path, as gRPC names a method.
RULES: Mapping[str, Rule] = {
    f"/{service}/{method}": rule
    for service, methods in _SERVICES.items()
    for method, rule in methods.items()
}

# Served to everybody: a probe has no credentials, and is told yes or no.
OPEN = ("grpc.health.v1.Health",)
