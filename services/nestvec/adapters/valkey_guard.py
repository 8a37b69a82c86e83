"""Keeps a Valkey server for exactly as long as the process that asked for it. Run as a script.

    python -I -S valkey_guard.py PARENT_PID PIPE GRACE_S REMOVE LOG -- COMMAND...

The parent holds the other end of PIPE. When it closes it, or is gone however it went (SIGKILL
included), the server gets SIGTERM and GRACE_S seconds to save, then SIGKILL; then the directory
REMOVE is deleted. On Linux the server also gets SIGTERM if this guard itself is killed. One line on
stdout says the server's process id; stdout closes when the server ends.

A process of its own because nothing inside the parent survives SIGKILL, and because Linux ties
PR_SET_PDEATHSIG to the *thread* that forked: this process has one thread, the parent has many.
Standard library only, and little of it: it starts in some 30 ms.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run until the parent or the server ends. Returns the server's exit code."""
    parent, pipe, grace_s = int(arguments[0]), int(arguments[1]), float(arguments[2])
    remove, log, command = Path(arguments[3]), Path(arguments[4]), arguments[6:]
    terminated: list[int] = []
    reported = False
    signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
    os.set_inheritable(pipe, False)  # the server must not hold it
    os.chdir("/")  # nor this process anyone's directory
    try:
        with log.open("ab") as output:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                close_fds=False,  # the lock on the data directory lives as long as the server
                # One thread only, so that preexec_fn is safe here.
                preexec_fn=_die_with_guard if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        os.write(1, b"%d\n" % server.pid)
        while not terminated and _wanted(parent, pipe):
            if server.poll() is not None and not reported:
                os.close(1)  # the parent may still want the log: REMOVE waits for it
                reported = True
        return _stop(server, grace_s)
    finally:
        shutil.rmtree(remove, ignore_errors=True)


def _wanted(parent: int, pipe: int) -> bool:
    """Wait a moment for a sign that the parent is done. Its id is watched too: a process that it
    forked may still hold the pipe.
    """
    readable, _, _ = select.select([pipe], [], [], _POLL_S)
    return not readable and os.getppid() == parent


def _stop(server: subprocess.Popen[bytes], grace_s: float) -> int:
    if server.poll() is None:
        server.terminate()
    deadline = time.monotonic() + grace_s
    while server.poll() is None:
        if time.monotonic() > deadline:
            server.kill()
            return server.wait()
        time.sleep(0.01)
    return server.returncode


def _die_with_guard() -> None:
    import ctypes

    guard = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != guard:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
