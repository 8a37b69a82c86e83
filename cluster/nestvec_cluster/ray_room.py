"""What the machines have room for: resources of Ray's nodes, and free ports on this one."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from nestvec.core.errors import ConfigError
from nestvec_cluster.local_store import store_url
from nestvec_cluster.ray_cluster import LOOPBACK
from nestvec_cluster.topology import Topology


def alive_nodes() -> list[dict[str, Any]]:
    """Of the Ray cluster that this process is a driver of, as Ray tells them."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [one for one in nodes if one["Alive"]]


def free_by_node() -> dict[str, dict[str, float]]:
    """Node id -> what nobody has reserved there, as Ray names it."""
    # The public call adds the nodes up.
    from ray._private import state

    free: dict[str, dict[str, float]] = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return free


def require_room(wanted: Sequence[tuple[str, dict[str, float]]]) -> None:
    """That the nodes could hold all of `wanted` (what, resources of one piece) if they were empty.

    Raises ConfigError, saying what is missing. The largest pieces first, each on the node with the
    most room: a bound that is right for pieces of one size.
    """
    nodes = [dict(one["Resources"]) for one in alive_nodes()]
    for name, unit in (("GPU", "GPUs"), ("CPU", "CPUs"), ("memory", "bytes of memory")):
        pieces = sorted((one.get(name, 0.0) for _, one in wanted if one.get(name)), reverse=True)
        free = [float(node.get(name, 0.0)) for node in nodes]
        have = list(free)
        for piece in pieces:
            free.sort()
            if not free or free[-1] < piece - 1e-9:
                raise ConfigError(_no_room(name, unit, pieces, have, wanted))
            free[-1] -= piece


def require_store_in_reach(topology: Topology, addresses: Iterable[str]) -> None:
    """That no node stands on another machine while the store listens on this one's loopback only:
    processes there would never find it. addresses: of the nodes. Raises ConfigError.
    """
    url = store_url(topology)
    if not _is_loopback(url):
        return
    elsewhere = sorted({one for one in addresses if not _is_here(one)})
    if elsewhere:
        raise ConfigError(
            f"Ray has nodes on other machines ({', '.join(elsewhere)}), which cannot reach the "
            f"store at {_named(url)}; give store.url an address that every node reaches, or join "
            f"a Ray that is on this machine only"
        )


def _is_loopback(url: str) -> bool:
    """Of several hosts (Sentinels), all of them."""
    parts = urlsplit(url)
    if parts.scheme.startswith("unix"):
        return True
    hosts = [urlsplit(f"//{one}").hostname or "" for one in parts.netloc.split("@")[-1].split(",")]
    return all(one == "localhost" or one == "::1" or one.startswith("127.") for one in hosts)


def _named(url: str) -> str:
    """Without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_here(address: str) -> bool:
    """Only a machine's own addresses can be listened on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def _no_room(
    name: str,
    unit: str,
    pieces: Sequence[float],
    have: Sequence[float],
    wanted: Sequence[tuple[str, dict[str, float]]],
) -> str:
    who = sorted({what for what, one in wanted if one.get(name)})
    if not any(have):
        return (
            f"{unit} are asked for ({', '.join(who)}) and no node has any; take num_gpus out, or "
            f"add a node that has some"
        ).replace("num_gpus", {"GPU": "num_gpus", "CPU": "num_cpus"}.get(name, "memory_bytes"))
    sizes = ", ".join(f"{piece:g}" for piece in sorted(set(pieces), reverse=True))
    nodes = ", ".join(f"{one:g}" for one in have)
    return (
        f"the topology cannot be placed: it needs {math.fsum(pieces):g} {unit} in pieces of "
        f"{sizes} ({', '.join(who)}), nodes have {nodes}; ask for less, add a node, or lower what "
        f"each piece takes"
    )


def require_free_ports(topology: Topology) -> None:
    """That nothing else listens where this cluster is about to. Raises ConfigError, naming it."""
    for key, ports in topology.fixed_ports().items():
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError as error:
                    raise ConfigError(
                        f"{key}: port {port} is in use ({error.strerror}); `{key}` takes "
                        f"{ports[0]} to {ports[-1]}: stop what holds it, or move the range"
                    ) from None
