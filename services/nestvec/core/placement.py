"""Where a document lives: external id -> partition -> shard; and the internal id's two parts.

A collection has a fixed number of partitions for life. Shards own partitions, and a reshard moves
whole ones, so no document ever changes its partition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Ids

DEFAULT_PARTITIONS = 64
MAX_PARTITIONS = 1 << 14
# partition in the high bits, sequence number in the low: sorting internal ids sorts by partition,
# then by age. 48 bits of sequence outlast any store; the sign bit stays clear (-1 is padding).
_SEQUENCE_BITS = 48
_SEQUENCE_MASK = (1 << _SEQUENCE_BITS) - 1


def partition_of(external_id: str, partitions: int) -> int:
    """The partition of a document: stable across processes, machines and versions."""
    digest = hashlib.blake2b(external_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % partitions


def shard_of(partition: int, partitions: int, shards: int) -> int:
    """The shard that owns a partition: contiguous ranges of nearly equal length."""
    return partition * shards // partitions


def partitions_of(shard: int, partitions: int, shards: int) -> range:
    """The partitions that a shard owns. Reverse of `shard_of`."""
    return range(-(-shard * partitions // shards), -(-(shard + 1) * partitions // shards))


def internal_id(partition: int, sequence: int) -> int:
    """One int64 from a partition and a sequence number within it."""
    assert 0 <= partition < MAX_PARTITIONS
    assert 0 <= sequence <= _SEQUENCE_MASK
    return partition << _SEQUENCE_BITS | sequence


def internal_ids(partitions: Sequence[int], sequences: Sequence[int]) -> Ids:
    """`internal_id` over columns. Returns (n,) int64."""
    ids: Ids = np.asarray(partitions, np.int64) << _SEQUENCE_BITS | np.asarray(sequences, np.int64)
    return ids


def split_id(internal: int) -> tuple[int, int]:
    """(partition, sequence) of an internal id."""
    return internal >> _SEQUENCE_BITS, internal & _SEQUENCE_MASK


def split_ids(ids: Ids) -> tuple[Ids, Ids]:
    """`split_id` over columns: partitions and sequences, (n,) int64 each."""
    partitions: Ids = ids >> _SEQUENCE_BITS
    sequences: Ids = ids & _SEQUENCE_MASK
    return partitions, sequences
