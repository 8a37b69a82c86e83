"""Processes by their identity: a number is given again, a number and a start time are not.

Reads /proc, or asks `ps` where there is none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Identity:
    """One process. started: as the system tells it, opaque."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """None where there is no such process, or it has ended and nobody has waited for it."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """A signal, where it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def end_all(identities: Sequence[Identity], patience_s: float) -> None:
    """SIGTERM, then SIGKILL for those that are there after `patience_s`. Returns when all ended."""
    for one in identities:
        one.send(signal.SIGTERM)
    if not _wait(identities, patience_s):
        for one in identities:
            one.send(signal.SIGKILL)
        _wait(identities, patience_s)


def _wait(identities: Sequence[Identity], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(one.alive for one in identities):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def with_descendants(roots: Iterable[Identity]) -> list[Identity]:
    """`roots`, and all that they started and that is still there."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, Identity] = {}
    waiting = [one.pid for one in roots if one.alive]
    while waiting:
        pid = waiting.pop()
        identity = Identity.of(pid)
        if identity is not None and pid not in found:
            found[pid] = identity
            waiting.extend(children.get(pid, []))
    return list(found.values())


def with_words(word: str) -> dict[Identity, list[str]]:
    """Processes whose command line has an argument with `word` in it -> the line."""
    found = {}
    for pid in _parents():
        words = command_line(pid)
        if pid != os.getpid() and any(word in one for one in words):
            identity = Identity.of(pid)
            if identity is not None:
                found[identity] = words
    return found


def command_line(pid: int) -> list[str]:
    """Of a process; empty where it cannot be read."""
    if not _PROC.is_dir():
        return _ps("-p", str(pid), "-o", "command=").split()
    with contextlib.suppress(OSError):
        return [os.fsdecode(one) for one in _read(pid, "cmdline").split(b"\0") if one]
    return []


def memory_bytes(pid: int) -> int:
    """Resident memory that no other process shares where that can be told; 0 where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if _PROC.is_dir():
            for line in _read(pid, "smaps_rollup").splitlines():
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
        return int(_ps("-p", str(pid), "-o", "rss=")) * 1024
    return 0


def _started(pid: int) -> str | None:
    if not _PROC.is_dir():
        return _ps("-p", str(pid), "-o", "lstart=").strip() or None
    try:
        # The name, in brackets, may hold anything.
        fields = _read(pid, "stat").rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _parents() -> dict[int, int]:
    if not _PROC.is_dir():
        pairs = (line.split() for line in _ps("-x", "-o", "pid=,ppid=").splitlines())
        return {int(pid): int(parent) for pid, parent in pairs}
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = _read(int(entry.name), "stat").rpartition(b")")[2].split()
                found[int(entry.name)] = int(stat[1])
    return found


def _read(pid: int, name: str) -> bytes:
    return (_PROC / str(pid) / name).read_bytes()


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout
