"""What every store refuses, in the same words, and how it reads what others wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nestvec.core.collection import Collection
from nestvec.core.document import external_id_at_head
from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import internal_ids, partition_of
from nestvec.core.ports import LogBatch, StoredDocument, StoreDeletion, StoreRecord
from nestvec.core.stream_digest import DIGEST_BYTES
from nestvec.core.watermark import follows

STREAM_KEPT_S = 7 * 24 * 3600

Change = TypeVar("Change", StoreRecord, StoreDeletion)


def require_distinct(changes: Sequence[Change], field_name: str) -> None:
    """Raise InvalidRequest on an external id that stands twice: which of the two would win?"""
    seen: set[str] = set()
    for position, change in enumerate(changes):
        if change.external_id in seen:
            raise InvalidRequest(
                f"{field_name}.{position}.external_id",
                f"{change.external_id!r} stands twice in one batch; keep one of the two",
            )
        seen.add(change.external_id)


def by_partition(external_ids: Sequence[str], collection: Collection) -> dict[int, list[int]]:
    """Positions grouped by the partition of the id that stands there, in order."""
    groups: dict[int, list[int]] = {}
    for position, external_id in enumerate(external_ids):
        partition = partition_of(external_id, collection.partitions)
        groups.setdefault(partition, []).append(position)
    return groups


def stream_refusal(stream_id: str, first: int, expected: int) -> InvalidRequest:
    """For an advance that does not begin where the stream stands."""
    return InvalidRequest(
        "offset",
        f"stream {stream_id!r} goes on at offset {expected}, not at {first}; "
        f"ask for its state and send from there",
    )


def require_whole_digests(digests: bytes) -> None:
    """Raise InvalidRequest unless it is 4 bytes an offset."""
    if len(digests) % DIGEST_BYTES:
        raise InvalidRequest("digests", f"{len(digests)} bytes, expected 4 for each offset")


def require_restorable(documents: Sequence[StoredDocument], position: int) -> None:
    """Raise InvalidRequest when the log would give out a document's sequence again."""
    for at, one in enumerate(documents):
        if not 0 < one.sequence <= position:
            raise InvalidRequest(
                f"documents.{at}.sequence", f"{one.sequence}, expected 1 to position {position}"
            )


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One change in the log. added, removed: sequences. deletions: external ids and versions."""

    first: int
    last: int
    added: Sequence[int]
    removed: Sequence[int]
    deletions: Sequence[tuple[str, int]] = ()

    @property
    def size(self) -> int:
        """How many documents it touches."""
        return len(self.added) + len(self.removed)


def batch_of(partition: int, entries: Iterable[LogEntry | None], limit: int) -> LogBatch | None:
    """Consecutive entries in one, up to a discontinuity or about `limit` documents. None stands for
    an entry that cannot be read.
    """
    taken: list[LogEntry] = []
    count = 0
    for entry in entries:
        if entry is None:
            if taken:
                break
            continue
        if taken and (count >= limit or not follows(taken[-1].last, entry.first)):
            break
        taken.append(entry)
        count += entry.size
    if not taken:
        return None
    removed = [sequence for entry in taken for sequence in entry.removed]
    gone = set(removed)
    added = [sequence for entry in taken for sequence in entry.added if sequence not in gone]
    return LogBatch(
        partition,
        taken[0].first,
        taken[-1].last,
        internal_ids([partition] * len(added), added),
        internal_ids([partition] * len(removed), removed),
        [deletion for entry in taken for deletion in entry.deletions],
    )


def external_id_in(payload: bytes | None) -> str | None:
    """What a payload says its document is called; None where it is gone or damaged."""
    return None if payload is None else external_id_at_head(payload)
