"""Snapshots of one shard: what it holds of a collection, as files, so that a start reads those and
follows the log from there, instead of reading every vector and training again.

    NAME/GENERATION/shard-I-of-N/STAMP/manifest.json
                                      /tier-256-0-ids-0 ...

The manifest is written last and makes the snapshot exist; it lists every file with its size and
checksum. Arrays are .npy files, little-endian, cut into pieces so that neither writing nor reading
needs a second copy of a whole tier. Nothing here is ever unpickled.

Whatever cannot be used is named in a log line with the reason, and passed over: a damaged snapshot
is deleted by the next save; one of another space, format or number of shards may be somebody
else's and stays. Positions are as old as the states saved with them or older: replaying a change
that is in the snapshot already must do nothing.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from nestvec.coarse.manifest import Foreign, Manifest, StoredView, from_npy, to_npy
from nestvec.coarse.names import NameChunk
from nestvec.coarse.segment import Columns, Segment, View
from nestvec.coarse.tier import TierState
from nestvec.core.collection import Collection
from nestvec.core.errors import SnapshotFailed
from nestvec.core.ports import BlobStore, CoarseIndex, CoarseIndexFactory, SnapshotInfo
from nestvec.core.sealed import Damaged, FileEntry
from nestvec.telemetry.logs import logger
from nestvec.wall_clock import wall_clock_ms

_MANIFEST = "manifest.json"
# Milliseconds since 1970, and what tells two replicas apart that write at the same moment.
_STAMP = re.compile(r"\d{14}-[0-9a-f]{6}")
# Of one file: bounds the copy that is made to write it, and lets threads share a large array.
_PIECE_BYTES = 32 << 20
_READERS = 4
# An unfinished snapshot younger than this may be another replica's, about to be finished.
_UNFINISHED_MS = 3_600_000
_log = logger()


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """What a snapshot held.

    tiers: by dim, those of the collection's tiers that were saved; a tier added since is missing.
    positions: partition -> sequence up to which the log is in it. keywords: field -> its values,
    in the order of their codes. names: external ids; None where the snapshot kept none.
    """

    location: str
    tiers: dict[int, TierState]
    positions: dict[int, int]
    keywords: dict[str, list[str]]
    documents: int
    names: tuple[NameChunk, ...] | None = None


class ShardSnapshots:
    """The snapshots of one shard, of all its collections. Blocking; calls for one collection must
    not overlap.

    keep: how many good ones stay. now_ms: wall clock, milliseconds since 1970.
    """

    def __init__(
        self,
        blobs: BlobStore,
        factory: CoarseIndexFactory,
        shard: int,
        shards: int,
        keep: int = 2,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        assert keep >= 1
        self._blobs = blobs
        self._factory = factory
        self._shard, self._shards = shard, shards
        self._keep = keep
        self._now_ms = now_ms
        # Folders whose files turned out to be damaged: the next save deletes them.
        self._damaged: set[str] = set()

    @property
    def location(self) -> str:
        """For messages, without credentials."""
        return self._blobs.location

    # --- writing --------------------------------------------------------------------------------

    def save(
        self,
        collection: Collection,
        tiers: Mapping[int, TierState],
        positions: Mapping[int, int],
        keywords: Mapping[str, Sequence[str]],
        names: Sequence[NameChunk] | None = None,
    ) -> SnapshotInfo:
        """Write one, then delete what it makes superfluous. See LoadedShard for what is what.

        positions must have been read before the states were, keywords and names after them (both
        are there before a state that needs them). Raises SnapshotFailed; then nothing of it is
        left, and earlier ones are as they were.
        """
        home = self._home(collection)
        stamps = self._stamps(home)
        folder = f"{home}/{self._new_stamp(stamps)}"
        try:
            manifest = self._write(folder, collection, tiers, positions, keywords, names)
            data = manifest.to_bytes()
            self._blobs.write(f"{folder}/{_MANIFEST}", data)
        except BaseException:
            # What was interrupted has no manifest, and is not worth another failure.
            with suppress(SnapshotFailed):
                self._blobs.delete(folder)
            raise
        self._clean_up(home, stamps, collection)
        nbytes = len(data) + sum(file.nbytes for file in manifest.files())
        return SnapshotInfo(f"{self.location}/{folder}", manifest.documents, nbytes)

    def forget(self, name: str, generation: int) -> None:
        """Delete this shard's snapshots of a generation that was dropped. Safe to repeat."""
        self._blobs.delete(f"{name}/{generation}/{self._folder}")

    @property
    def _folder(self) -> str:
        return f"shard-{self._shard}-of-{self._shards}"

    def _home(self, collection: Collection) -> str:
        return f"{collection.name}/{collection.generation}/{self._folder}"

    def _stamps(self, home: str) -> list[str]:
        """What was made here, oldest first; other folders are none of ours."""
        return [name for name in self._blobs.folders(home) if _STAMP.fullmatch(name)]

    def _new_stamp(self, stamps: Sequence[str]) -> str:
        """Milliseconds, later than all there are whatever the clock says; and unlike those that
        another replica may be making now.
        """
        latest = max((_milliseconds(stamp) for stamp in stamps), default=0)
        return f"{max(self._now_ms(), latest + 1):014d}-{secrets.token_hex(3)}"

    def _write(
        self,
        folder: str,
        collection: Collection,
        tiers: Mapping[int, TierState],
        positions: Mapping[int, int],
        keywords: Mapping[str, Sequence[str]],
        names: Sequence[NameChunk] | None,
    ) -> Manifest:
        """All but the manifest, which is returned."""
        views = {
            dim: [
                self._write_view(folder, f"tier-{dim}-{number}", view)
                for number, view in enumerate(state.views)
            ]
            for dim, state in tiers.items()
        }
        values = json.dumps({field: list(codes) for field, codes in keywords.items()})
        return Manifest(
            collection=collection,
            shard=self._shard,
            shards=self._shards,
            positions=dict(positions),
            documents=min((state.live for state in tiers.values()), default=0),
            tiers=views,
            keywords=self._write_array(
                folder, "keywords", np.frombuffer(values.encode(), np.uint8)
            ),
            names=None if names is None else self._write_names(folder, names),
        )

    def _write_view(self, folder: str, name: str, view: View) -> StoredView:
        arrays = view.segment.columns.arrays()
        if view.alive is not None:
            arrays["alive"] = view.alive
        index = view.segment.index.to_bytes()
        if index is not None:
            arrays["index"] = np.frombuffer(index, np.uint8)
        stored = {
            key: self._write_array(folder, f"{name}-{key}", array) for key, array in arrays.items()
        }
        return StoredView(len(view.segment), view.segment.index.kind, stored)

    def _write_names(
        self, folder: str, names: Sequence[NameChunk]
    ) -> list[dict[str, list[FileEntry]]]:
        return [
            {
                key: self._write_array(folder, f"names-{number}-{key}", array)
                for key, array in chunk.arrays().items()
            }
            for number, chunk in enumerate(names)
        ]

    def _write_array(self, folder: str, name: str, array: np.ndarray) -> list[FileEntry]:
        files = []
        for number, piece in enumerate(_pieces(array)):
            data = to_npy(piece)
            file = f"{name}-{number}"
            self._blobs.write(f"{folder}/{file}", data)
            files.append(FileEntry.of(file, data))
        return files

    def _clean_up(self, home: str, stamps: Sequence[str], collection: Collection) -> None:
        """After a save; `stamps` stood before it. A failure costs space only."""
        good = 1
        try:
            for stamp in reversed(stamps):
                folder = f"{home}/{stamp}"
                good += self._keep_or_delete(folder, collection, good < self._keep)
        except SnapshotFailed as error:
            _log.warning("snapshot.cleanup_failed", collection=collection.name, reason=str(error))

    def _keep_or_delete(self, folder: str, collection: Collection, wanted: bool) -> bool:
        """Whether a good one was kept; one that is sound and not ours always is, uncounted."""
        data = self._blobs.read(f"{folder}/{_MANIFEST}")
        if data is None:
            if self._now_ms() - _milliseconds(folder.rpartition("/")[2]) < _UNFINISHED_MS:
                return False
        else:
            try:
                Manifest.from_bytes(data).require_of(collection, self._shard, self._shards)
            except Foreign:
                return False
            except Damaged:
                wanted = False
            if wanted and folder not in self._damaged:
                return True
        # The manifest first: what is half deleted must not look whole.
        self._blobs.delete(f"{folder}/{_MANIFEST}")
        self._blobs.delete(folder)
        self._damaged.discard(folder)
        return False

    # --- reading --------------------------------------------------------------------------------

    def load(self, collection: Collection) -> LoadedShard | None:
        """The newest one that can be used, checked whole before any of it is; None when there is
        none. Never raises for what it finds: a start can always read the store instead.
        """
        home = self._home(collection)
        try:
            self._name_other_counts(collection)
            stamps = self._stamps(home)
        except SnapshotFailed as error:
            _log.warning("snapshot.unreachable", collection=collection.name, reason=str(error))
            return None
        for stamp in reversed(stamps):
            folder = f"{home}/{stamp}"
            try:
                return self._read(folder, collection)
            except Damaged as error:
                self._damaged.add(folder)
                self._refuse(folder, f"damaged: {error}")
            except (Foreign, SnapshotFailed) as error:
                self._refuse(folder, str(error))
        return None

    def _refuse(self, folder: str, reason: str) -> None:
        _log.warning("snapshot.refused", snapshot=f"{self.location}/{folder}", reason=reason)

    def _name_other_counts(self, collection: Collection) -> None:
        generation = f"{collection.name}/{collection.generation}"
        for folder in self._blobs.folders(generation):
            if folder.startswith("shard-") and not folder.endswith(f"-of-{self._shards}"):
                self._refuse(
                    f"{generation}/{folder}",
                    f"it is of another number of shards; this is shard {self._shard} of "
                    f"{self._shards}",
                )

    def _read(self, folder: str, collection: Collection) -> LoadedShard:
        data = self._blobs.read(f"{folder}/{_MANIFEST}")
        if data is None:
            raise Foreign("it was not finished: there is no manifest")
        manifest = Manifest.from_bytes(data)
        manifest.require_of(collection, self._shard, self._shards)
        pieces = self._read_files(folder, manifest)
        factory = self._factory.coded(collection.coarse_code)
        tiers = {
            dim: TierState(tuple(_view(view, dim, pieces, factory) for view in manifest.tiers[dim]))
            for dim in collection.tiers
            if dim in manifest.tiers
        }
        keywords = json.loads(_joined(manifest.keywords, pieces).tobytes())
        return LoadedShard(
            location=f"{self.location}/{folder}",
            tiers=tiers,
            positions=dict(manifest.positions),
            keywords=keywords,
            documents=manifest.documents,
            names=_names(manifest, pieces),
        )

    def _read_files(self, folder: str, manifest: Manifest) -> dict[str, np.ndarray]:
        """Every piece by its file's name, checked. Raises Damaged."""

        def read(file: FileEntry) -> np.ndarray:
            return from_npy(file.check(self._blobs.read(f"{folder}/{file.name}")))

        files = manifest.files()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="nestvec-snapshot") as pool:
            try:
                arrays = list(pool.map(read, files))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return {file.name: array for file, array in zip(files, arrays, strict=True)}


def _view(
    stored: StoredView, dim: int, pieces: dict[str, np.ndarray], factory: CoarseIndexFactory
) -> View:
    arrays = {name: _joined(files, pieces) for name, files in stored.arrays.items()}
    alive = arrays.pop("alive", None)
    index = arrays.pop("index", None)
    try:
        columns = Columns.from_arrays(arrays)
    except KeyError as error:
        raise Foreign(f"it has no column {error}, which this version keeps") from None
    lengths = {len(array) for array in arrays.values()}
    lengths |= set() if alive is None else {len(alive)}
    if lengths != {stored.rows} or columns.prefixes.codes.shape[1] != dim:
        raise Damaged(f"columns of tier {dim} differ in length or dimension")
    return View(Segment(columns, _index(stored, columns, index, dim, factory)), alive)


def _index(
    stored: StoredView,
    columns: Columns,
    data: np.ndarray | None,
    dim: int,
    factory: CoarseIndexFactory,
) -> CoarseIndex:
    if data is not None:
        index = factory.from_bytes(stored.kind, data.tobytes(), stored.rows, dim)
        if index is not None:
            return index
    return factory.build(columns.prefixes.decode())


def _names(manifest: Manifest, pieces: Mapping[str, np.ndarray]) -> tuple[NameChunk, ...] | None:
    if manifest.names is None:
        return None
    chunks = [
        {name: _joined(files, pieces) for name, files in chunk.items()} for chunk in manifest.names
    ]
    try:
        return tuple(NameChunk.from_arrays(arrays) for arrays in chunks)
    except (KeyError, ValueError) as error:
        raise Damaged(f"external ids cannot be read: {error}") from None


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """At least one, so that an empty array keeps its type."""
    rows = max(_PIECE_BYTES // max(array[:1].nbytes, 1), 1)
    for start in range(0, max(len(array), 1), rows):
        yield array[start : start + rows]


def _joined(files: Sequence[FileEntry], pieces: Mapping[str, np.ndarray]) -> np.ndarray:
    parts = [pieces[file.name] for file in files]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _milliseconds(stamp: str) -> int:
    return int(stamp.partition("-")[0])
