"""Sizes of blocks, as the allocators' own documents give them."""

from __future__ import annotations

import ctypes
import sys

import pytest

from nestvec_cluster.sizing.allocators import Allocator


@pytest.mark.parametrize(
    ("nbytes", "jemalloc", "system"),
    [
        (1, 8, 8),
        (9, 16, 16),
        (17, 24, 32),
        (55, 56, 64),
        (65, 80, 80),
        (113, 128, 128),
        (129, 160, 160),
        (257, 320, 320),
        (1536, 1536, 1536),
        (1550, 1792, 1792),
        (4097, 5120, 5120),
    ],
)
def test_jemalloc_gives_the_size_classes_of_its_manual(
    nbytes: int, jemalloc: int, system: int
) -> None:
    assert Allocator.JEMALLOC.usable(nbytes) == jemalloc
    assert Allocator.SYSTEM_JEMALLOC.usable(nbytes) == system


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_libc_gives_what_glibc_says_that_it_gave() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        pytest.skip("another C library")
    libc.malloc.restype = libc.malloc_usable_size.restype = ctypes.c_size_t
    libc.malloc.argtypes = libc.malloc_usable_size.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_size_t]
    sizes = [1, 8, 23, 24, 25, 40, 41, 100, 1000, 1032, 1033, 60_000]
    # Several of each: one that was freed before may be a little larger.
    for nbytes in sizes:
        blocks = [libc.malloc(nbytes) for _ in range(64)]
        smallest = min(libc.malloc_usable_size(block) for block in blocks)
        for block in blocks:
            libc.free(block)
        assert Allocator.LIBC.usable(nbytes) == smallest, nbytes


@pytest.mark.parametrize("allocator", list(Allocator))
def test_more_bytes_never_take_less(allocator: Allocator) -> None:
    sizes = [allocator.usable(nbytes) for nbytes in range(1, 20_000)]
    assert sizes == sorted(sizes)
    assert all(size >= nbytes for nbytes, size in enumerate(sizes, 1))
