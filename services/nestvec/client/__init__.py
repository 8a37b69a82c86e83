"""The public SDK, sync and async, over the public gRPC API.

    from nestvec import NestvecClient

    with NestvecClient("127.0.0.1:7700") as client:
        for hit in client.search("docs", "how do I read a file", k=5).hits:
            print(hit.score, hit.id)

Errors are those of `nestvec.core.errors`, with the server's own message. Every call has a deadline.
Reads are tried again when the server does not answer; writes never are.
"""

from __future__ import annotations

from nestvec.client.async_client import AsyncNestvecClient
from nestvec.client.calls import SearchOptions
from nestvec.client.credentials import Credentials
from nestvec.client.ingest import IngestInterrupted
from nestvec.client.quality import ClassRecall, LiveRecall, Share
from nestvec.client.sync_client import NestvecClient
from nestvec.client.upkeep import (
    Backup,
    Restored,
    ShardSnapshot,
    TierChange,
    TierVerification,
    Verification,
)
from nestvec.client.values import (
    AckName,
    CalibratedPlan,
    CollectionDescription,
    CollectionInfo,
    Degradation,
    DeleteResult,
    Explanation,
    GetResult,
    Hit,
    IngestDocument,
    IngestFailure,
    IngestProgress,
    IngestReason,
    IngestReport,
    SearchClassInfo,
    SearchResult,
    ServerInfo,
    ServerLimits,
    SpaceRef,
    StoredDocument,
)
from nestvec.client.vectors import as_query_vector, normalise
from nestvec.core.calibration import Calibration
from nestvec.core.codes import CoarseCode
from nestvec.core.measured import Evidence, LossBudget, Measurement
from nestvec.core.region_reports import RegionDifference, RegionStatus, ReplicationStatus
from nestvec.core.regions import RegionOutcome, RegionPolicy, RegionState

__all__ = [
    "AckName",
    "AsyncNestvecClient",
    "Backup",
    "CalibratedPlan",
    "Calibration",
    "ClassRecall",
    "CoarseCode",
    "CollectionDescription",
    "CollectionInfo",
    "Credentials",
    "Degradation",
    "DeleteResult",
    "Evidence",
    "Explanation",
    "GetResult",
    "Hit",
    "IngestDocument",
    "IngestFailure",
    "IngestInterrupted",
    "IngestProgress",
    "IngestReason",
    "IngestReport",
    "LiveRecall",
    "LossBudget",
    "Measurement",
    "NestvecClient",
    "RegionDifference",
    "RegionOutcome",
    "RegionPolicy",
    "RegionState",
    "RegionStatus",
    "ReplicationStatus",
    "Restored",
    "SearchClassInfo",
    "SearchOptions",
    "SearchResult",
    "ServerInfo",
    "ServerLimits",
    "ShardSnapshot",
    "Share",
    "SpaceRef",
    "StoredDocument",
    "TierChange",
    "TierVerification",
    "Verification",
    "as_query_vector",
    "normalise",
]
