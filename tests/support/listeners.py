"""Who listens on a port: from an address in a registry to the process that is to be killed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nestvec_cluster.processes import Identity

_LISTENING = "0A"


def listener(port: int) -> Identity:
    """The process that listens on a TCP port of this machine. Needs /proc, and to own it."""
    # gRPC listens on both kinds of sockets, or on the newer one only.
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]
    ]
    listening = {
        f"socket:[{one[9]}]"
        for one in lines
        if one[3] == _LISTENING and int(one[1].rpartition(":")[2], 16) == port
    }
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and not listening.isdisjoint(_sockets(entry)):
            found = Identity.of(int(entry.name))
            assert found is not None
            return found
    raise AssertionError(f"nobody listens on port {port}")


def _sockets(process: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for one in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(str(one.readlink()))
    return found
