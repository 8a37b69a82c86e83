"""The stores that every contract suite over a store runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.memory_store import MemoryStore
from nestvec.core.ports import VectorStore
from tests.support.stores import own_store, redis_binary, start_cluster_node


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
def cluster_node() -> Iterator[EmbeddedValkey]:
    """A server that refuses commands over two hash slots."""
    server = start_cluster_node()
    yield server
    server.stop()


@pytest.fixture(params=["memory", "valkey", "redis", "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[VectorStore]:
    """An empty store of each kind."""
    opened: VectorStore
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "cluster":
        opened = own_store(request.getfixturevalue("cluster_node"), cluster=True)
    else:
        opened = own_store(request.getfixturevalue(f"{request.param}_server"))
    yield opened
    await opened.close()
