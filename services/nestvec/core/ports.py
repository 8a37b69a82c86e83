"""What the applications need of the world, as Protocols. Adapters and gRPC clients fill them.

The code above a port cannot tell whether the thing behind it is in this process or across a
network: an application fills a port of the room before it just as its gRPC client does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.codes import CoarseCode
from nestvec.core.collection import Collection
from nestvec.core.coverage import Coverage, Degradation
from nestvec.core.document import Document
from nestvec.core.filters import Filter
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.members import Assignment, ClusterView, Layout, Member
from nestvec.core.migration import Listing, Migration
from nestvec.core.model_spec import ModelSpec
from nestvec.core.regions import RegionDescription
from nestvec.core.space import Role, Space
from nestvec.core.watermark import Watermark

# --- encoding -----------------------------------------------------------------------------------


class EmbeddingModel(Protocol):
    """A model as its library runs it: texts in, raw output out. Blocking, and safe to call from
    several threads at once.
    """

    @property
    def space(self) -> Space:
        """The space of what `embed` returns once it is prepared."""
        ...

    @property
    def inline_texts(self) -> int:
        """Up to how many short texts take so little time that no thread is worth its hop."""
        ...

    def embed(self, texts: Sequence[str]) -> Floats:
        """(n, space.dim) float32, before the recipe. Prompts are in the texts already.

        Raises WorkerUnavailable when what stands behind it does not answer.
        """
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class Encoder(Protocol):
    """The encoder application, here or behind gRPC."""

    @property
    def space(self) -> Space:
        """What all its vectors are in."""
        ...

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        """(n, space.dim) float32, unit rows, recipe and prompts applied."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model that is open. spec: how others open the same one; None where that is not known."""

    encoder: Encoder
    spec: ModelSpec | None = None


class CollectionEncoders(Protocol):
    """As much of `Encoders` as encoding for collections takes: see `encoders.encoder_of`."""

    @property
    def default(self) -> Encoder:
        """The one that the settings name: new collections are made in its space."""
        ...

    async def of(
        self, space: Space, model: ModelSpec | None = None, timeout_s: float | None = None
    ) -> Encoder:
        """The one of exactly this space, opened now where it can be; quick where it is open.

        model: what the collection's record says that makes its vectors. Raises SpaceMismatch,
        naming those that are served here: also where what the record names has another space by
        now. Raises WorkerUnavailable where a model that may be the one cannot be opened, and
        BudgetSpent after `timeout_s` (the opening goes on).
        """
        ...


class Encoders(CollectionEncoders, Protocol):
    """The encoders of one server, one a space: a collection is asked in its own, and while it moves
    to a new model there are two. For a collection's: `nestvec.encoders.encoder_of`.
    """

    @property
    def open_now(self) -> Sequence[ServedModel]:
        """Those that are open, the default first. Others may be opened when they are needed."""
        ...

    async def by_fingerprint(self, fingerprint: str, timeout_s: float | None = None) -> Encoder:
        """As `of`, for whoever has no more than the fingerprint of a space."""
        ...

    async def named(
        self, model: ModelSpec | None = None, timeout_s: float | None = None
    ) -> ServedModel:
        """The model that a person names, opened now where it can be; the default without `model`.
        Its spec is what a collection's record should say. Raises InvalidRequest for a model that
        does not exist or may not be opened here, and WorkerUnavailable or BudgetSpent as `of`.
        """
        ...


# --- cross-encoding -----------------------------------------------------------------------------


class PairModel(Protocol):
    """A cross-encoder as its library runs it: a query and a document's text together in, one score
    out. Blocking, and safe to call from several threads at once.
    """

    @property
    def name(self) -> str:
        """What it is known by."""
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """(n,) float32, greater is better: of pairs (query, text). On a scale of its own.

        Raises WorkerUnavailable when it fails.
        """
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class PairScorer(Protocol):
    """The cross-encoder application, here or behind gRPC, or anything else that scores pairs."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    async def score(self, query: str, texts: Sequence[str], timeout_s: float) -> Floats:
        """(n,) float32, greater is better: how well each text answers the query.

        Raises WouldNotFit at once, before anything is computed, where it would take longer than
        `timeout_s`; BudgetSpent where it did; Overloaded, and WorkerUnavailable when it fails.
        """
        ...


# --- the coarse tier ----------------------------------------------------------------------------


class CoarseIndex(Protocol):
    """An immutable scan over the prefixes of one segment. Rows are numbered from 0."""

    @property
    def kind(self) -> str:
        """What it is, for `describe` and for logs."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    @property
    def reads_every_row(self) -> bool:
        """Whether a search reads the whole code of every row on this processor: bounding each of
        them instead then costs about the same.
        """
        ...

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        """The best `count` rows for each query, among `allowed` rows where given.

        queries: (n, dim) float32, unit. allowed: (rows,) bool. Returns (n, count) rows, padded
        with -1, and (n, count) float32 scores, larger is better.
        """
        ...

    def to_bytes(self) -> bytes | None:
        """For a snapshot; None when building it again costs next to nothing."""
        ...


class CoarseIndexFactory(Protocol):
    """Chooses the kind of index by size and hardware, and builds it."""

    def build(self, prefixes: Floats) -> CoarseIndex:
        """prefixes: (rows, dim) float32, unit."""
        ...

    def coded(self, code: CoarseCode) -> CoarseIndexFactory:
        """One that builds indexes of this code, where rows and dimension allow it."""
        ...

    def from_bytes(self, kind: str, data: bytes, rows: int, dim: int) -> CoarseIndex | None:
        """What `to_bytes` gave of an index of this kind over (rows, dim) prefixes. None when it is
        none, or not what would be built here (another library, other hardware): build it again.
        """
        ...


@dataclass(frozen=True, slots=True)
class CoarseQuery:
    """A question to one shard.

    queries: (n, store_dim) float32, unit. bound_z: how many standard deviations the bounds span;
    None asks for plain tier scores (the cosine of renormalised prefixes) and no bounds. alone: no
    other query is under way in this process, so that one in the same process may answer on the
    event loop, where handing a short search to a thread would only cost time. Not on the wire.
    filter: only matching documents. watermark: answer only once it is reached. certified_k: with
    bounds, of how many best hits it shall be known that no other document can enter: every document
    that matches is bounded, where the tier's own scan reads every row (ports.CoarseIndex); 0 bounds
    those that were found.
    """

    collection: str
    generation: int
    fingerprint: str
    queries: Floats
    coarse_dim: int
    count: int
    bound_z: float | None
    alone: bool = False
    filter: Filter | None = None
    watermark: Watermark | None = None
    certified_k: int = 0


@dataclass(frozen=True, slots=True)
class CoarseHits:
    """A shard's answer to one query, as columns, best first: by upper bound where there is one.

    estimates: (m,) float32: of the full cosine with bounds, else the tier's own cosine.
    half_widths: (m,) float32; all zero without bounds. rest_upper_bound: what none of the
    `rest_count` documents outside these columns exceeds; None when that is unknown, -inf when
    nothing is left outside. rest_half_width: the greatest half width among those: the bound rises
    by no more than that where z doubles; 0 where it is unknown.
    """

    ids: Ids
    estimates: Floats
    half_widths: Floats
    rest_upper_bound: float | None
    rest_count: int = 0
    rest_half_width: float = 0.0


@dataclass(frozen=True, slots=True)
class CoarseAnswer:
    """hits: one a query. documents: how many this shard searched. matching: how many of them the
    filter lets through.
    """

    hits: list[CoarseHits]
    documents: int
    matching: int


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier of one shard. nbytes counts index, codes, sketch and ids. name_nbytes: external ids,
    which all tiers of a shard share: each tells the same.
    """

    dim: int
    documents: int
    deleted: int
    segments: tuple[str, ...]
    nbytes: int
    name_nbytes: int = 0


@dataclass(frozen=True, slots=True)
class TierDifference:
    """One tier of one shard against the store. missing: stored and not indexed. surplus: indexed
    and not stored. compared: rows whose codes were made again; different: of these.
    """

    dim: int
    documents: int
    missing: int
    surplus: int
    compared: int
    different: int


@dataclass(frozen=True, slots=True)
class ShardVerification:
    """What was found before any repair. damaged: (n,) int64 internal ids of documents whose stored
    vector or payload is missing, damaged or of another space.
    """

    tiers: list[TierDifference]
    store_documents: int
    damaged: Ids


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """Where a snapshot of one shard was written, and how much is in it."""

    location: str
    documents: int
    nbytes: int


class CoarseSearcher(Protocol):
    """One shard of the coarse tier, here or behind gRPC. It follows the ingest log by itself."""

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """Raises SpaceMismatch, or NotFound for a collection or generation not served here."""
        ...

    async def open(self, collection: Collection) -> int:
        """Serve `collection` from now on, from the newest good snapshot and the log, or from the
        store. Returns how many documents this shard then holds. Calling it again changes nothing;
        with other tiers it builds those that are new, while serving, and drops those that are gone.
        """
        ...

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        """Return once all that the watermark says of this shard's partitions can be found, or no
        longer found. Raises BudgetSpent.
        """
        ...

    async def progress(self, collection: Collection) -> Watermark:
        """How far in the log this shard is, for its own partitions."""
        ...

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        """Write one to where this shard looks for one at start. Raises SnapshotFailed."""
        ...

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        """Compare with the store; with `repair`, index and unindex what differs."""
        ...

    async def settle(self, collection: Collection) -> None:
        """Wait until background building has nothing left to do."""
        ...

    async def drop(self, name: str, generation: int) -> None:
        """Forget a generation of a collection and free its memory. Safe to repeat."""
        ...

    async def status(self, collection: Collection) -> list[TierStatus]:
        """One a tier."""
        ...

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        """External ids without the store, in the order of `ids`, (n,) int64 internal ids: None
        where this shard knows none. Quick: nothing is waited for.
        """
        ...

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        """What is known here of documents that a search should have found. Raises NotFound."""
        ...


class Shards(Protocol):
    """Which shards hold a collection. In a cluster that changes from call to call; each of them may
    then stand for several replicas.
    """

    def of(self, collection: str) -> Sequence[CoarseSearcher]:
        """In order of their numbers: shard i of n holds `partitions_of(i, partitions, n)`."""
        ...

    def beside(self, collection: str) -> Sequence[Sequence[CoarseSearcher]]:
        """The shards of other layouts that follow the collection and are whole: another process may
        ask one of them already, or again.
        """
        ...

    def promised(self, collection: str, generation: int) -> Sequence[int | None]:
        """How many documents each of them was last known to hold; None where nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class FixedShards:
    """The same ones for every collection. Fills Shards."""

    searchers: Sequence[CoarseSearcher]

    def of(self, collection: str) -> Sequence[CoarseSearcher]:  # noqa: ARG002
        """See Shards."""
        return self.searchers

    def beside(self, collection: str) -> Sequence[Sequence[CoarseSearcher]]:  # noqa: ARG002
        """See Shards. There are none."""
        return ()

    def promised(self, collection: str, generation: int) -> Sequence[int | None]:  # noqa: ARG002
        """See Shards. What each answered last is for the caller to remember."""
        return [None] * len(self.searchers)


# --- regions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegionQuery:
    """A question to another region, with the plan that is run here.

    queries: (n, store_dim) float32, unit. coarse_dim: with a rerank, a region without that tier
    takes its nearest one. bound_z: None where no caller and no measurement gave one. target_recall:
    in place of coarse_dim, candidates, rerank and bound_z, as each region was calibrated; where it
    was not, these are taken, and TARGET_MISSED says so. versions: of each hit, for documents that
    several regions hold. inline_bytes: payloads that come along, for each query.
    """

    collection: str
    fingerprint: str
    queries: Floats
    search_class: str
    k: int
    coarse_dim: int
    candidates: int
    rerank: bool
    bound_z: float | None = None
    filter: Filter | None = None
    target_recall: float | None = None
    exhaustive: bool = False
    versions: bool = False
    inline_bytes: int = 0
    ids_only: bool = False


@dataclass(frozen=True, slots=True)
class RegionHits:
    """One query's hits in one region, as columns, best first. scores: (n,) float32. versions: (n,)
    int64, None unless asked for. documents: of the first ones, in order, as many as came along.
    """

    ids: Sequence[str]
    scores: Floats
    versions: Ids | None = None
    documents: Sequence[Document] = ()
    certificate: Certificate = Certificate.NONE
    failure_probability: float = 0.0
    degradations: Sequence[Degradation] = ()
    candidates: int = 0
    fetched: int = 0
    matching: int = 0


@dataclass(frozen=True, slots=True)
class RegionAnswer:
    """hits: one a query. seconds: what it took there, without the way. staleness_s: since all that
    another region had written was known to be there; None where that is unknown, 0 where nothing is
    replicated.
    """

    region: str
    generation: int
    fingerprint: str
    scoring_dim: int
    coarse_dim: int
    coverage: Coverage
    hits: Sequence[RegionHits]
    seconds: float
    staleness_s: float | None = 0.0


@dataclass(frozen=True, slots=True)
class RegionRerank:
    """Candidates that were found in a copy of a region's prefixes, for that region to order.

    query: (store_dim,) float32, unit. hits: its ids stand for nothing; `ids` are external ones, in
    the same order. versions: (n,) int64 of those documents whose bounds these are; None where that
    is not known. Bounds of one that was written again since say nothing of it.
    """

    collection: str
    fingerprint: str
    query: Floats
    ids: Sequence[str]
    hits: CoarseHits
    k: int
    bound_z: float
    inline_bytes: int = 0
    ids_only: bool = False
    versions: Ids | None = None


class Region(Protocol):
    """Another region. All raise WorkerUnavailable where it cannot be reached or answers nonsense,
    BudgetSpent, and what it refuses.
    """

    @property
    def name(self) -> str:
        """In the map."""
        ...

    async def describe(self, timeout_s: float) -> RegionDescription:
        """Who answers there. Raises WorkerUnavailable for one that says it is another region."""
        ...

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        """Next to its own store; it asks no further region. Raises SpaceMismatch, NotFound."""
        ...

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        """In full-dimension order, from its own store."""
        ...

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        """Those of `ids` that it has, in that order."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFound:
    """What this region found for another one. collection: the generation that was searched. hits:
    one a query, with the documents of all of them.
    """

    collection: Collection
    scoring_dim: int
    coarse_dim: int
    coverage: Coverage
    hits: Sequence[RegionHits]


class LocalSearch(Protocol):
    """The query application, as it answers for another region."""

    async def search(self, query: RegionQuery, timeout_s: float) -> LocalFound:
        """From this region's own shards and store alone, however little of them answers. Raises
        SpaceMismatch, NotFound, InvalidRequest, NotCalibrated.
        """
        ...


class KnownRegion(Region, Protocol):
    """Another region, with what is learned of it from call to call.

    `timeout_s` of its calls is until the answer must be here: the region itself is given that less
    a round trip, and whoever calls need not subtract it.
    """

    @property
    def round_trip_s(self) -> float:
        """Of the way there and back: measured, and until then what the map expects."""
        ...

    def unfit(self, timeout_s: float) -> str | None:
        """Why a call now would come to nothing within `timeout_s`: it has failed and is left alone
        for a while, or the way there and back takes longer. None where it is worth making.
        """
        ...

    def known(self, collection: str) -> int | None:
        """How many documents of it that region said that it holds, when it told last; None where
        it never has.
        """
        ...


@dataclass(frozen=True, slots=True)
class PrefixAnswer:
    """What a copy of a region's prefixes has found. said: why that region did not put it in
    full-dimension order; empty where it did.
    """

    answer: RegionAnswer
    said: str = ""


class PrefixCopies(Protocol):
    """Other regions' documents, of which this region holds one coarse tier only."""

    def holds(self, collection: str, region: str) -> bool:
        """Whether a copy of that region's part is here and may be searched."""
        ...

    async def search(self, region: str, query: RegionQuery, timeout_s: float) -> PrefixAnswer:
        """Search the copy of what `region` holds, have that region put it in order where it can be
        reached, and else take the order of the estimates. Scores are of the full dimension, or
        estimates of that, where `query.rerank`. Raises as `Region.search`.
        """
        ...


class Staleness(Protocol):
    """How far replicated collections here may be behind other regions."""

    def of(self, collection: str) -> Mapping[str, float | None]:
        """Region -> seconds since all that was written there was known to be here; None: never
        yet. Empty where nothing is replicated here.
        """
        ...


# --- the cluster --------------------------------------------------------------------------------


class Registry(Protocol):
    """Who belongs to a cluster: leases, and which workers hold which collection.

    All raise StoreUnavailable when it does not answer in time. Nothing here is kept at hand:
    `membership` does that.
    """

    async def found(self, cluster: str) -> None:
        """Claim this namespace for a cluster of that name. Safe to repeat. Raises ConfigError where
        another cluster has it, or one of another protocol.
        """
        ...

    async def join(self, member: Member, ttl_s: float) -> Member:
        """Take a lease under `member.name`; returns it with its incarnation. Whoever had the name
        loses it. Raises ConfigError for another protocol than the cluster's.
        """
        ...

    async def renew(self, member: Member, ttl_s: float) -> None:
        """Keep the lease, and tell state and facts. Raises LeaseLost where it has ended, or another
        incarnation has the name.
        """
        ...

    async def leave(self, member: Member) -> None:
        """Give the lease up. Safe to repeat; another incarnation's stays."""
        ...

    async def view(self, known: ClusterView | None = None) -> ClusterView:
        """Who is there now. With `known`, that same one where nothing but facts has changed."""
        ...

    async def assign(
        self, collection: str, expected: Assignment | None, wanted: Assignment | None
    ) -> None:
        """Change who holds a collection, atomically; None takes its own assignment away. Raises
        ConfigError where the registry has another one than `expected`.
        """
        ...

    async def forget(self, layout: Layout) -> None:
        """Its workers are gone for good: promise no documents for them any more."""
        ...

    async def disband(self) -> None:
        """Delete all that is kept here of the cluster."""
        ...


# --- the reranker -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RerankQuery:
    """Candidates of one query to put into full-dimension order.

    query: (store_dim,) float32, unit. candidates: merged over shards, any order. k: how many are
    wanted. exhaustive: fetch every candidate, whatever the bounds say (the baseline).
    """

    query: Floats
    candidates: CoarseHits
    k: int
    bound_z: float
    exhaustive: bool = False


@dataclass(frozen=True, slots=True)
class RerankAnswer:
    """The k best by exact score, as columns, and every further one that ties with the last.

    failure_probability: of the certificate being wrong (core/certificate.py); 0 when it relies on
    no bound, and where there is none. missing, corrupt: ids whose full vector was not there, or not
    what was written.
    """

    ids: Ids
    scores: Floats
    considered: int
    fetched: int
    certificate: Certificate
    failure_probability: float
    missing: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    corrupt: Ids = field(default_factory=lambda: np.empty(0, np.int64))


class Reranker(Protocol):
    """The rerank application, here or behind gRPC."""

    async def rerank(
        self, collection: Collection, query: RerankQuery, timeout_s: float
    ) -> RerankAnswer:
        """Raises StoreUnavailable when no full vector can be read."""
        ...


class Catalogue(Protocol):
    """Which collections there are: read on every request, so kept at hand."""

    async def get(self, name: str) -> Collection:
        """What the name stands for; of `core.migration.generation_name`, that generation, also one
        that serves under no name. Raises NotFound, naming what exists.
        """
        ...

    def forget(self, name: str) -> None:
        """Look this name up again next time: what is at hand has turned out to be old."""
        ...


class WatchedCatalogue(Catalogue, Protocol):
    """One that also knows of migrations."""

    async def migration(self, name: str) -> Migration | None:
        """The newest one of a collection, as it was a moment ago."""
        ...


class Carrying(Protocol):
    """What was written to one generation of a collection, as the other one has it while it moves
    to another model.
    """

    async def beyond(self, collection: Collection) -> Collection | None:
        """Where else a write to this generation must be found before it counts as searchable."""
        ...

    async def require_open(self, collection: Collection) -> None:
        """Raise MigrationRefused where this generation is about to be dropped, so that a write to
        it might be lost. Asked before and after each write: one that takes long may come when all
        was carried over already, and must not be acknowledged then.
        """
        ...

    async def expects(self, collection: Collection) -> bool:
        """Whether older writes may still come to this generation, carried over from the other one
        or from another region: what deletes them must be remembered.
        """
        ...

    async def carried(
        self, watermark: Watermark, source: Collection, sink: Collection, timeout_s: float
    ) -> Watermark:
        """Wait until what a watermark of `source` speaks of is in the store of `sink`; returns a
        watermark of that one. Raises BudgetSpent.
        """
        ...

    async def translated(
        self, watermark: Watermark, collection: Collection, timeout_s: float
    ) -> Watermark:
        """A watermark of another generation, or of another region, as one of `collection`, once it
        is carried over; the same one where no migration leads from one to the other. Raises
        BudgetSpent, and InvalidRequest for one of a region from which nothing comes here.
        """
        ...


class Generations(Protocol):
    """Generations of collections beside the ones that serve."""

    async def add_generation(self, collection: Collection) -> Collection:
        """Make one, open on every shard; returns it with its number. Raises NotFound where its name
        stands for nothing, and InvalidRequest for tiers that may not serve.
        """
        ...

    async def drop_generation(self, collection: Collection) -> None:
        """Free it, in memory and in the store. Safe to repeat."""
        ...


# --- the store ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """One document to write: its external id, its encoded vector, its encoded payload, and the
    version that decides between two writes of one id (see core.clock).
    """

    external_id: str
    vector: bytes
    payload: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a record went. internal_id: its new one, or -1 where a newer version stands and nothing
    was written. replaced: the one it replaced, or -1. newest: the version that stands now.
    """

    internal_id: int
    replaced: int
    newest: int


@dataclass(frozen=True, slots=True)
class StoreDeletion:
    """One document to delete. remember: keep its version even where the document is unknown here,
    so that an older write which arrives later is refused.
    """

    external_id: str
    version: int
    remember: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of a deletion. internal_id: what it deleted, or -1. position: its place in the
    log in the form of an internal id, or -1 where nothing was written. newest: the version that
    stands now: greater than the deletion's own where the document was newer and stays.
    """

    internal_id: int
    position: int
    newest: int


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Consecutive changes of one partition, in one. first, last: the sequences it covers; `follows`
    (core.watermark) tells whether it continues where a reader stands. added: (n,) int64 internal
    ids, without those that it removes again. removed: (m,) int64 internal ids. deletions: external
    id and version of each, in order.
    """

    partition: int
    first: int
    last: int
    added: Ids
    removed: Ids
    deletions: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """All that the store keeps of one live document, for a backup."""

    external_id: str
    sequence: int
    version: int
    vector: bytes | None
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One live document by its names and its version alone."""

    external_id: str
    sequence: int
    version: int


@dataclass(frozen=True, slots=True)
class StreamState:
    """What is remembered of a resumable ingest stream. first: its first offset ever. next: the
    first offset that is not acknowledged.
    """

    first: int
    next: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """documents: live ones. Bytes as the server counts them, sampled for the two per-document
    figures.
    """

    documents: int
    vector_bytes_per_document: float
    payload_bytes_per_document: float
    used_memory_bytes: int
    tombstones: int = 0
    log_entries: int = 0


class VectorStore(Protocol):
    """Keeps every full vector and payload, and the catalogue of collections.

    All raise StoreUnavailable when the server is down or too slow, and Overloaded when it is full
    (nothing is then half-written). A call may be cancelled at any time.
    """

    async def collections(self) -> list[Collection]:
        """Every collection in the catalogue, by name."""
        ...

    async def create_collection(
        self, collection: Collection, assets: dict[str, bytes]
    ) -> Collection:
        """Enter it into the catalogue with its assets. Raises AlreadyExists by name.

        Returns it with its generation: a number never given to that name before, so that keys left
        behind by a drop that was cut short cannot be seen again.
        """
        ...

    async def add_generation(self, collection: Collection, assets: dict[str, bytes]) -> Collection:
        """Enter a generation beside the one that a name stands for; as create_collection. Raises
        NotFound where the name stands for none.
        """
        ...

    async def update_collection(
        self, collection: Collection, added: dict[str, bytes], dropped: Sequence[str] = ()
    ) -> None:
        """Replace the record of this generation, with assets added and dropped: all or nothing.
        Raises NotFound when the catalogue does not have this generation.
        """
        ...

    async def drop_collection(self, collection: Collection) -> None:
        """Leave the catalogue first, then delete every key of this generation. Safe to repeat."""
        ...

    async def lists(self, collection: Collection) -> bool:
        """Whether this generation is in the catalogue: its name stands for it, or it is beside that
        one. If so, a drop that comes later also deletes what was written before this call.
        """
        ...

    async def listing(self) -> Listing:
        """The whole catalogue, at one moment."""
        ...

    async def catalogue_revision(self) -> int:
        """Another one after each change of what `listing` tells. Cheap, to be asked often."""
        ...

    async def asset(self, collection: Collection, name: str) -> bytes:
        """A blob kept with the generation (a rotation). Raises NotFound."""
        ...

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        """Write records under new internal ids, point their external ids at them, and log it.

        Atomic a partition. A record whose id stands, or was deleted, at a greater version is
        refused by itself. Vectors that are replaced stay until `tidy`: a search may still hold
        them. An external id may stand only once in `records`.
        """
        ...

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]:
        """As `put`, but a record at the very version that stands is refused too: what is copied
        here and back again changes nothing.
        """
        ...

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]:
        """Forget external ids, keep tombstones with their versions, and log it. Atomic a partition.
        Vectors and payloads stay until `tidy`.
        """
        ...

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        """(n,) int64 internal ids, -1 where there is none."""
        ...

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        """Partition -> the last sequence written; 0 where nothing was. One round trip."""
        ...

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        """What was written after a position, for each partition named in `after`: at most one batch
        a partition, of about `limit` documents over all of them. A batch never spans a
        discontinuity: where entries are missing within the log, it ends before, and the next read
        begins after.
        """
        ...

    async def tidy(self, collection: Collection, upto: Mapping[int, int], keep: int) -> int:
        """Free vectors and payloads that the log says were replaced or deleted up to a position,
        then trim the log of each partition to about `keep` entries, never what was not freed.
        Returns how many documents were freed. Safe to repeat, and after a crash half-way.
        """
        ...

    async def expire_tombstones(self, collection: Collection, before_ms: int) -> int:
        """Forget deletions older than a time (milliseconds since 1970). Returns how many."""
        ...

    async def stream(self, collection: Collection, stream_id: str) -> StreamState | None:
        """What is remembered of a resumable stream."""
        ...

    async def stream_digests(
        self, collection: Collection, stream_id: str, first: int, count: int
    ) -> bytes:
        """4 bytes an offset, for `count` offsets from `first` on; zeros where nothing is kept."""
        ...

    async def advance_stream(
        self, collection: Collection, stream_id: str, first: int, digests: bytes
    ) -> None:
        """Acknowledge offsets from `first` on (4 bytes each in `digests`); it must be the stream's
        next. Kept for a week after the last call.
        """
        ...

    def documents(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredDocument]]:
        """All live documents of a partition, in batches, for a backup."""
        ...

    def entries(self, collection: Collection, partition: int) -> AsyncIterator[list[StoredVersion]]:
        """All live documents of a partition without their values, in batches. Each at least once if
        it lives through the whole scan.
        """
        ...

    def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        """External id and version of every deletion that is remembered, in batches, as entries."""
        ...

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        """What stands of some documents, in their order; None where there is none."""
        ...

    async def deletions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[int | None]:
        """The versions of deletions that are remembered, in the order of the ids; None where there
        is none.
        """
        ...

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]:
        """Documents by internal id, in the order of `ids`. None for one that is replaced, deleted
        or freed by now, or whose payload does not tell its name.
        """
        ...

    async def restore(
        self,
        collection: Collection,
        partition: int,
        documents: Sequence[StoredDocument],
        position: int,
    ) -> None:
        """Write documents under the sequences they had, without logging; `position` is where the
        partition's log goes on. For a generation that nobody serves yet.
        """
        ...

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        """Encoded full vectors, None where there is none. One round trip."""
        ...

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        """Encoded payloads, None where there is none. One round trip."""
        ...

    def live_ids(self, collection: Collection, partitions: range) -> AsyncIterator[Ids]:
        """Internal ids of all live documents of some partitions, in batches. Each at least once
        if it lives through the whole scan.
        """
        ...

    async def external_ids(self, collection: Collection, ids: Ids) -> list[str | None]:
        """From payloads, without reading their texts; None where the payload is gone, or damaged
        where the id stands.
        """
        ...

    async def count(self, collection: Collection) -> int:
        """How many documents live: `usage` without what takes long to measure."""
        ...

    async def usage(self, collection: Collection) -> StoreUsage:
        """How much is kept."""
        ...

    # --- moving a collection to another generation ----------------------------------------------

    async def migration(self, name: str) -> Migration | None:
        """The newest one of a collection."""
        ...

    async def change_migration(
        self, before: Migration | None, after: Migration, owner: str = ""
    ) -> Migration | None:
        """Write `after` under the next revision where the record is still `before`, and, with an
        owner, where its claim holds. Returns what was written, or None where nothing was.
        """
        ...

    async def switch_generation(
        self, before: Migration, after: Migration, owner: str = ""
    ) -> Migration | None:
        """As change_migration, and in the same step have the collection's name stand for
        `after.serving`, the one that it stood for beside it. None also where the catalogue does not
        have both generations so.
        """
        ...

    async def claim_migration(self, name: str, owner: str, ttl_s: float) -> bool:
        """Take or renew the right to do the work of a collection's migration; False while another
        one has it.
        """
        ...

    async def release_migration(self, name: str, owner: str) -> None:
        """Give that right up. Safe to repeat."""
        ...

    async def tally(self, name: str, what: str) -> dict[str, int]:
        """Numbers that are kept beside a collection's migration, under a heading."""
        ...

    async def set_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        """Write some of them."""
        ...

    async def add_to_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        """Add to some of them; several processes may."""
        ...

    async def drop_tally(self, name: str, what: str) -> None:
        """Forget all under a heading. Safe to repeat."""
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the server answers."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class BlobStore(Protocol):
    """Files in a folder or in object storage, for snapshots and backups. Blocking.

    Paths are relative, with "/" between parts. All raise SnapshotFailed when the place cannot be
    read or written (full, forbidden, unreachable).
    """

    @property
    def location(self) -> str:
        """For messages, without credentials."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """All of it or nothing: a reader never sees half a file."""
        ...

    def read(self, path: str) -> bytes | None:
        """None where there is no such file."""
        ...

    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it does not exist."""
        ...

    def empty(self) -> bool:
        """Whether nothing is here at all."""
        ...

    def delete(self, path: str) -> None:
        """A file, or a folder and all in it. Safe to repeat."""
        ...
