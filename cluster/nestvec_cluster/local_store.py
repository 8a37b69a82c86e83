"""The Valkey that `up` starts on this machine: on TCP, with its data, outliving whoever started it.

The supervisor looks after it. Unlike the embedded server it is not bound to its parent's life: a
supervisor that is killed takes no store with it, and the next one takes this server over.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time

from nestvec.adapters.data_lock import DataLock
from nestvec.adapters.embedded_valkey import find_binary
from nestvec.core.errors import ConfigError
from nestvec_cluster.processes import Identity
from nestvec_cluster.topology import Topology

_START_S = 120.0
_LOCK_S = 12.0
_HOST = "127.0.0.1"
_LOG_LINES = 8


def store_url(topology: Topology) -> str:
    """Where every process of the cluster finds the store."""
    return topology.store.url or f"redis://{_HOST}:{topology.store.port}"


def start_store(topology: Topology) -> Identity:
    """Returns once it answers. Raises ConfigError with the log's last lines when it does not."""
    data_dir = topology.data_dir
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = topology.run_dir / "valkey.log"
    options = {
        "bind": _HOST,
        "port": str(topology.store.port),
        "dir": str(data_dir),
        "daemonize": "no",
        "logfile": "",
        "databases": "1",
        "save": "",
        "appendonly": "yes",
        "appendfsync": topology.store.fsync,
        "maxmemory": str(topology.store.max_memory_bytes or 0),
        "maxmemory-policy": "noeviction",
    }
    command = [str(find_binary(None))]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    lock = DataLock(data_dir, _LOCK_S)
    try:
        with log.open("ab") as sink:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=(lock.fileno,),
                start_new_session=True,
            )
    finally:
        lock.close()
    deadline = time.monotonic() + _START_S
    while not answers(topology.store.port):
        if server.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise ConfigError(f"the store does not start on port {topology.store.port}:\n{tail}")
        time.sleep(0.02)
    identity = Identity.of(server.pid)
    assert identity is not None, "it answered"
    return identity


def answers(port: int) -> bool:
    """Whether a server there answers PING, and not that it is still loading."""
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), 1.0) as connection:
        connection.settimeout(1.0)
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
