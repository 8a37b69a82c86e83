"""How far in a collection's ingest log something is: one sequence number a partition.

Every write of a partition takes the next sequence numbers: a document's is the low part of its
internal id, a deletion's names nothing. So positions in the log and ages of documents are one
scale. A sequence number is epoch << 32 | count. The epoch rises whenever the store may have lost
its last writes (another primary, a restart), and the count goes on: numbers are never given out
twice, and a reader sees by the count that nothing is missing between two entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import split_id

# With the number of a region, and without.
_FORMAT, _REGIONAL = 1, 2
_COUNT_BITS = 32
_COUNT_MASK = (1 << _COUNT_BITS) - 1
_ENTRY = np.dtype([("partition", "<u2"), ("sequence", "<u8")])
_HEADERS = {
    _FORMAT: np.dtype([("format", "<u1"), ("generation", "<u4")]),
    _REGIONAL: np.dtype([("format", "<u1"), ("generation", "<u4"), ("region", "<u1")]),
}


def sequence_of(epoch: int, count: int) -> int:
    """One sequence number from its parts."""
    return epoch << _COUNT_BITS | count


def split_sequence(sequence: int) -> tuple[int, int]:
    """(epoch, count)."""
    return sequence >> _COUNT_BITS, sequence & _COUNT_MASK


def follows(previous: int, first: int) -> bool:
    """Whether an entry that begins at `first` comes right after `previous`: nothing between is
    lost, trimmed or unread.
    """
    (old_epoch, old_count), (epoch, count) = split_sequence(previous), split_sequence(first)
    return epoch >= old_epoch and count == old_count + 1


@dataclass(frozen=True, slots=True)
class Watermark:
    """A point in a generation's log. sequences: partition -> last sequence; a partition that is not
    named stands at its beginning. region: the number of the one whose log it is, where it leaves
    it; 0 within a region.
    """

    generation: int
    sequences: Mapping[int, int] = field(default_factory=dict)
    region: int = 0

    @classmethod
    def of_ids(cls, generation: int, ids: Iterable[int]) -> Watermark:
        """The least one that covers documents. ids: internal; negative ones are passed over."""
        sequences: dict[int, int] = {}
        for internal in ids:
            if internal >= 0:
                partition, sequence = split_id(internal)
                sequences[partition] = max(sequence, sequences.get(partition, 0))
        return cls(generation, sequences)

    def joined(self, other: Watermark) -> Watermark:
        """The least one that covers both. Of two generations, the later one's."""
        if other.generation != self.generation:
            return max(self, other, key=lambda mark: mark.generation)
        sequences = dict(self.sequences)
        for partition, sequence in other.sequences.items():
            sequences[partition] = max(sequence, sequences.get(partition, 0))
        return Watermark(self.generation, sequences)

    def within(self, partitions: range) -> Watermark:
        """Only what it says of some partitions."""
        mine = {p: s for p, s in self.sequences.items() if p in partitions}
        return Watermark(self.generation, mine)

    def reached_by(self, positions: Mapping[int, int]) -> bool:
        """Whether a reader at `positions` (partition -> sequence) has passed all of it."""
        return all(positions.get(p, 0) >= s for p, s in self.sequences.items())

    def to_bytes(self) -> bytes:
        """Opaque to callers: a header, then (partition, sequence) pairs. Little-endian."""
        parts: tuple[int, ...] = (_FORMAT, self.generation)
        if self.region:
            parts = (_REGIONAL, self.generation, self.region)
        header = np.array([parts], _HEADERS[parts[0]])
        entries = np.array(sorted(self.sequences.items()), _ENTRY)
        return header.tobytes() + entries.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, field_name: str = "watermark") -> Watermark:
        """Reverse of `to_bytes`. Raises InvalidRequest."""
        dtype = _HEADERS.get(data[0]) if data else None
        body = -1 if dtype is None else len(data) - dtype.itemsize
        if dtype is None or body < 0 or body % _ENTRY.itemsize:
            raise InvalidRequest(
                field_name, "not a watermark; pass on what an ingest or delete response carried"
            )
        header = np.frombuffer(data, dtype, 1)
        entries = np.frombuffer(data, _ENTRY, offset=dtype.itemsize)
        pairs = zip(entries["partition"].tolist(), entries["sequence"].tolist(), strict=True)
        region = 0 if data[0] == _FORMAT else int(header["region"][0])
        return cls(int(header["generation"][0]), dict(pairs), region)
