"""What a collection costs on a Redis-protocol server, as the server itself counts it."""

from __future__ import annotations

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import PartitionKeys, locate
from nestvec.adapters.redis_pool import Command, info_fields
from nestvec.core.ports import StoreUsage

_SAMPLED_PARTITIONS = 8
_SAMPLED_PER_PARTITION = 16
# Fields of a hash, or nodes of a stream, that MEMORY USAGE looks at: its default of five is few
# where ids vary in length.
_SAMPLED_FIELDS = 64


async def measure(client: RedisClient, keys: PartitionKeys) -> StoreUsage:
    """Counts every document; sizes are means over a sample. The id map and the log count with the
    vectors. The memory used is of all primaries together.
    """
    counts = await client.batch(
        [(b"HLEN", key) for key in keys.ids + keys.tombstones]
        + [(b"XLEN", key) for key in keys.logs]
    )
    partitions = len(keys.ids)
    lengths = counts[:partitions]
    tombstones, entries = sum(counts[partitions:-partitions]), sum(counts[-partitions:])
    used = sum(map(_used_memory, await client.everywhere(b"INFO", b"memory")))
    filled = [partition for partition, length in enumerate(lengths) if length]
    sampled = filled[:: max(1, len(filled) // _SAMPLED_PARTITIONS)][:_SAMPLED_PARTITIONS]
    if not sampled:
        return StoreUsage(0, 0.0, 0.0, used, tombstones, entries)
    shared = await client.batch(
        [
            (b"MEMORY", b"USAGE", kind[p], b"SAMPLES", _SAMPLED_FIELDS)
            for p in sampled
            for kind in (keys.ids, keys.logs)
        ]
    )
    pages = await client.batch(
        [(b"HSCAN", keys.ids[p], b"0", b"COUNT", _SAMPLED_PER_PARTITION) for p in sampled]
    )
    vectors: list[Command] = []
    payloads: list[Command] = []
    for partition, (_, fields) in zip(sampled, pages, strict=True):
        for value in fields[1::2][:_SAMPLED_PER_PARTITION]:
            if (sequence := locate(value)) is not None:
                name = b"%d" % sequence
                vectors.append((b"MEMORY", b"USAGE", keys.vector_prefixes[partition] + name))
                payloads.append((b"MEMORY", b"USAGE", keys.payload_prefixes[partition] + name))
    shared_bytes = sum(filter(None, shared)) / sum(lengths[partition] for partition in sampled)
    return StoreUsage(
        documents=sum(lengths),
        vector_bytes_per_document=_mean(await client.batch(vectors)) + shared_bytes,
        payload_bytes_per_document=_mean(await client.batch(payloads)),
        used_memory_bytes=used,
        tombstones=tombstones,
        log_entries=entries,
    )


def _mean(sizes: list[int | None]) -> float:
    """Of those that are still there."""
    there = [size for size in sizes if size is not None]
    return sum(there) / len(there) if there else 0.0


def _used_memory(info: bytes) -> int:
    return int(info_fields(info).get(b"used_memory", b"0"))
