"""What a member tells of itself: how fast it answers, how many calls wait, how much it holds."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_STATM = Path("/proc/self/statm")
_KEPT = 500


class Load:
    """Of one kind of call. at_once: how many are worked on; what is more, waits."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._under_way = 0
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call; one that fails has no time that tells anything."""
        self._under_way += 1
        began = time.perf_counter()
        try:
            yield
            self._seconds.append(time.perf_counter() - began)
        finally:
            self._under_way -= 1

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return self._under_way == 0

    @property
    def queue(self) -> int:
        """Calls that wait."""
        return max(self._under_way - self._at_once, 0)

    @property
    def p95_ms(self) -> float:
        """Of the last 500; 0 where there were none. To a hundredth."""
        if not self._seconds:
            return 0.0
        ordered = sorted(self._seconds)
        return round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 2)


def resident_bytes() -> int:
    """The memory of this process; where the system does not tell, the most that it ever was."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()


def give_back() -> None:
    """Return freed memory to the system, where the C library can be told to (glibc).

    Left alone it keeps tens of megabytes in each thread's heap after a merge: blocks of up to 32
    MiB come from heaps once one of that size was freed (mallopt(3), M_MMAP_THRESHOLD).
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
