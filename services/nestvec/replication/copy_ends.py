"""The two ends of a copier, and what it asks of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.ports import (
    Deleted,
    LogBatch,
    Placed,
    StoredDocument,
    StoreDeletion,
    StoredVersion,
    StoreRecord,
)

# Names and versions of documents, by internal id, without their values; None for those that are
# gone.
Peek = Callable[[Collection, Ids], Awaitable[list[StoredVersion | None]]]


class VersionReader(Protocol):
    """What a collection holds, by ids and versions. A part of VectorStore, and of RegionSource."""

    def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredVersion]]: ...

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]: ...


class CopySource(VersionReader, Protocol):
    """What a copier asks of the store that it reads. A part of VectorStore."""

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]: ...

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]: ...

    def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]: ...

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]: ...


class CopySink(VersionReader, Protocol):
    """What a copier asks of the store that it fills. A part of VectorStore."""

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]: ...

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]: ...

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]: ...


class PositionKeeper(Protocol):
    """Where a copier's positions outlive it."""

    async def load(self) -> dict[str, int]: ...

    async def save(self, numbers: Mapping[str, int]) -> None: ...


@dataclass(frozen=True, slots=True)
class End:
    """A collection, and the store that holds it."""

    collection: Collection
    store: CopySource

    @property
    def partitions(self) -> range:
        """All of them."""
        return range(self.collection.partitions)


@dataclass(frozen=True, slots=True)
class SinkEnd:
    """As End, of what is filled."""

    collection: Collection
    store: CopySink
