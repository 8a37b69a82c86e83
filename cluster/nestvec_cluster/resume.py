"""Where an interrupted `nestvec index` goes on.

What is promised: when the file says `resume_at: n` for an input, the first n documents of that
input were searchable, or reported as refused, at the moment it was written. Later ones may have
been sent as well; they are sent again, and writing a document twice changes nothing.

It is believed only when nothing has changed: the same collection (name, generation, space) on the
same address, which still holds the last document indexed; the same input (path, size, time of
change), read the same way. Otherwise that input is read from its beginning. Standard input cannot
be resumed. The file is removed when all its inputs are done.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestvec_cluster.readers import STDIN

_FORMAT = 1
_SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where documents go."""

    address: str
    collection: str
    generation: int
    fingerprint: str


@dataclass(slots=True)
class ResumeState:
    """The state file of one command. `start_of` before an input, `record` while it is read."""

    path: Path
    target: Target
    _inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _written_s: float = 0.0

    @classmethod
    def open(cls, path: Path, target: Target) -> ResumeState:
        """What `path` says of `target`: nothing, when it is missing, damaged or of another one."""
        state = cls(path, target)
        try:
            data = json.loads(path.read_bytes())
            if data["format"] == _FORMAT and data["target"] == _plain(target):
                state._inputs = {str(name): dict(one) for name, one in data["inputs"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass
        return state

    def start_of(self, name: str, reading: str) -> tuple[int, str]:
        """(how many documents to skip, the id of the last one that was indexed, or empty)."""
        known = self._inputs.get(_key(name))
        if known is None or known.get("identity") != _identity(name, reading):
            return 0, ""
        return int(known.get("resume_at", 0)), str(known.get("last_id", ""))

    def record(
        self, name: str, reading: str, resume_at: int, last_id: str, *, now: bool = False
    ) -> None:
        """Keep where `name` stands; on disk within a second, or at once with `now`."""
        if name == STDIN or not Path(name).is_file():
            return
        self._inputs[_key(name)] = {
            "identity": _identity(name, reading),
            "resume_at": resume_at,
            "last_id": last_id,
        }
        if now or time.monotonic() - self._written_s > _SECONDS_BETWEEN_WRITES:
            self._write()

    def clear(self) -> None:
        """Everything is done."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        """Whole or not at all: a reader never sees half of it."""
        data = {"format": _FORMAT, "target": _plain(self.target), "inputs": self._inputs}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        draft.write_text(json.dumps(data, indent=1), encoding="utf-8")
        draft.replace(self.path)
        self._written_s = time.monotonic()


def automatic_path(address: str, collection: str, names: Sequence[str]) -> Path:
    """The state file of this command, in the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    identity = json.dumps([address, collection, [_key(name) for name in names]])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return Path(base) / "nestvec" / f"index-{digest}.json"


def _key(name: str) -> str:
    return name if name == STDIN else str(Path(name).absolute())


def _identity(name: str, reading: str) -> list[Any]:
    status = Path(name).stat()
    return [status.st_size, status.st_mtime_ns, reading]


def _plain(target: Target) -> list[Any]:
    return [target.address, target.collection, target.generation, target.fingerprint]
