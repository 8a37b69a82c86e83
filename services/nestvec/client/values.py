"""What the clients take and give: frozen values, core types where they fit, never a message."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from nestvec.core.arrays import Floats
from nestvec.core.calibration import Calibration
from nestvec.core.certificate import Certificate
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.coverage import Coverage
from nestvec.core.document import FieldValue
from nestvec.core.fields import FieldType
from nestvec.core.measured import Evidence
from nestvec.core.ports import StoreUsage, TierStatus
from nestvec.core.regions import RegionOutcome, RegionPolicy, RegionState
from nestvec.core.space import Space

# --- searching ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpaceRef:
    """A vector space at one dimension: what was searched, or what scored."""

    fingerprint: str
    dim: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found. score: its cosine in `SearchResult.scoring`. text and fields are empty
    with `ids_only`. cross_score: what a cross-encoder gave it, on a scale of its own; hits that
    have one come first, in its order. region: where it was found; empty where the collection is not
    shared between regions.
    """

    id: str
    score: float
    text: str
    fields: Mapping[str, FieldValue]
    cross_score: float | None = None
    region: str = ""


@dataclass(frozen=True, slots=True)
class Degradation:
    """One thing that was taken from an answer. kind: a core DegradationKind (which is a str), or
    `unknown` when a newer server names one that this version has no word for.
    """

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came about. stages: milliseconds by stage, in the order they ran. matching: how
    many documents the filter lets through; all of them without one.
    """

    stages: Mapping[str, float]
    candidates: int
    fetched: int
    matching: int = 0


@dataclass(frozen=True, slots=True)
class CalibratedPlan:
    """The plan that a target of recall has led to, and what it was measured to reach: the mean over
    queries, with its interval at `confidence`. bound_z: 0 without rerank. reaches_target: False
    where TARGET_MISSED is among the degradations. Where nothing was measured the recall is 0, known
    to be between 0 and 1.
    """

    coarse_dim: int
    candidates: int
    rerank: bool
    bound_z: float
    target_recall: float
    measured_recall: float
    recall_low: float
    recall_high: float
    confidence: float
    reaches_target: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and everything that must be admitted about them.

    coarse: what the coarse tier searched. scoring: what the scores were computed at.
    failure_probability: the chance that the certificate is wrong; 0 when it rests on no
    probabilistic bound. explanation: only when it was asked for. plan: only with a target of
    recall, the caller's or the class's. cross_encoder: which one ordered the first hits; empty
    where none did. The certificate speaks of cosines all the same: of which documents it was given
    to order. regions: each one's part in the answer, the server's own first; empty where the
    collection is not shared between regions.
    """

    hits: tuple[Hit, ...]
    coarse: SpaceRef
    scoring: SpaceRef
    coverage: Coverage
    degradations: tuple[Degradation, ...]
    certificate: Certificate
    failure_probability: float
    search_class: str
    generation: int
    explanation: Explanation | None
    plan: CalibratedPlan | None = None
    cross_encoder: str = ""
    regions: tuple[RegionOutcome, ...] = ()

    @property
    def missing_regions(self) -> tuple[str, ...]:
        """Names of those that were asked and have no part in it: out of reach, or with documents
        that cannot be merged.
        """
        lost = (RegionState.MISSING, RegionState.EXCLUDED)
        return tuple(one.name for one in self.regions if one.state in lost)


# --- documents ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class IngestDocument:
    """A document to write. id: your own key, 1 to 512 bytes of UTF-8. vector: (dim,) unit length,
    in the collection's space, when you encoded it; without it the server encodes the text.
    version: of two writes of an id the one with the greater version stands, whatever their order of
    arrival: 1 to 2**63 - 1 of your own making, or 0 for the server's clock. Do not mix the two in
    one collection.
    """

    id: str
    text: str
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    vector: NDArray[Any] | None = None
    version: int = 0


# What an acknowledgement stands for: that documents are stored, or that searches find them too.
AckName = Literal["stored", "searchable"]


@dataclass(frozen=True, slots=True, eq=False)
class StoredDocument:
    """A document as the store holds it. vector: (dim,) float32 in `GetResult.space`, when asked."""

    id: str
    text: str
    fields: Mapping[str, FieldValue]
    vector: Floats | None


@dataclass(frozen=True, slots=True)
class GetResult:
    """documents: in the order asked for, without the missing. missing_ids: ids that name none."""

    documents: tuple[StoredDocument, ...]
    missing_ids: tuple[str, ...]
    space: SpaceRef


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """deleted: how many documents. missing_ids: ids that named none. stale_ids: ids whose documents
    stay, because they stand at a newer version. watermark: for `search(..., watermark=...)`.
    """

    deleted: int
    missing_ids: tuple[str, ...]
    stale_ids: tuple[str, ...] = ()
    watermark: bytes = b""


class IngestReason(enum.StrEnum):
    """Why a document was not taken, and whether sending it again can help.

    INVALID: it is bad; it never will be taken. UNAVAILABLE: the server could not take it now; send
    it again. SUPERSEDED: its id stood again later in the same message; the later one was taken.
    STALE: it was written, or deleted, at a newer version.
    """

    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    SUPERSEDED = "superseded"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class IngestFailure:
    """One document that was not taken. offset: its place among the documents given."""

    offset: int
    id: str
    reason: IngestReason
    message: str


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """Where an `index` stands after one acknowledgement.

    acknowledged_offset: every document up to and including it is searchable (or stored, where that
    was asked), or was reported.
    indexed, failed: so far. failures: those that this acknowledgement brought.
    """

    acknowledged_offset: int
    indexed: int
    failed: int
    failures: tuple[IngestFailure, ...]


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of the documents of one `index`.

    acknowledged_offset: of the last one settled, one less than the first where there was none.
    failed counts every refusal; failures keeps the first 10,000 (`on_progress` sees all of them).
    watermark: for `search(..., watermark=...)`, so that the search sees all of these documents.
    skipped: how many had been acknowledged to an earlier call with the same stream id.
    """

    acknowledged_offset: int
    indexed: int
    failed: int
    failures: tuple[IngestFailure, ...]
    watermark: bytes = b""
    skipped: int = 0


# --- collections and the server -----------------------------------------------------------------


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is. store_dim: what is stored and scored. tiers: what may be searched.
    fields: what can be filtered on. evidence: why its code and tiers may serve. calibration: what
    its plans were measured to reach; None where that is not known, or does not hold any more.
    """

    name: str
    space: Space
    store_dim: int
    store_dtype: VectorDtype
    tiers: tuple[int, ...]
    generation: int
    partitions: int
    fields: Mapping[str, FieldType]
    coarse_code: CoarseCode
    evidence: Evidence
    calibration: Calibration | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class CollectionDescription(CollectionInfo):
    """What a collection is and holds. tier_status: one a tier, summed over shards."""

    tier_status: tuple[TierStatus, ...]
    store: StoreUsage
    shards: int

    @property
    def documents(self) -> int:
        """How many documents are live."""
        return self.store.documents


@dataclass(frozen=True, slots=True)
class SearchClassInfo:
    """What a search class asks for; a collection serves its nearest tier. target_recall: what it is
    promised where a collection is calibrated. cross_encode: how many of the first hits the
    cross-encoder orders anew. regions: which of them answer where a collection is shared;
    local_score: the least score of the last hit here with which LOCAL_FIRST asks no others. Both
    are None where the server does not tell.
    """

    name: str
    coarse_dim: int
    k: int
    candidates: int
    rerank: bool
    min_coverage: float
    target_recall: float | None = None
    cross_encode: int = 0
    regions: RegionPolicy | None = None
    local_score: float | None = None


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The most that one call may ask for. Bytes of UTF-8 for texts."""

    max_k: int
    max_candidates: int
    max_batch: int
    max_text_bytes: int
    max_ids: int
    max_message_bytes: int


@dataclass(frozen=True)
class ServerInfo:
    """A server: its version, its encoder's space, its search classes and limits, and its
    cross-encoder's name, empty where it has none. spaces: of all its encoders that are open now,
    the default first.
    """

    version: str
    space: Space
    search_classes: tuple[SearchClassInfo, ...]
    limits: ServerLimits
    cross_encoder: str = ""
    spaces: tuple[Space, ...] = ()
