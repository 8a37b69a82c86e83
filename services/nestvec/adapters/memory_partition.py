"""One partition of a collection in this process's memory: documents, tombstones and their log."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from nestvec.adapters.store_rules import LogEntry, batch_of
from nestvec.core.arrays import Ids
from nestvec.core.placement import internal_id
from nestvec.core.ports import (
    Deleted,
    LogBatch,
    Placed,
    StoredDocument,
    StoreDeletion,
    StoreRecord,
)
from nestvec.core.watermark import sequence_of, split_sequence


@dataclass
class MemoryPartition:
    """ids: external id -> (sequence, version). tombstones: external id -> (milliseconds, version).
    values: sequence -> (vector, payload), replaced ones among them until `tidy`.
    """

    number: int
    ids: dict[str, tuple[int, int]] = field(default_factory=dict)
    tombstones: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[int, tuple[bytes | None, bytes | None]] = field(default_factory=dict)
    log: deque[LogEntry] = field(default_factory=deque)
    sequence: int = 0
    tidied: int = 0

    def put(self, records: list[StoreRecord], epoch: int, newer_only: bool = False) -> list[Placed]:
        """One log entry for all that are not stale."""
        added, removed, placed = [], [], []
        for record in records:
            sequence, version = self.ids.get(record.external_id, (0, 0))
            newest = max(version, self.tombstones.get(record.external_id, (0, 0))[1])
            if record.version < newest + newer_only:
                placed.append(Placed(-1, -1, newest))
                continue
            new = self._next(epoch)
            self.values[new] = record.vector, record.payload
            self.ids[record.external_id] = new, record.version
            self.tombstones.pop(record.external_id, None)
            added.append(new)
            if sequence:
                removed.append(sequence)
            placed.append(Placed(self._internal(new), self._internal(sequence), record.version))
        if added:
            self.log.append(LogEntry(added[0], added[-1], tuple(added), tuple(removed)))
        return placed

    def delete(self, deletions: list[StoreDeletion], epoch: int, now_ms: int) -> list[Deleted]:
        """One log entry for all that change something."""
        taken, removed, deleted = [], [], []
        told: list[tuple[str, int]] = []
        for one in deletions:
            sequence, version = self.ids.get(one.external_id, (0, 0))
            buried = self.tombstones.get(one.external_id, (0, 0))[1]
            live = sequence > 0 and version <= one.version
            known = sequence > 0 or buried >= one.version
            if not live and (known or not one.remember):
                deleted.append(Deleted(-1, -1, max(version, buried)))
                continue
            position = self._next(epoch)
            self.ids.pop(one.external_id, None)
            self.tombstones[one.external_id] = now_ms, max(one.version, buried)
            taken.append(position)
            told.append((one.external_id, one.version))
            if sequence:
                removed.append(sequence)
            deleted.append(
                Deleted(
                    self._internal(sequence), self._internal(position), max(one.version, buried)
                )
            )
        if taken:
            self.log.append(LogEntry(taken[0], taken[-1], (), tuple(removed), tuple(told)))
        return deleted

    def read(self, after: int, limit: int) -> LogBatch | None:
        """Entries after a position, up to a discontinuity or about `limit` documents."""
        unread = (entry for entry in self.log if entry.last > after)
        return batch_of(self.number, unread, limit)

    def tidy(self, upto: int, keep: int) -> int:
        """Free what entries up to a position removed, then trim. Returns how many were freed."""
        freed = 0
        for entry in self.log:
            if self.tidied < entry.last <= upto:
                freed += sum(self.values.pop(s, None) is not None for s in entry.removed)
                self.tidied = entry.last
        while len(self.log) > keep and self.log[0].last <= self.tidied:
            self.log.popleft()
        return freed

    def expire(self, before_ms: int) -> int:
        """Forget tombstones made before a time. Returns how many."""
        old = [i for i, (made_ms, _) in self.tombstones.items() if made_ms < before_ms]
        for external_id in old:
            del self.tombstones[external_id]
        return len(old)

    def documents(self, count: int) -> Iterator[list[StoredDocument]]:
        """All live ones, `count` at a time."""
        live = iter(list(self.ids.items()))
        while batch := list(itertools.islice(live, count)):
            yield [
                StoredDocument(external_id, sequence, version, *self.value(sequence))
                for external_id, (sequence, version) in batch
            ]

    def restore(self, documents: list[StoredDocument], position: int) -> None:
        """Documents under the sequences they had; nothing up to `position` is left to free."""
        for one in documents:
            self.ids[one.external_id] = one.sequence, one.version
            self.values[one.sequence] = one.vector, one.payload
        self.sequence = max(self.sequence, position)
        self.tidied = max(self.tidied, position)

    def value(self, sequence: int) -> tuple[bytes | None, bytes | None]:
        """(vector, payload), None where there is none."""
        return self.values.get(sequence, (None, None))

    def live(self) -> Ids:
        """(n,) int64 internal ids."""
        return self._internals([sequence for sequence, _ in self.ids.values()])

    def nbytes(self) -> int:
        """Of vectors, payloads and external ids."""
        values = sum(len(one or b"") for pair in self.values.values() for one in pair)
        return values + sum(len(external_id.encode()) for external_id in self.ids)

    def _next(self, epoch: int) -> int:
        old_epoch, count = split_sequence(self.sequence)
        self.sequence = sequence_of(max(epoch, old_epoch), count + 1)
        return self.sequence

    def _internal(self, sequence: int) -> int:
        return internal_id(self.number, sequence) if sequence else -1

    def _internals(self, sequences: list[int]) -> Ids:
        return np.array([internal_id(self.number, s) for s in sequences], np.int64)
