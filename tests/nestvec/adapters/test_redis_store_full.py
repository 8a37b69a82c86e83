"""A store at its memory limit: writes are refused whole, and what frees memory still works."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_pool import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.errors import Overloaded
from nestvec.core.ports import StoreRecord
from tests.support.stores import a_collection, redis_binary, start_cluster_node


@pytest.fixture(params=["valkey", "redis", "cluster"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    if request.param == "cluster":
        running = start_cluster_node()
        yield running
        running.stop()
        return
    binary: Path | None = redis_binary() if request.param == "redis" else None
    with EmbeddedValkey(EmbeddedSettings(binary=binary)) as running:
        yield running


@pytest.fixture
def raw(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client:
        client.config_set("maxmemory", "0")
        client.flushall()
        yield client


def limit(raw: redis.Redis, spare_bytes: int) -> None:
    """Leave so much room and no more."""
    raw.config_set("maxmemory", str(raw.info("memory")["used_memory"] + spare_bytes))


def open_store(server: EmbeddedValkey, raw: redis.Redis) -> RedisStore:
    cluster = raw.info("cluster")["cluster_enabled"] == 1
    return RedisStore(RedisSettings(server.url, cluster=cluster))


def count_whole_documents(raw: redis.Redis, partitions: int) -> int:
    """How many documents the store has, once it is sure that each is there with all its parts."""
    documents = 0
    expected = set()
    for partition in range(partitions):
        tag = b"nestvec:{docs:1:%d}" % partition
        written = int(raw.get(tag + b":sequence") or 0)
        located = sorted(int(value[1:]) for value in raw.hvals(tag + b":ids"))
        assert located == list(range(1, written + 1))
        for sequence in located:
            expected |= {tag + b"v:%d" % sequence, tag + b"d:%d" % sequence}
        if written:
            expected |= {tag + b":sequence", tag + b":ids"}
        documents += written
    assert {key for key in raw.scan_iter() if b"{docs:" in key} == expected
    return documents


async def test_what_does_not_fit_is_refused_whole_at_many_sizes(
    server: EmbeddedValkey, raw: redis.Redis
) -> None:
    chosen = random.Random(7)
    store = open_store(server, raw)
    partitions = 4
    for _ in range(20):
        raw.config_set("maxmemory", "0")
        raw.flushall()
        docs = await store.create_collection(a_collection(partitions=partitions), {})
        size = chosen.choice([10, 1_544, 20_000])
        limit(raw, chosen.choice([0, 1, 5, 30, 100]) * size)
        written, batch, refused = 0, 0, 0
        while refused < 3:
            batch += 1
            count = chosen.choice([1, 3, 40])
            records = [
                StoreRecord(f"{batch} {i}", b"v" * size, b"p" * chosen.randrange(size))
                for i in range(count)
            ]
            try:
                written += len(await store.put(docs, records))
            except Overloaded:
                refused += 1
                found = count_whole_documents(raw, partitions)
                if not store._cluster:  # none of the batch, not only whole partitions of it
                    assert found == written
                written = found
        assert count_whole_documents(raw, partitions) == written
    await store.close()


async def test_a_full_store_still_reads_and_is_freed_by_deleting(
    server: EmbeddedValkey, raw: redis.Redis
) -> None:
    store = open_store(server, raw)
    docs = await store.create_collection(a_collection(), {})
    names = [f"n{i}" for i in range(400)]
    records = [StoreRecord(name, b"v" * 1544, b"p" * 300) for name in names]
    await store.put(docs, records)
    limit(raw, 0)
    with pytest.raises(Overloaded, match="maxmemory"):
        await store.put(docs, [StoreRecord("one more", b"v" * 1544, b"p")])
    with pytest.raises(Overloaded):
        await store.create_collection(a_collection("another"), {"rotation": b"r" * 1000})

    ids = await store.find(docs, names)
    assert await store.vectors(docs, ids) == [b"v" * 1544] * 400
    assert [collection.name for collection in await store.collections()] == ["docs"]
    await store.unmap(docs, names[:200])
    await store.purge(docs, ids[:200])
    assert len(await store.put(docs, records[:50])) == 50
    await store.close()


async def test_a_full_store_is_freed_by_dropping(server: EmbeddedValkey, raw: redis.Redis) -> None:
    store = open_store(server, raw)
    docs = await store.create_collection(a_collection(), {"rotation": b"r" * 100_000})
    await store.put(docs, [StoreRecord(f"n{i}", b"v" * 1544, b"p") for i in range(400)])
    limit(raw, 0)
    await store.drop_collection(docs)
    docs = await store.create_collection(a_collection(), {})
    assert len(await store.put(docs, [StoreRecord("a", b"v" * 1544, b"p")])) == 1
    await store.close()
