"""A whole collection as files, store included, and back.

    manifest.json
    assets/0 ...                            what the generation drew
    documents/partition-00000/000000 ...    ids, sequences, versions, vectors and payloads

A backup is consistent a partition at a time, in this sense: it has every document that stood
unchanged while its partition was read, each as it was written; of those written, replaced or
deleted meanwhile it has some state that was acknowledged at some moment of the reading, or none for
one that did not stand all the while. Two documents of two partitions may so be of two moments. Stop
writing for a backup that is of one moment.

The ingest log, the tombstones and the resumable streams are not in it: nobody who reads a restored
collection has read it before.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from nestvec.admin.backup_files import (
    BackedUpPartition,
    BackupManifest,
    documents_from_bytes,
    documents_to_bytes,
)
from nestvec.admin.tiers import asset_names
from nestvec.concurrency import BoundedExecutor
from nestvec.core.collection import Collection, new_identity
from nestvec.core.errors import NestvecError, NotFound, SnapshotFailed
from nestvec.core.ports import BlobStore, StoredDocument, VectorStore
from nestvec.core.sealed import Damaged, FileEntry
from nestvec.telemetry.logs import logger

Result = TypeVar("Result")

_MANIFEST = "manifest.json"
# Of one file of documents: what is held in memory at once, twice while it is written.
_CHUNK_BYTES = 16 << 20
_log = logger()


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What was written."""

    documents: int
    nbytes: int


class _Place:
    """A blob store off the event loop: one call at a time, so that what is cleaned up after a
    cancelled write comes after it.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self._thread = BoundedExecutor("backup", threads=1, waiting=8)

    async def run(self, work: Callable[[], Result]) -> Result:
        return await self._thread.run("backup", None, work)

    async def write(self, path: str, data: bytes) -> FileEntry:
        def work() -> FileEntry:
            self.blobs.write(path, data)
            return FileEntry.of(path, data)

        return await self.run(work)

    async def read(self, file: FileEntry) -> bytes:
        """Raises Damaged."""
        return await self.run(lambda: file.check(self.blobs.read(file.name)))

    async def close(self) -> None:
        # A write that was given up is waited for, elsewhere.
        await asyncio.to_thread(self._thread.close)


# --- writing --------------------------------------------------------------------------------------


async def back_up(store: VectorStore, collection: Collection, blobs: BlobStore) -> BackupInfo:
    """Write all of `collection` to a place that holds nothing yet.

    Raises SnapshotFailed; then nothing of it is left there.
    """
    place = _Place(blobs)
    try:
        if not await place.run(blobs.empty):
            raise SnapshotFailed(
                f"{blobs.location} is not empty; a backup takes a folder of its own: name another"
            )
        try:
            return await _write(store, collection, place)
        except BaseException:
            # It was empty before, so all of it is ours.
            for folder in ("documents", "assets", _MANIFEST):
                with suppress(NestvecError):
                    await place.run(partial(blobs.delete, folder))
            raise
    finally:
        await place.close()


async def _write(store: VectorStore, collection: Collection, place: _Place) -> BackupInfo:
    assets = {}
    for number, name in enumerate(asset_names(collection, collection.tiers)):
        data = await store.asset(collection, name)
        assets[name] = await place.write(f"assets/{number}", data)
    partitions = {
        partition: await _write_partition(store, collection, partition, place)
        for partition in range(collection.partitions)
    }
    if not await store.lists(collection):
        raise NotFound("collection", collection.name, "it was dropped while it was backed up")
    manifest = BackupManifest(collection, assets, partitions)
    await place.write(_MANIFEST, manifest.to_bytes())
    return BackupInfo(manifest.documents, sum(file.nbytes for file in manifest.files()))


async def _write_partition(
    store: VectorStore, collection: Collection, partition: int, place: _Place
) -> BackedUpPartition:
    files: list[FileEntry] = []
    documents = 0
    async for chunk in _chunks(_each_once(store, collection, partition)):
        path = f"documents/partition-{partition:05d}/{len(files):06d}"
        files.append(await place.write(path, documents_to_bytes(chunk)))
        documents += len(chunk)
    # After the documents were read: no sequence number among them is greater.
    position = (await store.positions(collection, range(partition, partition + 1)))[partition]
    return BackedUpPartition(position, documents, files)


async def _each_once(
    store: VectorStore, collection: Collection, partition: int
) -> AsyncIterator[StoredDocument]:
    """Every live document of a partition. A scan may name one twice; besides that, one that was
    replaced between the reading of its place and of its parts comes without them: it is read again.
    """
    seen: set[bytes] = set()
    halves: set[str] = set()
    for second in (False, True):
        async for batch in store.documents(collection, partition):
            for document in batch:
                name = document.external_id
                if second and name not in halves:
                    continue
                key = hashlib.blake2b(name.encode(), digest_size=8).digest()
                if key in seen:
                    continue
                if not second and (document.vector is None or document.payload is None):
                    halves.add(name)
                    continue
                seen.add(key)
                yield document
        if not halves:
            return


async def _chunks(documents: AsyncIterator[StoredDocument]) -> AsyncIterator[list[StoredDocument]]:
    chunk: list[StoredDocument] = []
    nbytes = 0
    async for document in documents:
        chunk.append(document)
        nbytes += len(document.vector or b"") + len(document.payload or b"")
        if nbytes >= _CHUNK_BYTES:
            yield chunk
            chunk, nbytes = [], 0
    if chunk:
        yield chunk


# --- reading --------------------------------------------------------------------------------------


async def read_manifest(blobs: BlobStore) -> BackupManifest:
    """What a backup says of itself. Raises SnapshotFailed when it is none, or cannot be used."""
    place = _Place(blobs)
    try:
        data = await place.run(lambda: blobs.read(_MANIFEST))
    finally:
        await place.close()
    if data is None:
        raise SnapshotFailed(
            f"{blobs.location} holds no backup: there is no {_MANIFEST}; it was not finished, or "
            f"it is in another place"
        )
    try:
        return BackupManifest.from_bytes(data)
    except Damaged as error:
        raise _unusable(blobs, f"{_MANIFEST}: {error}") from None


async def restore(
    store: VectorStore, manifest: BackupManifest, blobs: BlobStore, name: str
) -> Collection:
    """Make collection `name` of a backup, as a new generation.

    It is marked as being restored until all of it is written and checked; a restore that fails
    drops it again. Raises AlreadyExists, SnapshotFailed, or what the store raises.
    """
    place = _Place(blobs)
    try:
        assets = {key: await place.read(file) for key, file in manifest.assets.items()}
        # What was measured elsewhere, at another time and maybe of another index, stays there.
        wanted = replace(
            manifest.collection,
            name=name,
            identity=new_identity(),
            restoring=True,
            calibration=None,
        )
        created = await store.create_collection(wanted, assets)
        try:
            for partition, part in manifest.partitions.items():
                await _restore_partition(store, created, partition, part, place)
            finished = replace(created, restoring=False)
            await store.update_collection(finished, {})
        except BaseException:
            try:
                await store.drop_collection(created)
            except NestvecError as error:
                # It is marked, so the next start drops it.
                _log.error("restore.not_dropped", collection=name, reason=str(error))
            raise
        return finished
    except Damaged as error:
        raise _unusable(blobs, str(error)) from None
    finally:
        await place.close()


async def _restore_partition(
    store: VectorStore,
    collection: Collection,
    partition: int,
    part: BackedUpPartition,
    place: _Place,
) -> None:
    if part.position and not part.files:
        # Nothing stands in it, but its sequence numbers were given out.
        await store.restore(collection, partition, [], part.position)
    restored = 0
    for file in part.files:
        documents = documents_from_bytes(await place.read(file), file.name)
        restored += len(documents)
        await store.restore(collection, partition, documents, part.position)
    if restored != part.documents:
        raise Damaged(f"partition {partition} has {restored} documents, expected {part.documents}")


def _unusable(blobs: BlobStore, reason: str) -> SnapshotFailed:
    return SnapshotFailed(f"the backup at {blobs.location} cannot be used: {reason}")
