"""What is to be sized: a collection, its documents, and how it is to be run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from nestvec.adapters.faiss_codes import recipe
from nestvec.core.collection import Collection
from nestvec.core.document import MAX_ID_BYTES, Document, payload_to_bytes
from nestvec.core.errors import InvalidRequest
from nestvec_cluster.sizing.allocators import Allocator
from nestvec_cluster.sizing.servers import Server

MIB = 1 << 20
GIB = 1 << 30
_MOST_DOCUMENTS = 10**12
_MOST_SHARDS = 64
# Lengths that stand for a mean where nothing else is known: from half of it to one and a half.
_SPREAD = 17


def spread(mean: float) -> tuple[int, ...]:
    """Lengths around a mean, evenly. Blocks of an allocator are stepped: one length would be either
    lucky or unlucky.
    """
    return tuple(max(round(mean * (0.5 + step / (_SPREAD - 1))), 1) for step in range(_SPREAD))


@dataclass(frozen=True, slots=True)
class Documents:
    """What the documents are like; lengths are of a sample, in bytes.

    count: live ones. ids: UTF-8. payloads: as core.document encodes them, id and text included.
    keywords: different values of all keyword fields together, and keyword_bytes their mean.
    store_bytes: of one payload in the server's memory, where that was measured. width: bytes that
    Python takes for a byte of a payload: a text has one, two or four for every character, as its
    widest one needs, and a field is several objects.
    """

    count: int
    ids: tuple[int, ...]
    payloads: tuple[int, ...]
    keywords: int = 0
    keyword_bytes: float = 0.0
    store_bytes: float | None = None
    width: float = 1.0

    def __post_init__(self) -> None:
        _within("documents", self.count, 1, _MOST_DOCUMENTS)
        if not self.ids or not self.payloads:
            raise InvalidRequest("documents", "no length of an id or a payload is known")
        _within("id_bytes", max(self.ids), 1, MAX_ID_BYTES)
        _within("keywords", self.keywords, 0, _MOST_DOCUMENTS)

    @property
    def id_bytes(self) -> float:
        """The mean."""
        return sum(self.ids) / len(self.ids)

    @property
    def payload_bytes(self) -> float:
        """The mean."""
        return sum(self.payloads) / len(self.payloads)


def documents_of(count: int, sample: Sequence[Document]) -> Documents:
    """`count` documents like these."""
    ids = tuple(len(one.id.encode()) for one in sample)
    payloads = tuple(len(payload_to_bytes(one)) for one in sample)
    width = sum(map(_held_bytes, sample)) / max(sum(payloads), 1)
    return Documents(count, ids, payloads, width=max(width, 1.0))


def _held_bytes(document: Document) -> int:
    """What Python takes for a text and fields, beyond empty ones."""
    fields = dict(document.fields)
    words = sum(sys.getsizeof(one) for pair in fields.items() for one in pair)
    text = sys.getsizeof(document.text) - sys.getsizeof("")
    return text + words + sys.getsizeof(fields) - sys.getsizeof({})


def documents_like(
    count: int, id_bytes: float, text_bytes: float, field_bytes: float = 0.0
) -> Documents:
    """By their means, in bytes. field_bytes: of all fields of one document as JSON."""
    if id_bytes <= 0 or text_bytes < 0 or field_bytes < 0:
        raise InvalidRequest(
            "documents",
            f"ids of {id_bytes:g}, texts of {text_bytes:g} and fields of {field_bytes:g} bytes; "
            f"expected more than 0 for ids, 0 or more for the others",
        )
    around = len(payload_to_bytes(Document("", ""))) + round(id_bytes + field_bytes)
    texts = spread(text_bytes) if text_bytes else (0,)
    return Documents(count, (max(round(id_bytes), 1),), tuple(around + text for text in texts))


@dataclass(frozen=True, slots=True)
class Store:
    """The server of each region. primaries: more than one make a cluster. replicas: of each
    primary. allocator: as the server's INFO names it.
    """

    server: Server = Server.VALKEY
    allocator: Allocator = Allocator.JEMALLOC
    primaries: int = 1
    replicas: int = 0

    def __post_init__(self) -> None:
        _within("primaries", self.primaries, 1, 1000)
        _within("redis_replicas", self.replicas, 0, 100)


@dataclass(frozen=True, slots=True)
class Plan:
    """A collection and how it is run.

    shards, replicas: of the coarse tier. front_ends, writers: processes of `query` and `ingest`.
    regions: that hold everything. prefix_regions: that hold a copy of the prefixes of one tier,
    prefix_dim. batch: documents of one message of ingest. log_entries: kept a partition.
    payload_cache, query_cache: bytes of a front end's caches. gpu: the coarse scan runs on GPUs.
    writes: documents written in a second, while a snapshot of the store is made. pod: bytes that
    one pod may have; node: bytes of one machine.
    """

    collection: Collection
    documents: Documents
    shards: int = 1
    replicas: int = 2
    front_ends: int = 2
    writers: int = 1
    regions: int = 1
    prefix_regions: int = 0
    prefix_dim: int = 256
    store: Store = field(default_factory=Store)
    keep_ids: bool = True
    batch: int = 256
    log_entries: int = 1024
    payload_cache: int = 64 * MIB
    query_cache: int = 32 * MIB
    model_bytes: int = 0
    gpu: bool = False
    gpu_bytes: int = 24 * GIB
    writes: float = 100.0
    pod: int = 16 * GIB
    node: int = 64 * GIB

    def __post_init__(self) -> None:
        _within("shards", self.shards, 1, min(_MOST_SHARDS, self.collection.partitions))
        for name in ("replicas", "front_ends", "writers", "regions", "batch", "log_entries"):
            _within(name, getattr(self, name), 1, 100_000)
        _within("prefix_regions", self.prefix_regions, 0, 1000)
        _within("payload_cache", self.payload_cache, 0, self.node)
        _within("query_cache", self.query_cache, 0, self.node)
        _within("writes", self.writes, 0, 10**7)
        _within("pod", self.pod, 256 * MIB, self.node)
        if self.prefix_regions:
            self.collection.require_searchable(self.prefix_dim, "prefix_dim")
        for dim in self.collection.tiers:
            self._require_divided(dim)

    def _require_divided(self, dim: int) -> None:
        code = self.collection.coarse_code
        if recipe(code, dim) is None:
            raise InvalidRequest(
                "code",
                f"{code.value} does not divide a prefix of {dim} dimensions; choose another code, "
                f"or tiers that it divides",
            )

    @property
    def shard_documents(self) -> int:
        """Of the largest shard, as partitions fall to shards."""
        partitions = self.collection.partitions
        return -(-self.documents.count * -(-partitions // self.shards) // partitions)

    @property
    def workers(self) -> int:
        """Coarse workers of one region."""
        return self.shards * self.replicas


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidRequest(name, f"{value:,}, expected {least:,} to {most:,}")
