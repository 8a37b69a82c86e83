"""Three processes that may each be killed at any moment, and started again: a store with an
append-only file, one shard of the coarse tier, and an engine that ingests and searches.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.store_server import StoreServer
from tests.support.stores import free_port

PATIENCE_S = 60.0
# Where each role's process begins.
_MODULES = {"coarse": "nestvec.coarse.main", "engine": "nestvec_cluster.cli"}


class Processes:
    """Start with `with`; everything is gone afterwards."""

    ROLES = ("store", "coarse", "engine")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {role: free_port() for role in _MODULES}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.store = StoreServer(folder / "store")

    @property
    def address(self) -> str:
        """Of the engine."""
        return f"127.0.0.1:{self._ports['engine']}"

    def __enter__(self) -> Self:
        try:
            for role in _MODULES:
                self.start(role)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self.store.__exit__(None, None, None)

    def kill(self, role: str) -> None:
        """As a crash would: nothing is flushed, nobody is told."""
        if role == "store":
            self.store.kill()
            return
        process = self._running[role]
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def start(self, role: str) -> None:
        """And wait until it serves."""
        if role == "store":
            self.store.start_again()
            return
        arguments = ["serve"] if role == "engine" else []
        with (self._folder / f"{role}.log").open("ab") as log:
            self._running[role] = subprocess.Popen(
                [sys.executable, "-m", _MODULES[role], *arguments, "--config", self._config(role)],
                stdout=log,
                stderr=log,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
        self._wait_until_serving(role)

    def log(self, role: str) -> str:
        """The last lines that a role wrote, for a failure's message."""
        lines = (self._folder / f"{role}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-40:])

    def _config(self, role: str) -> str:
        settings: dict[str, Any] = {
            "server": {"port": self._ports[role], "drain_s": 1},
            "store": {"url": self.store.url},
            "log": {"level": "warning", "format": "json"},
        }
        if role == "coarse":
            settings["coarse"] = {
                "snapshots": str(self._folder / "snapshots"),
                "snapshot_every_s": 2,
            }
        else:
            settings["coarse"] = {"addresses": [f"127.0.0.1:{self._ports['coarse']}"]}
        path = self._folder / f"{role}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    def _wait_until_serving(self, role: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        serving = health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[role]}") as channel:
            # Its generated stubs say nothing of their methods.
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                if self._running[role].poll() is not None:
                    break
                with contextlib.suppress(grpc.RpcError):
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == serving:
                        return
                time.sleep(0.05)
        raise AssertionError(f"{role} does not serve:\n{self.log(role)}")
