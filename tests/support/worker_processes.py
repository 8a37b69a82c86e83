"""Real coarse workers of a cluster, each a process of its own: to be killed, stopped, drained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import yaml

CLUSTER = "workers"
_PATIENCE_S = 30.0


class WorkerProcesses:
    """Of one cluster over one store. Everything is gone at the end of the `with`."""

    def __init__(self, store_url: str, folder: Path, heartbeat_s: float) -> None:
        self._store_url = store_url
        self._folder = folder
        self._heartbeat_s = heartbeat_s
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def start(self, shard: int = 0, replica: int = 0, shards: int = 1, **more: Any) -> str:
        """Returns its name in the cluster, at once. more: sections of settings. Whoever had the
        name before has been killed.
        """
        name = f"default/{shards}-{shard}.{replica}"
        if name in self._running:
            self._running[name].wait(_PATIENCE_S)
        settings: dict[str, Any] = {
            "server": {"port": 0, "drain_s": 5},
            "store": {"url": self._store_url},
            "coarse": {"shards": shards, "shard": shard, "replica": replica, "use_gpu": False},
            "cluster": {"name": CLUSTER, "heartbeat_s": self._heartbeat_s},
            "log": {"level": "info", "format": "json"},
        }
        for section, keys in more.items():
            settings[section] = {**settings.get(section, {}), **keys}
        config = self._folder / f"{name.replace('/', '-')}.yaml"
        config.write_text(yaml.safe_dump(settings))
        command: Sequence[str] = (sys.executable, "-m", "nestvec.coarse.main", "--config", config)  # type: ignore[assignment]
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
            )
        return name

    def signal(self, name: str, number: signal.Signals) -> None:
        """To one of them."""
        self._running[name].send_signal(number)

    def exit_code(self, name: str) -> int:
        """Wait until it has ended."""
        return self._running[name].wait(_PATIENCE_S)

    def log(self, name: str) -> str:
        """All that it has said."""
        return self._log(name).read_text()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '-')}.log"
