"""A cluster as plain processes over a store of its own, any of which may be killed: workers of the
coarse tier, writers, and front ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.opening import open_registry
from nestvec.config import ClusterSection, StoreSection
from nestvec.core.members import EVERY_COLLECTION, Assignment, Layout

_STOP_TIMEOUT_S = 30.0


class ClusterProcesses:
    """Everything is gone at the end of the `with`. settings: of every process. shards: of every
    collection, with one worker each.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], shards: int) -> None:
        self._name = name
        self._folder = folder / name
        self._folder.mkdir()
        self._settings = settings
        self._shards = shards
        self._store = EmbeddedValkey()
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        self._store.start()
        try:
            asyncio.run(self._assign())
            for number in range(self._shards):
                coarse = {"shards": self._shards, "shard": number, "use_gpu": False}
                self.start(f"coarse-{number}", coarse=coarse)
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
        for slot in list(self._running):
            self.kill(slot)
        self._store.stop()

    async def _assign(self) -> None:
        async with AsyncExitStack() as stack:
            store = StoreSection(url=self._store.url)
            registry = await open_registry(store, ClusterSection(name=self._name), stack)
            await registry.assign(
                EVERY_COLLECTION, None, Assignment(Layout("default", self._shards))
            )

    def start(self, slot: str, **more: Mapping[str, Any]) -> str:
        """One process of the role before the slot's dash. Returns its address once it listens.
        more: sections of its settings.
        """
        role = slot.partition("-")[0]
        settings: dict[str, Any] = {
            "server": {"port": 0, "drain_s": 0.2},
            "store": {"url": self._store.url},
            "cluster": {"name": self._name, "slot": slot},
            "log": {"level": "info", "format": "json"},
        }
        if role == "coarse":
            # Its slot says which shard it is.
            del settings["cluster"]["slot"]
        for section, values in (*self._settings.items(), *more.items()):
            settings[section] = {**settings.get(section, {}), **values}
        config = self._folder / f"{slot}.yaml"
        config.write_text(yaml.safe_dump(settings))
        with self._log(slot).open("ab") as log:
            process = self._running[slot] = subprocess.Popen(
                [sys.executable, "-m", f"nestvec.{role}.main", "--config", str(config)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, f"{slot} did not start:\n{self._log(slot).read_text()}"
        return address

    def kill(self, slot: str) -> None:
        """As a crash would."""
        process = self._running.pop(slot)
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait(_STOP_TIMEOUT_S)

    def events(self, slot: str, event: str) -> Iterator[dict[str, Any]]:
        """Those of one kind that it has logged."""
        for line in self._log(slot).read_text().splitlines():
            if line.startswith("{"):
                told = json.loads(line)
                if told["event"] == event:
                    yield told

    def _log(self, slot: str) -> Path:
        return self._folder / f"{slot}.log"
