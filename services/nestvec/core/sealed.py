"""Manifests and the files they list: JSON that carries its own checksum, and entries that tell
whether a file is still what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHECKSUM = "checksum"


class Damaged(Exception):
    """A manifest or file is not what was written. The message says which, and how."""


def checksum(data: bytes) -> str:
    """32 hex digits. BLAKE2b reads about 1 GB/s, and lets other threads run meanwhile."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file as a manifest lists it. name: within the manifest's folder."""

    name: str
    nbytes: int
    checksum: str

    @classmethod
    def of(cls, name: str, data: bytes) -> FileEntry:
        """The entry of what is being written."""
        return cls(name, len(data), checksum(data))

    def check(self, data: bytes | None) -> bytes:
        """`data` when it is what was written. Raises Damaged."""
        if data is None:
            raise Damaged(f"{self.name} is missing")
        if len(data) != self.nbytes:
            raise Damaged(f"{self.name} has {len(data):,} bytes, {self.nbytes:,} were written")
        if checksum(data) != self.checksum:
            raise Damaged(f"{self.name} does not have the checksum that it was written with")
        return data

    def to_list(self) -> list[str | int]:
        """For JSON."""
        return [self.name, self.nbytes, self.checksum]


def seal(body: Mapping[str, Any]) -> bytes:
    """JSON with a checksum of itself."""
    return _dump({**body, _CHECKSUM: checksum(_dump(body))})


def parse(data: bytes) -> dict[str, Any]:
    """A sealed body, unchecked: to look at its format first. Raises Damaged."""
    try:
        body = json.loads(data)
    except ValueError:
        raise Damaged("it is not JSON") from None
    if not isinstance(body, dict):
        raise Damaged("it is not a JSON object")
    return body


def unseal(data: bytes) -> dict[str, Any]:
    """Reverse of `seal`. Raises Damaged."""
    body = parse(data)
    if body.pop(_CHECKSUM, None) != checksum(_dump(body)):
        raise Damaged("it does not have the checksum that it was written with")
    return body


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
