"""A data directory belongs to one engine at a time: an flock that outlives the engine's crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from nestvec.core.errors import ConfigError

_FILE = "nestvec.lock"
# A process that was killed still looks alive for a moment.
_SURE_S = 0.5


class DataLock:
    """The lock on one data directory.

    It lasts until every process that holds `fileno` has closed it or ended. The engine hands the
    descriptor to the server's guard and closes its own: so an engine that was killed does not free
    a directory that its server is still writing to.
    """

    def __init__(self, data_dir: Path, patience_s: float) -> None:
        """Take it. Waits up to `patience_s` for a server whose engine is gone to finish saving;
        raises ConfigError much sooner when the engine that holds it is alive.
        """
        path = data_dir / _FILE
        self.fileno = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(path, patience_s)
            os.ftruncate(self.fileno, 0)
            os.pwrite(self.fileno, b"%d\n" % os.getpid(), 0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close this process's hold on it."""
        if self.fileno >= 0:
            os.close(self.fileno)
            self.fileno = -1

    def _take(self, path: Path, patience_s: float) -> None:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(self.fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_pid(self.fileno)
                limit_s = _SURE_S if holder and _alive(holder) else patience_s
                if time.monotonic() - started > limit_s:
                    raise ConfigError(
                        f"data directory {path.parent} is in use by process "
                        f"{holder or '(unknown)'}; stop that one, or choose another data_dir"
                    ) from None
                time.sleep(0.02)
            else:
                return


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, hence alive
        return True
    # One that ended and that its own parent has not yet waited for. Only Linux has the file.
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X")
    return True
