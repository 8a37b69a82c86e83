"""The stores that every contract suite over a store runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.memory_store import MemoryStore
from nestvec.core.ports import VectorStore
from tests.support.redis_servers import LocalCluster, Watched
from tests.support.stores import own_store, redis_binary


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[EmbeddedValkey]:
    """The embedded server, as it ships."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedValkey]:
    """A redis-server from PATH."""
    with EmbeddedValkey(EmbeddedSettings(binary=redis_binary())) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[str]:
    """The URL of a cluster of three masters."""
    with LocalCluster() as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def watched_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a primary behind a Sentinel."""
    with Watched(tmp_path_factory.mktemp("sentinel"), replicas=0) as watched:
        yield watched.url


@pytest.fixture(params=["memory", "valkey", "redis", "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[VectorStore]:
    """An empty store of each kind."""
    opened: VectorStore
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "cluster":
        opened = own_store(request.getfixturevalue("redis_cluster"))
    else:
        opened = own_store(request.getfixturevalue(f"{request.param}_server"))
    yield opened
    await opened.close()
