"""Places for snapshots and backups that fill up, fail, or are looked into."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nestvec.adapters.blob_store import FsspecBlobs, open_blobs

_numbers = itertools.count()


def memory_place() -> FsspecBlobs:
    """An object store in this process's memory that no other test uses."""
    return open_blobs(f"memory://place-{next(_numbers)}")


def files_under(blobs: FsspecBlobs) -> dict[str, bytes]:
    """Every file by its path within the place."""
    files = blobs._files
    root = blobs._root
    found = files.find(root) if files.exists(root) else []
    return {path.removeprefix(root).lstrip("/"): files.cat_file(path) for path in found}


def overwrite(blobs: FsspecBlobs, path: str, data: bytes | None) -> None:
    """Put `data` in a file's place, or nothing."""
    if data is None:
        blobs._files.rm(f"{blobs._root}/{path}")
    else:
        blobs._files.pipe_file(f"{blobs._root}/{path}", data)


class FailingFiles(MemoryFileSystem):  # type: ignore[misc]  # it has no types
    """An object store in memory whose writes fail after `writes` of them."""

    protocol = "failing"
    cachable = False
    store: dict[str, object] = {}  # noqa: RUF012  fsspec's own name for what all of a kind share

    writes = 0
    error: Exception = OSError("unreachable")

    def pipe_file(self, path: str, value: bytes, **kwargs: object) -> None:
        if self.writes <= 0:
            raise self.error
        self.writes -= 1
        super().pipe_file(path, value, **kwargs)


def failing_place(writes: int, error: Exception) -> FsspecBlobs:
    """A place where so many writes go well; after that every one raises `error`."""
    files = FailingFiles(skip_instance_cache=True)
    files.store = {}
    files.writes, files.error = writes, error
    return FsspecBlobs(files, f"/place-{next(_numbers)}", "failing://place")


def heal(blobs: FsspecBlobs, writes: int = 1 << 30) -> None:
    """So many further writes of a `failing_place` go well."""
    blobs._files.writes = writes


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of so many KiB at `folder`; skips the test where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
