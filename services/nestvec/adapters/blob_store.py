"""Files for snapshots and backups, by fsspec: a local folder, or object storage by its URL.

Locally a file is written beside its place, synced and renamed, so that a reader sees all of it or
nothing even after a power cut; object storage does as much with one put.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from nestvec.core.errors import ConfigError, NestvecError, SnapshotFailed

# Over a quota, and past a limit on the size of files, a disk is as full as it gets.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_blobs(location: str) -> FsspecBlobs:
    """The place that `location` names: a folder, or a URL such as s3://bucket/folder.

    Nothing is read or made yet. Raises ConfigError when nothing here speaks the URL's protocol.
    """
    shown = _without_credentials(location)
    try:
        files, root = url_to_fs(location)
    except ImportError as error:
        raise ConfigError(
            f"{shown}: {error}; its library is not installed beside nestvec"
        ) from None
    except Exception as error:  # noqa: BLE001  each library refuses bad URLs in its own way
        raise ConfigError(
            f"{shown}: not a place for files ({_clean(str(error), location)}); expected a folder, "
            f"or a URL that fsspec understands, such as s3://bucket/folder"
        ) from None
    return FsspecBlobs(files, root.rstrip("/"), location)


class FsspecBlobs:
    """One folder of an fsspec file system. Fills ports.BlobStore. Safe to share between threads."""

    def __init__(self, files: Any, root: str, location: str) -> None:
        self._files = files
        self._root = root
        self._given = location
        self._local = "file" in ((p,) if isinstance(p := files.protocol, str) else p)
        self.location = root if self._local else _without_credentials(location)

    def write(self, path: str, data: bytes) -> None:
        """See ports.BlobStore."""
        with self._failing("written", path):
            if self._local:
                _write_durably(Path(self._path(path)), data)
            else:
                self._files.pipe_file(self._path(path), data)

    def read(self, path: str) -> bytes | None:
        """See ports.BlobStore."""
        with self._failing("read", path):
            try:
                data: bytes = self._files.cat_file(self._path(path))
            except (FileNotFoundError, NotADirectoryError):
                return None
            return data

    def folders(self, path: str) -> list[str]:
        """See ports.BlobStore."""
        entries = self._entries(path)
        return sorted(
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == "directory"
        )

    def empty(self) -> bool:
        """See ports.BlobStore."""
        return not self._entries("")

    def delete(self, path: str) -> None:
        """See ports.BlobStore."""
        with self._failing("deleted", path), suppress(FileNotFoundError, NotADirectoryError):
            self._files.invalidate_cache()
            self._files.rm(self._path(path), recursive=True)

    def _entries(self, path: str) -> list[dict[str, Any]]:
        with self._failing("listed", path):
            # Other processes write here too.
            self._files.invalidate_cache()
            try:
                found: list[dict[str, Any]] = self._files.ls(self._path(path), detail=True)
            except FileNotFoundError:
                return []
            # Some object stores list a folder as an entry of itself.
            return [entry for entry in found if entry["name"].strip("/") != self._bare(path)]

    def _bare(self, path: str) -> str:
        return self._path(path).strip("/")

    def _path(self, path: str) -> str:
        assert ".." not in path.split("/"), path
        return f"{self._root}/{path}" if path else self._root or "/"

    @contextmanager
    def _failing(self, done: str, path: str) -> Iterator[None]:
        """Whatever the file system raises, as SnapshotFailed."""
        where = f"{self.location}/{path}" if path else self.location
        try:
            yield
        except NestvecError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise SnapshotFailed(
                    f"{where} cannot be written: no space left; free some there (backups that are "
                    f"no longer needed, or other files), or name another place"
                ) from None
            reason = error.strerror or _clean(str(error), self._given) or type(error).__name__
            raise SnapshotFailed(f"{where} cannot be {done}: {reason}") from None
        except Exception as error:  # noqa: BLE001  object stores raise their own library's errors
            reason = f"{type(error).__name__}: {_clean(str(error), self._given)}"
            raise SnapshotFailed(f"{where} cannot be {done}: {reason}") from None


def _write_durably(target: Path, data: bytes) -> None:
    _make_folder(target.parent)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(target.parent)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    # Texts are in backups: as private as the data directory is.
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_credentials(location: str) -> str:
    if "://" not in location:
        return location
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _clean(message: str, location: str) -> str:
    """A library's words, without the credentials that a URL may have held."""
    if "://" in location:
        secret = urlsplit(location).netloc.rpartition("@")[0]
        for part in (secret, *secret.split(":")):
            message = message.replace(part, "***") if len(part) > 3 else message
    return message
