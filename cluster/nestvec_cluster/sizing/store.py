"""The store: bytes of memory by what they are for, and of disk.

Keys and values are those of adapters/redis_keys.py, and their lengths are taken from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from nestvec.adapters.redis_keys import Keyspace, entry_value
from nestvec.adapters.redis_writes import BYTES_PER_TRANSACTION
from nestvec.core.collection import Collection
from nestvec.core.sketch import asset_names
from nestvec_cluster.sizing.plan import MIB, Documents, Plan, Store
from nestvec_cluster.sizing.servers import Memory, Server, ServerMemory

_PREFIX = "nestvec"
# A sequence of a store in its first epoch has ten digits (core/watermark.py).
_SEQUENCE = (1 << 32) + 1
_ENTRY = len(entry_value(1, 1))
_SEQUENCE_BYTES = 6
# Of the server itself: used_memory of an empty one with the connections of a cluster, and beside it
# its code, libraries and tables, and the room that one transaction of ingest leaves free.
_EMPTY_USED = 1.5 * MIB
_EMPTY_RESIDENT = 6.0 * MIB + BYTES_PER_TRANSACTION
# Each partition has a sequence, an id map, a log and how far it is tidied, beside what they hold.
_KEYS_BESIDE = 4
# Points of a normal distribution that stand for how many documents a partition has.
_QUANTILES = 33
# Of each command in the append-only file: the lengths before each of its words.
_FRAMING = 14


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Of all primaries of one region together, in bytes as the server counts them. resident: of
    their processes. snapshot: of an RDB file, or the base of an append-only file, uncompressed.
    log_file: what the append-only file grows by until it is rewritten.
    """

    vectors: float
    payloads: float
    id_map: float
    log: float
    tables: float
    assets: float
    server: float
    resident: float
    snapshot: float
    log_file: float

    @property
    def used(self) -> float:
        """used_memory."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """used_memory by what it is for."""
        return {
            "vectors": self.vectors,
            "payloads": self.payloads,
            "id map": self.id_map,
            "log": self.log,
            "key tables": self.tables,
            "rotations": self.assets,
            "server": self.server,
        }


def store_size(plan: Plan) -> StoreSize:
    """Of a region that holds everything."""
    return _size(plan, plan.collection, plan.documents, plan.collection.codec.nbytes)


def prefix_store_size(plan: Plan, copied: Collection, documents: Documents) -> StoreSize:
    """Of a region that holds rows of one tier in the place of vectors, and no texts."""
    return _size(plan, copied, documents, copied.rows.nbytes)


def _size(plan: Plan, collection: Collection, documents: Documents, vector: int) -> StoreSize:
    store = plan.store
    memory = ServerMemory(store.server, store.allocator, store.primaries > 1)
    count, partitions = documents.count, collection.partitions
    key = key_bytes(collection)
    vectors = memory.string(key, vector).times(count)
    payloads = _mean(documents.payloads, lambda length: memory.string(key, length)).times(count)
    if documents.store_bytes is not None:
        payloads = Memory(documents.store_bytes * count, payloads.blocks)
    id_map = _of_partitions(
        count,
        partitions,
        lambda fields: _mean(
            documents.ids, lambda length: memory.hash_fields(fields, length, _ENTRY)
        ),
    )
    log = _log(memory, plan, count, partitions)
    tables = _tables(memory, store, count, partitions)
    names = asset_names(collection.tiers, collection.store_dim)
    assets = _assets(collection)
    parts = (vectors, payloads, id_map, log, tables)
    beside = store.allocator.beside * sum(part.blocks for part in parts)
    used = sum(part.used for part in parts) + assets + _EMPTY_USED * store.primaries
    written = _written(documents, vector, key)
    return StoreSize(
        vectors=vectors.used,
        payloads=payloads.used,
        id_map=id_map.used,
        log=log.used,
        tables=tables.used,
        assets=assets + 64 * len(names),
        server=_EMPTY_USED * store.primaries,
        resident=used + beside + _EMPTY_RESIDENT * store.primaries,
        snapshot=count * written.snapshot + assets,
        log_file=count * written.log_file + assets,
    )


def key_bytes(collection: Collection) -> int:
    """Of a vector's or a payload's key, in a partition of the middle."""
    keys = Keyspace(_PREFIX).of(collection)
    return len(keys.vector_prefixes[collection.partitions // 2] + b"%d" % _SEQUENCE)


def _mean(lengths: Sequence[int], of: Callable[[int], Memory]) -> Memory:
    total = Memory()
    for length, times in Counter(lengths).items():
        total += of(length).times(times)
    return total.times(1 / len(lengths))


def _of_partitions(count: int, partitions: int, of: Callable[[float], Memory]) -> Memory:
    """Of all partitions together. Ids fall to partitions by their hash: near a step (of tables, or
    from packed to not) some are above and others below.
    """
    mean = count / partitions
    deviation = math.sqrt(mean * (1 - 1 / partitions))
    if deviation == 0:
        return of(mean).times(partitions)
    normal = NormalDist(mean, deviation)
    total = Memory()
    for step in range(_QUANTILES):
        total += of(max(normal.inv_cdf((step + 0.5) / _QUANTILES), 0.0))
    return total.times(partitions / _QUANTILES)


def _log(memory: ServerMemory, plan: Plan, count: int, partitions: int) -> Memory:
    """An entry for each message and partition that it has documents of, trimmed."""
    batch = min(plan.batch, count)
    reached = 1.0 - (1.0 - 1.0 / partitions) ** batch
    entries = min(max(count / batch, 1.0) * reached, plan.log_entries)
    value = 1 + _SEQUENCE_BYTES * batch / partitions / reached
    return memory.stream(entries, value).times(partitions)


def _tables(memory: ServerMemory, store: Store, count: int, partitions: int) -> Memory:
    """Places of all keys: one table a server, or in a cluster of Valkey one a slot, which a
    partition has to itself.
    """
    beside = memory.string(40, 10).times(_KEYS_BESIDE * partitions)
    if store.primaries > 1 and store.server is Server.VALKEY:
        table = _of_partitions(2 * count, partitions, memory.key_table)
        return table + beside
    keys = (2 * count + _KEYS_BESIDE * partitions) / store.primaries
    return memory.key_table(keys).times(store.primaries) + beside


def _assets(collection: Collection) -> int:
    """Rotation and dither of each tier, float32."""
    dims = [(dim, collection.store_dim - dim) for dim in collection.tiers]
    return sum(4 * tail * tail + 4 * dim for dim, tail in dims)


@dataclass(frozen=True, slots=True)
class _Written:
    """Bytes of one document. snapshot: in an RDB file. log_file: as commands."""

    snapshot: float
    log_file: float


def _written(documents: Documents, vector: int, key: int) -> _Written:
    """A document is two SETs, a HSET and its share of an XADD (redis_scripts.PUT)."""
    values = vector + documents.payload_bytes + documents.id_bytes + _ENTRY
    # RDB: kind and lengths of each value; LZF makes texts shorter, which is not counted on.
    snapshot = values + 2 * key + 2 * 6 + 2 + _SEQUENCE_BYTES
    words = 3 + 3 + 4
    hashes = key - len(b"v:%d" % _SEQUENCE) + len(b":ids")
    log_file = values + 2 * key + hashes + 12 + _FRAMING * words / 2 + 3 * 8 + _SEQUENCE_BYTES * 2
    return _Written(snapshot, log_file)
