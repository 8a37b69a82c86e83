"""What a request for memory takes: allocators give out blocks of a few sizes only.

Sources: glibc malloc/malloc.c (`request2size`, MALLOC_ALIGNMENT 16); jemalloc(3), "Size classes".
"""

from __future__ import annotations

import enum

_PAGE = 4096
# glibc maps what is larger than this by itself, in whole pages.
_MAPPED = 128 * 1024
_WORD = 8


class Allocator(enum.StrEnum):
    """Of the store's server.

    JEMALLOC: the one that Valkey and Redis are built with on Linux, the official images too.
    SYSTEM_JEMALLOC: a distribution's, whose smallest step is 16 bytes in place of 8. LIBC: glibc's,
    which the embedded server is built with.
    """

    JEMALLOC = "jemalloc"
    SYSTEM_JEMALLOC = "system-jemalloc"
    LIBC = "libc"

    def usable(self, nbytes: int) -> int:
        """Bytes that a block has for `nbytes`: what the server counts as used."""
        if self is Allocator.LIBC:
            return _libc(nbytes)
        return _jemalloc(nbytes, 8 if self is Allocator.JEMALLOC else 16)

    @property
    def beside(self) -> int:
        """Bytes of each block that are in the process and not counted by the server."""
        return _WORD if self is Allocator.LIBC else 0


def _libc(nbytes: int) -> int:
    """A block is a multiple of 16 with one word of it taken, and at least 32."""
    if nbytes >= _MAPPED:
        return -(-(nbytes + 2 * _WORD) // _PAGE) * _PAGE - 2 * _WORD
    return max(-(-(nbytes + _WORD) // 16) * 16, 32) - _WORD


def _jemalloc(nbytes: int, quantum: int) -> int:
    """Multiples of `quantum` up to 64 (8) or 128 (16), then four sizes for each doubling."""
    if nbytes <= 8:
        return 8
    if nbytes <= 8 * quantum:
        return -(-nbytes // quantum) * quantum
    step = 1 << ((nbytes - 1).bit_length() - 3)
    return -(-nbytes // step) * step
