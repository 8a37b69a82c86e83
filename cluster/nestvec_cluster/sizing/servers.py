"""How Valkey and Redis keep a string, the fields of a hash, their tables and a stream.

Sources: valkey 9.1 (src/object.c, src/entry.c, src/hashtable.c, src/sds.h, src/listpack.c,
src/t_stream.c), redis 7.0 (src/object.c, src/dict.c, src/t_hash.c); held against MEMORY USAGE by
tests/nestvec_cluster/sizing/test_servers.py.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from nestvec_cluster.sizing.allocators import Allocator

_POINTER = 8
_OBJECT = 16  # robj: type, encoding, clock and count in 8 bytes, then a pointer
_VALKEY_EMBEDDED = 128  # a string with its key, or a field with its value, in one block
_REDIS_EMBEDDED = 44  # characters of a string beside its robj
_BUCKET, _BUCKET_ENTRIES = 64, 7
_DICT_ENTRY = 24
# Beside it where keys are listed by slot.
_SLOT_LINKS = 16
_HASHTABLE = 64
# hash-max-listpack-entries and -value, as both servers are shipped.
_LISTPACK_ENTRIES, _LISTPACK_VALUE = 512, 64
_LISTPACK_ENDS = 7
# stream-node-max-bytes and -entries; a node is allocated whole and cut when it is full by entries.
_NODE_BYTES, _NODE_ENTRIES = 4096, 100
# Of a node: seven numbers and one field name of one letter, as the first entry is told from.
_NODE_HEAD = _LISTPACK_ENDS + 18
# Its place in the radix tree; and the stream itself.
_NODE_PLACE, _STREAM = 72, 160


class Server(enum.StrEnum):
    """What speaks the protocol. VALKEY: 9.1 and like it. REDIS: 7."""

    VALKEY = "valkey"
    REDIS = "redis"


@dataclass(frozen=True, slots=True)
class Memory:
    """used: bytes as the server counts them. blocks: how many allocations they are in."""

    used: float = 0.0
    blocks: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.used + other.used, self.blocks + other.blocks)

    def times(self, factor: float) -> Memory:
        """So many of it."""
        return Memory(self.used * factor, self.blocks * factor)


def sds_bytes(length: int) -> int:
    """A string of the server's own kind: header, characters, and a zero."""
    header = 1 if length < 32 else 3 if length < 252 else 5 if length < 65_530 else 9
    return header + length + 1


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """One kind of server with one allocator. by_slot: it is a cluster, with a table for each slot
    (Valkey) or keys listed by slot (Redis).
    """

    server: Server
    allocator: Allocator
    by_slot: bool = False

    def blocks(self, *sizes: int) -> Memory:
        """Allocations of these sizes."""
        return Memory(sum(map(self.allocator.usable, sizes)), len(sizes))

    # --- strings --------------------------------------------------------------------------------

    def string(self, key: int, value: int) -> Memory:
        """A key and its string, without their place in the table. Lengths in bytes."""
        if self.server is Server.REDIS:
            entry = _DICT_ENTRY + (_SLOT_LINKS if self.by_slot else 0)
            if value <= _REDIS_EMBEDDED:
                return self.blocks(entry, sds_bytes(key), _OBJECT + 4 + value)
            return self.blocks(entry, sds_bytes(key), _OBJECT, sds_bytes(value))
        named = 1 + sds_bytes(key)
        embedded = _OBJECT - _POINTER + named + 4 + value
        if embedded <= _VALKEY_EMBEDDED:
            return self.blocks(embedded)
        return self.blocks(_OBJECT + named, sds_bytes(value))

    def key_table(self, keys: float) -> Memory:
        """The table of so many keys, once it has finished growing."""
        if self.server is Server.REDIS:
            return self._dict(keys)
        return self._buckets(keys)

    # --- hashes ---------------------------------------------------------------------------------

    def hash_fields(self, fields: float, name: int, value: int) -> Memory:
        """A hash of so many fields, each written once and read once before, names of `name` bytes
        and values of `value`: packed while they are few and short.
        """
        if fields <= _LISTPACK_ENTRIES and max(name, value) <= _LISTPACK_VALUE:
            entry = _packed(name) + _packed(value)
            return self.blocks(_LISTPACK_ENDS + math.ceil(fields * entry))
        return self._field(name, value).times(fields) + self._growing(fields)

    def _field(self, name: int, value: int) -> Memory:
        if self.server is Server.REDIS:
            return self.blocks(_DICT_ENTRY, sds_bytes(name), sds_bytes(value))
        embedded = sds_bytes(name) + 4 + value
        if embedded <= _VALKEY_EMBEDDED:
            return self.blocks(embedded)
        return self.blocks(_POINTER + max(sds_bytes(name), 4 + name), sds_bytes(value))

    def _growing(self, fields: float) -> Memory:
        """A hash's table: of two tables, while it moves from one to the next larger, one bucket for
        each time that it is used.
        """
        redis = self.server is Server.REDIS
        table = self._dict(fields) if redis else self._buckets(fields)
        room = 1 if redis else _BUCKET_ENTRIES
        before = _power_of_two(fields / room) // 2
        moving = before >= 1 and fields * 2 - before * room * 2 < before
        old = self.blocks(before * (_POINTER if redis else _BUCKET)) if moving else Memory()
        return table + old

    def _dict(self, entries: float) -> Memory:
        return self.blocks(_POINTER * max(_power_of_two(entries), 4))

    def _buckets(self, entries: float) -> Memory:
        """Buckets of seven, a power of two of them; what a full one cannot take hangs on it."""
        if entries <= 0:
            return Memory()
        buckets = _power_of_two(entries / _BUCKET_ENTRIES)
        hanging = buckets * _chained(entries / buckets)
        return self.blocks(_HASHTABLE, _BUCKET * buckets) + self.blocks(_BUCKET).times(hanging)

    # --- streams --------------------------------------------------------------------------------

    def stream(self, entries: float, value: float) -> Memory:
        """A stream of so many entries of one field, its value of about `value` bytes."""
        if entries <= 0:
            return Memory()
        # Flags, and both parts of the id, as small numbers; the value; how many numbers those were.
        entry = 2 + 2 + 3 + _packed(round(value)) + 2
        fitting = (_NODE_BYTES - _NODE_HEAD) // entry
        full = _NODE_BYTES
        if fitting >= _NODE_ENTRIES:
            fitting, full = _NODE_ENTRIES, _NODE_HEAD + _NODE_ENTRIES * entry
        nodes = math.ceil(entries / max(fitting, 1))
        last = self.blocks(_NODE_BYTES, _NODE_PLACE, _STREAM, _OBJECT + 64)
        return self.blocks(full, _NODE_PLACE).times(nodes - 1) + last


def _packed(length: int) -> int:
    """A string in a listpack: its length before it, and the way back after it."""
    head = 1 if length < 64 else 2 if length < 4096 else 5
    return head + length + (1 if head + length < 128 else 2 if head + length < 16_384 else 3)


def _power_of_two(least: float) -> int:
    return 1 << max(math.ceil(least) - 1, 0).bit_length()


def _chained(load: float) -> float:
    """Buckets that hang on one of mean `load`: the first one holds seven; each further one makes
    room for six more.
    """
    probability = math.exp(-load)
    at_most = [probability]
    for count in range(1, 64):
        probability *= load / count
        at_most.append(at_most[-1] + probability)
    return sum(max(1.0 - at_most[limit], 0.0) for limit in range(_BUCKET_ENTRIES, 64, 6))
