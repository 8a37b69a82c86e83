"""Ray: the head that `up` starts on this machine, joining one that is there, and what it can place.

A head of our own listens on loopback only and asks for a token of its own (`RAY_AUTH_MODE=token`,
the token in the cluster's run folder): whoever reaches Ray's ports may run any code as this user.
Its tables are kept in the cluster's store, under an own namespace, so that the head's control
server (GCS) may die and be started again. A cluster that is joined has its own rules: there the
environment of whoever calls decides.

Ray reads its environment when it is first imported, so nothing here imports it before `connect`.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nestvec.adapters.redis_settings import STORE_PASSWORD
from nestvec.core.errors import ConfigError
from nestvec.security.files import read_secret
from nestvec_cluster.local_store import store_url
from nestvec_cluster.processes import Identity, command_line, with_words
from nestvec_cluster.topology import Topology

LOOPBACK = "127.0.0.1"
_START_S = 90.0
_REDIS_S = 3.0
_FIRST_WORKER_PORT = 10
_LAST_WORKER_PORT = 99
# In this order: GCS, node manager, object manager, client, metrics, agent, agent's gRPC, runtime
# environments, dashboard.
_PORTS = (
    "--port",
    "--node-manager-port",
    "--object-manager-port",
    "--ray-client-server-port",
    "--metrics-export-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--dashboard-port",
)
# Of a head without a dashboard: nothing asks them, and they take 190 MB.
_NOT_NEEDED = ("ray.util.client.server", "dashboard/dashboard.py")


@dataclass(frozen=True, slots=True)
class Head:
    """A head that runs. gcs_command: to start its control server again, with the same files."""

    address: str
    gcs: Identity
    raylet: Identity
    gcs_command: tuple[str, ...]


def ray_address(topology: Topology) -> str:
    """host:port of the cluster's GCS."""
    return topology.ray.address or f"{topology.ray.node_ip}:{topology.ray.port}"


def require_ray() -> None:
    """Raise ConfigError where Ray is not installed."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise ConfigError("Ray is not installed; pip install 'nestvec[cluster]'")


def environment(topology: Topology) -> dict[str, str]:
    """What a process needs to speak to the cluster's Ray; to be set before Ray is imported."""
    told = {"RAY_USAGE_STATS_ENABLED": "0"}
    if topology.ray.address is not None:
        return told
    # Ray runs workers at nice 15, for batch work. These ones answer people: on a busy machine they
    # would stand still behind anything else until their leases end.
    told["RAY_worker_niceness"] = "0"
    told |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(topology.run_dir / "token")}
    if topology.ray.node_ip == LOOPBACK:
        # Without it Ray takes the machine's outer address instead, and listens on all of them.
        told["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return told


def write_token(topology: Topology) -> None:
    """Once for a cluster; only this user may read it."""
    path = topology.run_dir / "token"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def head_environment(topology: Topology) -> dict[str, str]:
    """Of the head's processes, and of a GCS that is started again."""
    url = urlsplit(store_url(topology))
    if url.scheme not in ("redis", "rediss"):
        raise ConfigError(
            f"store.url is {url.scheme}://, and Ray keeps its tables over redis:// or rediss:// "
            f"only; give such a URL, or ray.address of a Ray that is there already"
        )
    scheme = "rediss://" if url.scheme == "rediss" else ""
    return {
        **os.environ,
        **environment(topology),
        "RAY_REDIS_ADDRESS": f"{scheme}{url.hostname}:{url.port or 6379}",
        "RAY_external_storage_namespace": _tables(topology),
        # Workers that are idle at the start would each take 60 MB.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
    }


def _start_command(topology: Topology) -> list[str]:
    ray = topology.ray
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--no-monitor"]
    command += [f"{option}={ray.port + number}" for number, option in enumerate(_PORTS)]
    command += [
        f"--node-ip-address={ray.node_ip}",
        f"--min-worker-port={ray.port + _FIRST_WORKER_PORT}",
        f"--max-worker-port={ray.port + _LAST_WORKER_PORT}",
        "--include-dashboard=false",
        "--dashboard-host=127.0.0.1",
        "--include-log-monitor=false",
        "--disable-usage-stats",
        f"--object-store-memory={ray.object_store_bytes}",
        f"--temp-dir={topology.ray_dir}",
        "--log-color=false",
    ]
    if ray.num_cpus is not None:
        command.append(f"--num-cpus={ray.num_cpus}")
    if ray.num_gpus is not None:
        command.append(f"--num-gpus={ray.num_gpus}")
    url = urlsplit(store_url(topology))
    password = url.password or _password(topology)
    command += [f"--redis-username={url.username}"] if url.username else []
    return command + ([f"--redis-password={password}"] if password else [])


def _password(topology: Topology) -> str:
    path = topology.store.password_file
    return "" if path is None else read_secret(path, STORE_PASSWORD)


def start_head(topology: Topology) -> Head:
    """Start it; its processes outlive this one. Raises ConfigError when it does not start."""
    folder = topology.ray_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder} is another user's; set ray.temp_dir to a folder of your own")
    log = topology.run_dir / "ray.log"
    with log.open("wb") as sink:
        done = subprocess.run(
            _start_command(topology),
            env=head_environment(topology),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            check=False,
            timeout=_START_S,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise ConfigError(f"Ray does not start:\n{tail}")
    head = find_head(topology)
    if head is None:
        raise ConfigError(f"Ray started and ended again; see {log} and {folder}/session_latest")
    spare = [one for one in head_processes(topology) if _is_spare(command_line(one.pid))]
    for one in spare:
        one.send(signal.SIGTERM)
    return head


def _is_spare(words: Sequence[str]) -> bool:
    return any(word.endswith(_NOT_NEEDED) for word in words)


def head_processes(topology: Topology) -> dict[Identity, list[str]]:
    """What `start_head` started and that still runs, by its folder or its address."""
    found = with_words(f"{topology.ray_dir}/")
    return found | with_words(f"--address={ray_address(topology)}")


def find_head(topology: Topology) -> Head | None:
    """The head of this cluster on this machine, where it runs: both its GCS and its raylet."""
    gcs = raylet = None
    command: tuple[str, ...] = ()
    for identity, words in with_words(f"{topology.ray_dir}/").items():
        binary = Path(words[0]).name
        if binary == "gcs_server":
            gcs, command = identity, tuple(words)
        elif binary == "raylet":
            raylet = identity
    if gcs is None or raylet is None:
        return None
    return Head(ray_address(topology), gcs, raylet, command)


def start_gcs(topology: Topology, command: Sequence[str]) -> Identity:
    """The head's control server again, after it died: it finds its tables in the store."""
    server = subprocess.Popen(
        command,
        env=head_environment(topology),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    identity = Identity.of(server.pid)
    if identity is None:
        raise ConfigError("Ray's GCS was started again and ended at once")
    return identity


def connect(topology: Topology) -> None:
    """Make this process a driver of the cluster. Raises ConfigError where its head is gone."""
    address = ray_address(topology)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3.0).close()
    except (OSError, ValueError) as error:
        raise ConfigError(head_is_gone(topology, str(error))) from None
    os.environ.update(environment(topology))
    import ray

    # It warns of restartable actors in placement groups that are removed: ours are ended first.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            namespace=topology.namespace,
            log_to_driver=False,
            configure_logging=False,
            ignore_reinit_error=True,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot join Ray at {address}: {str(error).splitlines()[0]}") from None


def disconnect() -> None:
    """Be a driver no more. Safe to repeat."""
    import ray

    ray.shutdown()


def forget_tables(topology: Topology) -> None:
    """Delete what a head that has ended kept in the store: the next one starts with nothing.

    Does nothing where the store does not answer: a store that is gone keeps nothing, and one that
    comes back has tables of nodes that Ray knows to be dead.
    """
    import redis

    told: dict[str, Any] = {"socket_timeout": _REDIS_S, "socket_connect_timeout": _REDIS_S}
    if password := _password(topology):
        told["password"] = password
    with (
        suppress(redis.exceptions.RedisError),
        redis.Redis.from_url(store_url(topology), **told) as store,
    ):
        for key in store.scan_iter(match=f"RAY{_tables(topology)}@*", count=1000):
            store.delete(key)


def _tables(topology: Topology) -> str:
    """The namespace of Ray's tables in the store."""
    return f"{topology.store.prefix}-ray-{topology.name}"


def head_is_gone(topology: Topology, reason: str) -> str:
    """The message, with the way out."""
    if topology.ray.address is not None:
        return (
            f"no Ray head answers at {topology.ray.address} ({reason}); start it, or correct "
            f"ray.address; without ray.address `nestvec up` starts one"
        )
    return (
        f"the Ray head of cluster {topology.name!r} is gone: nothing answers at "
        f"{ray_address(topology)} ({reason}); `nestvec down --keep-data` ends what is left of it "
        f"and `nestvec up` starts it again; no document is lost, they are in the store"
    )
