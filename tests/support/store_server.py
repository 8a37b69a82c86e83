"""A store that stands apart from the engine, to be killed, stopped, filled and damaged."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from tests.support.stores import free_port


class StoreServer:
    """A real Valkey on a port of its own. What it answered survives `kill`."""

    def __init__(self, data_dir: Path) -> None:
        self._settings = EmbeddedSettings(
            data_dir=data_dir,
            appendfsync="always",
            options={"port": str(free_port()), "bind": "127.0.0.1"},
        )
        self._valkey = EmbeddedValkey(self._settings).start()
        # redis-py's answers are typed as awaitables too.
        self.redis: Any = redis.Redis(port=int(self._settings.options["port"]))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._settings.options['port']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.redis.close()
        self._valkey.stop()

    def kill(self) -> None:
        os.kill(self._valkey.pid, signal.SIGKILL)
        self._valkey.stop()

    def start_again(self) -> None:
        """On the same port, with the same data."""
        self._valkey = EmbeddedValkey(self._settings).start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It accepts connections and answers nothing."""
        os.kill(self._valkey.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._valkey.pid, signal.SIGCONT)

    @contextmanager
    def full(self) -> Iterator[None]:
        """It refuses writes, whatever it frees meanwhile."""
        self.redis.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.redis.config_set("maxmemory", 0)

    @contextmanager
    def room_for(self, nbytes: int) -> Iterator[None]:
        """It takes about so much more and then refuses writes; what it frees makes room again."""
        used = self.redis.info("memory")["used_memory"]
        self.redis.config_set("maxmemory", used + nbytes)
        try:
            yield
        finally:
            self.redis.config_set("maxmemory", 0)

    def vector_key(self, collection: str, name: str) -> bytes:
        """Where the full vector of document `name` is kept: see nestvec.adapters.redis_keys."""
        return self._key(collection, name, b"v:")

    def payload_key(self, collection: str, name: str) -> bytes:
        return self._key(collection, name, b"d:")

    def map_key(self, collection: str, name: str) -> bytes:
        """The id map that has an entry for document `name`."""
        maps = self.redis.scan_iter(match=f"nestvec:{{{collection}:*}}:ids")
        found: bytes = next(key for key in maps if self.redis.hexists(key, name))
        return found

    def values(self, collection: str) -> dict[str, int]:
        """How many vectors and payloads there are, and how many entries the id maps have."""
        tag = f"nestvec:{{{collection}:*}}"
        maps = self.redis.scan_iter(match=f"{tag}:ids")
        return {
            "vectors": len(list(self.redis.scan_iter(match=f"{tag}v:*"))),
            "payloads": len(list(self.redis.scan_iter(match=f"{tag}d:*"))),
            "ids": sum(self.redis.hlen(key) for key in maps),
        }

    def _key(self, collection: str, name: str, kind: bytes) -> bytes:
        ids = self.map_key(collection, name)
        entry: bytes = self.redis.hget(ids, name)
        sequence = int.from_bytes(entry[1:7], "big")
        return ids.removesuffix(b":ids") + kind + b"%d" % sequence
