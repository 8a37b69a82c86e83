"""What a snapshot says of itself, and why one cannot be used."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import nestvec
from nestvec.concurrency import READING_HEADERS
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.sealed import Damaged, FileEntry, parse, seal, unseal

FORMAT = 1


class Foreign(Exception):
    """A sound snapshot that is not of this shard as it is now. The message says in what."""


@dataclass(frozen=True, slots=True)
class StoredView:
    """One segment. kind: of its index. arrays: name -> its pieces, in order."""

    rows: int
    kind: str
    arrays: Mapping[str, list[FileEntry]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": self.rows, "kind": self.kind, "arrays": _listed_files(self.arrays)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StoredView:
        """Reverse of `to_dict`."""
        return cls(data["rows"], data["kind"], _read_files(data["arrays"]))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One snapshot. tiers: dim -> segments. keywords: the pieces of a JSON file. names: chunks of
    external ids, each name of an array -> its pieces; None where none were kept, or by a version
    that knew none (which passes them over when it reads this).
    """

    collection: Collection
    shard: int
    shards: int
    positions: Mapping[int, int]
    documents: int
    tiers: Mapping[int, list[StoredView]]
    keywords: list[FileEntry]
    names: list[dict[str, list[FileEntry]]] | None = None

    def files(self) -> list[FileEntry]:
        """All that it lists."""
        views = [view for views in self.tiers.values() for view in views]
        arrays = [files for view in views for files in view.arrays.values()]
        arrays += [files for chunk in self.names or () for files in chunk.values()]
        return [file for files in (*arrays, self.keywords) for file in files]

    def to_bytes(self) -> bytes:
        """Sealed JSON."""
        names = None if self.names is None else [_listed_files(chunk) for chunk in self.names]
        return seal(
            {
                "format": FORMAT,
                "nestvec": nestvec.__version__,
                "collection": self.collection.to_dict(),
                "shard": self.shard,
                "shards": self.shards,
                "positions": {str(p): sequence for p, sequence in self.positions.items()},
                "documents": self.documents,
                "tiers": {
                    str(dim): [view.to_dict() for view in views]
                    for dim, views in self.tiers.items()
                },
                "keywords": [file.to_list() for file in self.keywords],
                "names": names,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Reverse of `to_bytes`. Raises Damaged, or Foreign when another version wrote it."""
        written = parse(data)
        if written.get("format") != FORMAT:
            raise Foreign(
                f"it has format {written.get('format')!r}, written by nestvec "
                f"{written.get('nestvec', '(unknown)')}; this version reads {FORMAT}"
            )
        body = unseal(data)
        try:
            collection = Collection.from_dict(body["collection"])
        except (ConfigError, InvalidRequest) as error:
            raise Foreign(str(error)) from None
        names = body.get("names")
        return cls(
            collection=collection,
            shard=body["shard"],
            shards=body["shards"],
            positions={int(p): sequence for p, sequence in body["positions"].items()},
            documents=body["documents"],
            tiers={
                int(dim): [StoredView.from_dict(view) for view in views]
                for dim, views in body["tiers"].items()
            },
            keywords=[FileEntry(*file) for file in body["keywords"]],
            names=None if names is None else [_read_files(chunk) for chunk in names],
        )

    def require_of(self, collection: Collection, shard: int, shards: int) -> None:
        """Raise Foreign unless it is of this shard of `collection`; served tiers may differ."""
        mine, theirs = _identity(collection), _identity(self.collection)
        mine |= {"shard": f"{shard} of {shards}"}
        theirs |= {"shard": f"{self.shard} of {self.shards}"}
        different = [
            f"{what} is {theirs[what]!r}, expected {mine[what]!r}"
            for what in mine
            if mine[what] != theirs[what]
        ]
        if different:
            raise Foreign("; ".join(different))
        if not set(self.tiers) & set(collection.tiers):
            raise Foreign(
                f"it has tiers {_listed(self.tiers)}, served are {_listed(collection.tiers)}"
            )


def _listed_files(arrays: Mapping[str, list[FileEntry]]) -> dict[str, Any]:
    return {name: [file.to_list() for file in files] for name, files in arrays.items()}


def _read_files(arrays: Mapping[str, Any]) -> dict[str, list[FileEntry]]:
    return {name: [FileEntry(*file) for file in files] for name, files in arrays.items()}


def _identity(collection: Collection) -> dict[str, object]:
    data = collection.to_dict()
    names = ("name", "generation", "identity", "fingerprint", "store_dim", "store_dtype")
    return {name: data[name] for name in (*names, "partitions", "fields", "rotation_seed")}


def _listed(dims: Mapping[int, Any] | tuple[int, ...]) -> str:
    return ", ".join(map(str, dims)) or "none"


def to_npy(array: np.ndarray) -> bytes:
    """A .npy file, little-endian."""
    buffer = io.BytesIO()
    np.save(buffer, array.astype(array.dtype.newbyteorder("<"), copy=False), allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> np.ndarray:
    """Reverse of `to_npy`, read-only and without a copy. Raises Damaged."""
    buffer = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(buffer) != (1, 0):
            raise Damaged("an array of another .npy version")
        with READING_HEADERS:
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
        if fortran or dtype.hasobject:
            raise Damaged("an array in another layout")
        array = np.frombuffer(data, dtype, offset=buffer.tell()).reshape(shape)
    except ValueError as error:
        raise Damaged(f"an array that cannot be read ({error})") from None
    return array.astype(dtype.newbyteorder("="), copy=False)
