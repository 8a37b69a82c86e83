"""The files of a backup: the manifest, and documents as columns in .npz files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import nestvec
from nestvec.concurrency import READING_HEADERS
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.ports import StoredDocument
from nestvec.core.sealed import Damaged, FileEntry, parse, seal, unseal

FORMAT = 1
# A column that holds no value for a document says so in its lengths.
_NONE = -1


@dataclass(frozen=True, slots=True)
class BackedUpPartition:
    """position: where the partition's sequence numbers go on."""

    position: int
    documents: int
    files: list[FileEntry]


@dataclass(frozen=True, slots=True)
class BackupManifest:
    """A backup. assets: by their names in the store. Files are named from the backup's root."""

    collection: Collection
    assets: Mapping[str, FileEntry]
    partitions: Mapping[int, BackedUpPartition]

    @property
    def documents(self) -> int:
        """Over all partitions."""
        return sum(part.documents for part in self.partitions.values())

    def files(self) -> list[FileEntry]:
        """All that it lists."""
        parts = self.partitions.values()
        return [*self.assets.values(), *(file for part in parts for file in part.files)]

    def to_bytes(self) -> bytes:
        """Sealed JSON."""
        return seal(
            {
                "format": FORMAT,
                "nestvec": nestvec.__version__,
                "collection": self.collection.to_dict(),
                "assets": {name: file.to_list() for name, file in self.assets.items()},
                "partitions": {
                    str(partition): {
                        "position": part.position,
                        "documents": part.documents,
                        "files": [file.to_list() for file in part.files],
                    }
                    for partition, part in self.partitions.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> BackupManifest:
        """Reverse of `to_bytes`. Raises Damaged, also when another version wrote it."""
        written = parse(data)
        if written.get("format") != FORMAT:
            raise Damaged(
                f"it has format {written.get('format')!r}, written by nestvec "
                f"{written.get('nestvec', '(unknown)')}; this version reads {FORMAT}"
            )
        body = unseal(data)
        try:
            collection = Collection.from_dict(body["collection"])
        except (ConfigError, InvalidRequest) as error:
            raise Damaged(str(error)) from None
        partitions = {
            int(partition): BackedUpPartition(
                part["position"], part["documents"], [FileEntry(*file) for file in part["files"]]
            )
            for partition, part in body["partitions"].items()
        }
        assets = {name: FileEntry(*file) for name, file in body["assets"].items()}
        return cls(collection, assets, partitions)


def documents_to_bytes(documents: Sequence[StoredDocument]) -> bytes:
    """One .npz file, uncompressed: vectors do not shrink, and texts are the smaller part."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        sequences=np.array([one.sequence for one in documents], np.int64),
        versions=np.array([one.version for one in documents], np.int64),
        **_column("ids", [one.external_id.encode() for one in documents]),
        **_column("vectors", [one.vector for one in documents]),
        **_column("payloads", [one.payload for one in documents]),
    )
    return buffer.getvalue()


def documents_from_bytes(data: bytes, name: str) -> list[StoredDocument]:
    """Reverse of `documents_to_bytes`. Raises Damaged, naming the file."""
    try:
        with READING_HEADERS, np.load(io.BytesIO(data), allow_pickle=False) as columns:
            rows = zip(
                _values(columns, "ids"),
                columns["sequences"].tolist(),
                columns["versions"].tolist(),
                _values(columns, "vectors"),
                _values(columns, "payloads"),
                strict=True,
            )
            return [
                StoredDocument((external_id or b"").decode(), sequence, version, vector, payload)
                for external_id, sequence, version, vector, payload in rows
            ]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Damaged(f"{name} holds no documents ({error})") from None


def _column(name: str, values: Sequence[bytes | None]) -> dict[str, Any]:
    lengths = np.array([_NONE if one is None else len(one) for one in values], np.int64)
    joined = np.frombuffer(b"".join(one or b"" for one in values), np.uint8)
    return {name: joined, f"{name}_lengths": lengths}


def _values(columns: Mapping[str, np.ndarray], name: str) -> list[bytes | None]:
    joined = columns[name].tobytes()
    values: list[bytes | None] = []
    start = 0
    for length in columns[f"{name}_lengths"].tolist():
        if length == _NONE:
            values.append(None)
            continue
        values.append(joined[start : start + length])
        start += length
    return values
