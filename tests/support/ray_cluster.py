"""One Ray head and one store for all tests that need them: started once, ended at the end.

They are started as `nestvec up` starts them, so a supervisor looks after both. The head listens on
loopback and asks for a token; commands run as processes of their own, because Ray reads its
environment once a process.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.client import IngestDocument, NestvecClient
from nestvec_cluster import ray_cluster, supervisor
from nestvec_cluster.processes import Identity, end_all, with_descendants, with_words
from nestvec_cluster.topology import Topology, load_topology
from tests.support.cli import Ran
from tests.support.sentences import sentences

# What the shared cluster holds in `docs`, for good; `written` is for tests that write.
DEPLOYED = tuple(IngestDocument(f"d{n}", text) for n, text in enumerate(sentences(120)))
# As `search`, but it would rather fail than answer in coarse order.
STRICT = {"coarse_dim": 256, "k": 10, "candidates": 1000, "min_coverage": 0.5, "degrade": False}
_COMMAND_S = 240.0
_PORTS = 110
# `ray start` takes the machine's outer address where it is told loopback; this one does not.
_START_NODE = (
    "import ray._private.services as services\n"
    "services.resolve_ip_for_localhost = lambda host: host\n"
    "from ray.scripts.scripts import main\n"
    "main()\n"
)


def free_ports(count: int = _PORTS) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for _ in range(200):
        first = random.randrange(10_000, 30_000)
        if all(_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@dataclass(frozen=True)
class RaySession:
    """A cluster's file, and where it keeps what it knows. folder: for further files."""

    file: Path
    folder: Path
    environment: Mapping[str, str]

    @property
    def topology(self) -> Topology:
        return load_topology(self.file)

    @property
    def state(self) -> supervisor.State:
        """What its supervisor wrote last."""
        found = json.loads((self.folder / "state-path").read_text())
        told = supervisor.read_state(load_topology(Path(found)))
        assert told is not None
        return told

    def run(self, *arguments: object, file: Path | None = None) -> Ran:
        """One command, with this cluster's file."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "nestvec_cluster.cli",
                *map(str, arguments),
                "--file",
                str(file or self.file),
            ],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, **sections: Any) -> Path:
        """A topology, as a file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, **sections}))
        return path

    def joining(self, name: str, **sections: Any) -> Path:
        """A topology that joins this session's Ray and shares its store, under its own prefix."""
        topology = self.topology
        store = {"url": f"redis://127.0.0.1:{topology.store.port}", "prefix": name}
        ray = {"address": ray_cluster.ray_address(topology)}
        return self.write(name, **{"store": store, "ray": ray, **sections})

    def members(self) -> dict[str, dict[str, Any]]:
        """What `status` knows of each, by name."""
        told = self.run("status", "--json").json
        return {one["name"]: one for one in told["members"]}

    @contextmanager
    def node(self, num_cpus: int) -> Iterator[list[Identity]]:
        """Another node of the same Ray, as a machine of its own would be; killed at the end. Gives
        its raylet, of which all its processes are children.
        """
        folder = self.folder / f"node-{random.randrange(10**6)}"
        first = free_ports(60)
        address = ray_cluster.ray_address(self.topology)
        told = {**os.environ, **self.environment}
        told.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
        subprocess.run(
            [
                sys.executable,
                "-c",
                _START_NODE,
                "start",
                f"--address={address}",
                "--node-ip-address=127.0.0.1",
                f"--num-cpus={num_cpus}",
                f"--node-manager-port={first}",
                f"--object-manager-port={first + 1}",
                f"--min-worker-port={first + 10}",
                f"--max-worker-port={first + 59}",
                "--object-store-memory=80000000",
                "--include-log-monitor=false",
                f"--labels=nestvec-test={folder.name}",
            ],
            env=told,
            check=True,
            capture_output=True,
            timeout=60,
        )
        raylets = list(with_words(f"--node_manager_port={first}"))
        try:
            yield raylets
        finally:
            end_all(with_descendants(raylets), 2.0)

    def connect(self) -> None:
        """Make this process a driver. Ray must not have been imported with other settings."""
        os.environ.update(self.environment)
        ray_cluster.connect(self.topology)


@contextmanager
def session(name: str, **sections: Any) -> Iterator[RaySession]:
    """A topology with its own store, Ray and state folder. What it starts is ended."""
    folder = Path(tempfile.mkdtemp(prefix="nv-", dir="/tmp"))
    first = free_ports()
    file = folder / "cluster.yaml"
    topology = {
        "name": name,
        "store": {"port": first + 100},
        "coarse": {"num_cpus": 0.25},
        "query": {"count": 2, "port": first + 101},
        "ingest": {"count": 1, "port": first + 106},
        "timeouts": {"drain_s": 5, "ready_s": 90},
        "ray": {"port": first, "num_cpus": 8, "temp_dir": str(folder / "ray")},
        **sections,
    }
    file.write_text(yaml.safe_dump(topology))
    (folder / "state-path").write_text(json.dumps(str(file)))
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    loaded = load_topology(file)
    environment = {
        **ray_cluster.environment(loaded),
        "XDG_STATE_HOME": str(folder / "state"),
        "OPENBLAS_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    try:
        yield RaySession(file, folder, environment)
    finally:
        supervisor.stop_supervisor(loaded)
        if before is None:
            os.environ.pop("XDG_STATE_HOME")
        else:
            os.environ["XDG_STATE_HOME"] = before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RaySession]:
    """The one that all share: its Ray and its store run; no process of nestvec does yet."""
    pytest.importorskip("ray")
    sections = {
        "collections": {
            "docs": {"shards": 2, "replicas": 2},
            "written": {"shards": 1, "replicas": 1},
        },
        "classes": {"strict": STRICT},
        "encoder": {"in": "cluster", "num_cpus": 0.25, "query_cache_bytes": 0},
    }
    with session("tests", **sections) as shared:
        topology = shared.topology
        supervisor.ensure_supervisor(shared.file, topology)
        yield shared


@pytest.fixture(scope="session")
def deployed(ray_session: RaySession) -> RaySession:
    """The same one after `up`: two query front ends, an encoder, and `docs` on two shards of two
    replicas, filled.
    """
    ran = ray_session.run("up")
    assert ran.code == 0, ran.err
    address = f"127.0.0.1:{ray_session.topology.ingest.port}"
    with NestvecClient(address, timeout_s=30) as client:
        assert client.index("docs", DEPLOYED).indexed == len(DEPLOYED)
    return ray_session
