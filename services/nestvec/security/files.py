"""Keys, certificates and tokens in files that may be replaced while the process runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from nestvec.core.errors import ConfigError
from nestvec.telemetry.logs import logger
from nestvec.telemetry.metrics import CREDENTIAL_FAILURES

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
# Between two looks at the files. A new certificate is used at most so much later.
LOOK_S = 1.0
# Of one file: a bundle of every public authority is a quarter of this.
_MOST_BYTES = 1 << 20
_log = logger()


class Reloaded(Protocol, Generic[Value_co]):
    """What may be another one later. version: counts the values, from 1; as of the last look."""

    @property
    def value(self) -> Value_co: ...

    @property
    def version(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Standing(Generic[Value]):
    """What stays as it is."""

    value: Value
    version: int = 1


class ReloadedFiles(Generic[Value]):
    """What `read` made of some files, made again when any of them changes.

    What cannot be read again (half of a pair is written, a key does not fit) is logged once, and
    what stood before goes on. Safe to use from several threads: gRPC asks from its own.

    what: for messages, as in "the TLS certificate". read: the files' contents in the order given ->
    the value; raises ConfigError. version: counts the values made, from 1.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[Sequence[bytes]], Value],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = stamps_of(self._paths)
        self._value = read([read_file(path, what) for path in self._paths])
        self.version = 1
        self._next_look_s = clock() + LOOK_S

    @property
    def value(self) -> Value:
        """As the files are, or were a second ago."""
        self.refresh_if_due()
        return self._value

    def refresh_if_due(self) -> None:
        """Look at the files where the last look is a second ago."""
        if self._clock() >= self._next_look_s:
            self.refresh()

    def refresh(self) -> None:
        """Look at the files now."""
        with self._lock:
            self._next_look_s = self._clock() + LOOK_S
            seen = stamps_of(self._paths)
            if seen == self._seen:
                return
            self._seen = seen
            try:
                value = self._read([read_file(path, self._what) for path in self._paths])
            except ConfigError as error:
                CREDENTIAL_FAILURES.inc()
                _log.error("credentials.not_reloaded", what=self._what, why=str(error))
                return
            self._value = value
            self.version += 1
        _log.info("credentials.reloaded", what=self._what, version=self.version)


def stamps_of(paths: Iterable[Path]) -> tuple[object, ...]:
    """Differs after a file was written, or replaced by another (as Kubernetes moves a link)."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes. Raises ConfigError, which names the file and never quotes it."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be read ({error.strerror})") from None
    if not data.strip():
        raise ConfigError(f"{what}: {path} is empty")
    if len(data) > _MOST_BYTES:
        raise ConfigError(
            f"{what}: {path} has more than {_MOST_BYTES:,} bytes; is it the right one?"
        )
    return data


def read_secret(path: Path, what: str) -> str:
    """A file's text, without the newline that editors end it with. Raises ConfigError, which names
    the file and never quotes it.
    """
    try:
        return read_file(path, what).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not UTF-8 text") from None


class TokenFile:
    """A token to show to others; the file may be replaced at any time."""

    def __init__(self, path: Path) -> None:
        self._files = ReloadedFiles("the token", (path,), lambda data: _token(data[0], path))

    @property
    def header(self) -> str:
        """For the metadata `authorization`."""
        return f"Bearer {self._files.value}"


def _token(data: bytes, path: Path) -> str:
    try:
        token = data.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or any(one.isspace() or not one.isprintable() for one in token):
        raise ConfigError(f"the token: {path} is not one token on a line")
    return token
