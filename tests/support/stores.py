"""Collections, records and real servers for tests of the store."""

from __future__ import annotations

import itertools
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.ports import Placed, StoreDeletion, StoreRecord, VectorStore
from nestvec.core.space import Space
from nestvec_cluster.ports import free_ports

SPACE = Space("test-model", 64, trained_dims=(16, 32, 64))
# A millisecond's work never takes this long, a stopped server always does.
TIMEOUT_S = 0.4

_prefixes = itertools.count()


def a_collection(name: str = "docs", partitions: int = 8) -> Collection:
    """One that no store has seen."""
    return Collection(name, SPACE, store_dim=64, tiers=(16,), partitions=partitions)


def a_record(external_id: str, tag: str = "", version: int = 1) -> StoreRecord:
    """Its vector and payload tell which id and tag it was written with."""
    return StoreRecord(
        external_id, f"vector {external_id} {tag}".encode(), b"payload " + tag.encode(), version
    )


def some_records(external_ids: Iterable[str], tag: str = "", version: int = 1) -> list[StoreRecord]:
    """One an id."""
    return [a_record(external_id, tag, version) for external_id in external_ids]


def some_deletions(
    external_ids: Iterable[str], version: int = 1, *, remember: bool = False
) -> list[StoreDeletion]:
    """One an id."""
    return [StoreDeletion(external_id, version, remember) for external_id in external_ids]


async def tidy_all(store: VectorStore, collection: Collection, keep: int = 0) -> int:
    """Free all that is replaced or deleted by now."""
    upto = await store.positions(collection, range(collection.partitions))
    return await store.tidy(collection, upto, keep)


async def created(
    store: VectorStore, name: str = "docs", assets: dict[str, bytes] | None = None
) -> Collection:
    """`a_collection` in the store's catalogue."""
    return await store.create_collection(a_collection(name), assets or {})


def ids_of(placed: list[Placed]) -> Ids:
    """(n,) int64: where the records went."""
    return np.array([one.internal_id for one in placed], np.int64)


async def live_ids(store: VectorStore, collection: Collection) -> set[int]:
    """All that a scan finds."""
    batches = store.live_ids(collection, range(collection.partitions))
    return {internal for batch in [b async for b in batches] for internal in batch.tolist()}


def redis_binary() -> Path:
    """Debian's or anyone's redis-server on PATH; skips the test where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return Path(found)


def free_port() -> int:
    """One that nothing listens on at this moment."""
    return free_ports(1)[0]


def ask(server: EmbeddedValkey, command: str) -> bytes:
    """The raw answer to one short command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(server.socket_path))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(1 << 16)


def own_store(server: EmbeddedValkey | str) -> RedisStore:
    """A store under a prefix that no other test uses. server: one, or the URL of any."""
    url = server if isinstance(server, str) else server.url
    return RedisStore(RedisSettings(url, prefix=f"t{next(_prefixes)}"))
