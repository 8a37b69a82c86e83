"""What the applications need of the world, as Protocols. Adapters and gRPC clients fill them.

The code above a port cannot tell whether the thing behind it is in this process or across a
network: an application fills a port of the room before it just as its gRPC client does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.collection import Collection
from nestvec.core.space import Role, Space

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

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        """The best `count` rows for each query, among `allowed` rows where given.

        queries: (n, dim) float32, unit. allowed: (rows,) bool. Returns (n, count) rows, padded
        with -1, and (n, count) float32 scores, larger is better.
        """
        ...


class CoarseIndexFactory(Protocol):
    """Chooses the kind of index by size and hardware, and builds it."""

    def build(self, prefixes: Floats) -> CoarseIndex:
        """prefixes: (rows, dim) float32, unit."""
        ...


@dataclass(frozen=True, slots=True)
class CoarseQuery:
    """A question to one shard.

    queries: (n, store_dim) float32, unit. bound_z: how many standard deviations the bounds span;
    None asks for plain tier scores (the cosine of renormalised prefixes) and no bounds. alone: no
    other query is under way in this process, so that one in the same process may answer on the
    event loop, where handing a short search to a thread would only cost time. Not on the wire.
    """

    collection: str
    generation: int
    fingerprint: str
    queries: Floats
    coarse_dim: int
    count: int
    bound_z: float | None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class CoarseHits:
    """A shard's answer to one query, as columns, best first: by upper bound where there is one.

    estimates: (m,) float32: of the full cosine with bounds, else the tier's own cosine.
    half_widths: (m,) float32; all zero without bounds. rest_upper_bound: what none of the
    `rest_count` documents outside these columns exceeds; None when that is unknown, -inf when
    nothing is left outside.
    """

    ids: Ids
    estimates: Floats
    half_widths: Floats
    rest_upper_bound: float | None
    rest_count: int = 0


@dataclass(frozen=True, slots=True)
class CoarseAnswer:
    """hits: one a query. documents: how many this shard searched."""

    hits: list[CoarseHits]
    documents: int


@dataclass(frozen=True, slots=True)
class CoarseRows:
    """A change to one shard: all of it becomes visible at once.

    ids: (n,) int64 to index. vectors: (n, store_dim) float32, as the store gives them back.
    removed: (m,) int64 to unindex.
    """

    ids: Ids
    vectors: Floats
    removed: Ids


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier of one shard. nbytes counts index, codes, sketch and ids."""

    dim: int
    documents: int
    deleted: int
    segments: tuple[str, ...]
    nbytes: int


class CoarseSearcher(Protocol):
    """One shard of the coarse tier, here or behind gRPC."""

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """Raises SpaceMismatch, or NotFound for a collection or generation not served here."""
        ...

    async def open(self, collection: Collection) -> int:
        """Serve `collection` from now on: read from the store what is in it. Returns how many
        documents this shard then holds. Calling it again changes nothing.
        """
        ...

    async def apply(self, collection: Collection, rows: CoarseRows) -> int:
        """Index and unindex. Returns how many documents this shard then holds."""
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

    failure_probability: of the order being wrong although the certificate says otherwise; 0 when
    no bound was relied on. missing, corrupt: ids whose full vector was not there, or not what was
    written.
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
        """Raises NotFound, naming what exists."""
        ...

    def forget(self, name: str) -> None:
        """Look this name up again next time: what is at hand has turned out to be old."""
        ...


# --- the store ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """One document to write: its external id, its encoded vector, its encoded payload."""

    external_id: str
    vector: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a record went: its new internal id, and the one it replaced, or -1."""

    internal_id: int
    replaced: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """documents: live ones. Bytes as the server counts them, sampled for the two per-document
    figures.
    """

    documents: int
    vector_bytes_per_document: float
    payload_bytes_per_document: float
    used_memory_bytes: int


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

    async def drop_collection(self, collection: Collection) -> None:
        """Leave the catalogue first, then delete every key. Safe to repeat."""
        ...

    async def asset(self, collection: Collection, name: str) -> bytes:
        """A blob kept with the generation (a rotation). Raises NotFound."""
        ...

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        """Write records under new internal ids and point their external ids at them.

        Atomic a partition. Vectors they replace stay until `purge`: a search may still hold them.
        An external id may stand only once in `records`.
        """
        ...

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        """(n,) int64 internal ids, -1 where there is none."""
        ...

    async def unmap(self, collection: Collection, external_ids: Sequence[str]) -> None:
        """Forget the ids: what they named is no longer live. `purge` frees it."""
        ...

    async def purge(self, collection: Collection, ids: Ids) -> None:
        """Free vectors and payloads that are no longer live."""
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

    async def usage(self, collection: Collection) -> StoreUsage:
        """How much is kept."""
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the server answers."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
