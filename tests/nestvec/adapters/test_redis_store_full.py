"""A store at its memory limit: writes are refused whole, and what frees memory still works."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import NotFound, Overloaded
from nestvec.core.ports import StoreDeletion, StoreRecord
from tests.support.redis_servers import LocalCluster, Server
from tests.support.stores import (
    a_collection,
    redis_binary,
    some_deletions,
    tidy_all,
)

NAMES = [f"n{i}" for i in range(400)]
# 8 MB together, of which deleting half frees 4. `LACKING` is well below that, and well above what
# comes and goes with the buffers of connections, which the server counts too.
VECTOR = b"v" * 20_000
LACKING = 2_000_000


@pytest.fixture(params=["valkey", "redis", "cluster"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey | Server]:
    if request.param == "cluster":
        with LocalCluster(masters=1) as cluster:
            yield cluster.nodes[0]
        return
    binary: Path | None = redis_binary() if request.param == "redis" else None
    with EmbeddedValkey(EmbeddedSettings(binary=binary)) as running:
        yield running


@pytest.fixture
def raw(server: EmbeddedValkey | Server) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client:
        empty(client)
        yield client


@pytest.fixture
def settings(server: EmbeddedValkey | Server, raw: redis.Redis) -> RedisSettings:
    return RedisSettings(server.url, cluster=isinstance(server, Server))


@pytest.fixture
async def store(settings: RedisSettings) -> AsyncIterator[RedisStore]:
    opened = RedisStore(settings)
    yield opened
    await opened.close()


def empty(raw: redis.Redis) -> None:
    """Free everything before it returns: by default Valkey frees in the background."""
    raw.config_set("maxmemory", "0")
    raw.config_set("lazyfree-lazy-user-flush", "no")
    raw.flushall()


def limit(raw: redis.Redis, spare_bytes: int) -> None:
    """Leave about so much room; buffers of connections grow and shrink."""
    raw.config_set("maxmemory", str(raw.info("memory")["used_memory"] + spare_bytes))


async def filled(store: RedisStore, raw: redis.Redis, assets: dict[str, bytes]) -> Collection:
    """A collection of `NAMES` in a store that has become full."""
    docs = await store.create_collection(a_collection(), assets)
    for start in range(0, len(NAMES), 20):
        await store.put(docs, some_documents(NAMES[start : start + 20]))
    limit(raw, -LACKING)
    with pytest.raises(Overloaded, match="maxmemory"):
        await store.put(docs, some_documents(["one more"]))
    return docs


def some_documents(names: list[str]) -> list[StoreRecord]:
    return [StoreRecord(name, VECTOR, b"p" * 300, 1) for name in names]


def count_whole_documents(raw: redis.Redis, partitions: int) -> int:
    """How many documents the store has, once it is sure that each is there with all its parts."""
    documents = 0
    expected = set()
    for partition in range(partitions):
        tag = b"nestvec:{docs:1:%d}" % partition
        last = int(raw.get(tag + b":sequence") or 0)
        values: list[Any] = raw.hvals(tag + b":ids")
        located = sorted(int.from_bytes(value[1:7], "big") for value in values)
        written = last % (1 << 32)
        assert located == list(range(last - written + 1, last + 1))
        entries: Any = raw.xrange(tag + b":log")
        assert sum((len(fields[b"b"]) - 1) // 6 for _, fields in entries) == written
        for sequence in located:
            expected |= {tag + b"v:%d" % sequence, tag + b"d:%d" % sequence}
        if written:
            expected |= {tag + b":sequence", tag + b":ids", tag + b":log"}
        documents += written
    assert {key for key in raw.scan_iter() if b"{docs:" in key} == expected
    return documents


async def test_what_does_not_fit_is_refused_whole_at_many_sizes(
    store: RedisStore, raw: redis.Redis, settings: RedisSettings
) -> None:
    chosen = random.Random(7)
    partitions = 4
    for _ in range(20):
        empty(raw)
        docs = await store.create_collection(a_collection(partitions=partitions), {})
        size = chosen.choice([10, 1_544, 20_000])
        limit(raw, chosen.choice([0, 1, 5, 30, 100]) * size)
        written, batch, refused = 0, 0, 0
        while refused < 3:
            batch += 1
            count = chosen.choice([1, 3, 40])
            records = [
                StoreRecord(f"{batch} {i}", b"v" * size, b"p" * chosen.randrange(size), 1)
                for i in range(count)
            ]
            try:
                written += len(await store.put(docs, records))
            except Overloaded:
                refused += 1
                found = count_whole_documents(raw, partitions)
                if not settings.cluster:  # none of the batch, not only whole partitions of it
                    assert found == written
                written = found
        assert count_whole_documents(raw, partitions) == written


async def test_a_full_store_still_reads_and_is_freed_by_deleting(
    store: RedisStore, raw: redis.Redis
) -> None:
    docs = await filled(store, raw, {})
    with pytest.raises(Overloaded):
        await store.create_collection(a_collection("another"), {"rotation": b"r" * 1000})

    ids = await store.find(docs, NAMES)
    assert await store.vectors(docs, ids) == [VECTOR] * len(NAMES)
    assert [collection.name for collection in await store.collections()] == ["docs"]
    deleted = await store.delete(docs, some_deletions(NAMES[:200]))
    assert [one.internal_id for one in deleted] == ids[:200].tolist()
    assert (await store.usage(docs)).tombstones == 200
    assert await tidy_all(store, docs) == 200
    assert await store.expire_tombstones(docs, 1 << 45) == 200
    assert len(await store.put(docs, some_documents(NAMES[:20]))) == 20


async def test_a_full_store_refuses_what_only_takes_room(
    store: RedisStore, raw: redis.Redis
) -> None:
    docs = await filled(store, raw, {"rotation": b"r" * 1000})
    before = await store.positions(docs, range(docs.partitions))
    with pytest.raises(Overloaded):
        await store.delete(docs, [StoreDeletion("unknown", 1, remember=True)])
    with pytest.raises(Overloaded):
        await store.update_collection(docs, {"another": b"r"})
    with pytest.raises(Overloaded):
        await store.advance_stream(docs, "s", 0, b"1234")
    with pytest.raises(Overloaded):
        await store.restore(docs, 0, [], 1 << 47)
    assert await store.positions(docs, range(docs.partitions)) == before
    assert (await store.usage(docs)).tombstones == 0
    assert await store.stream(docs, "s") is None
    with pytest.raises(NotFound):
        await store.asset(docs, "another")
    await store.update_collection(docs, {}, ["rotation"])
    with pytest.raises(NotFound):
        await store.asset(docs, "rotation")


async def test_a_process_that_starts_at_a_full_store_can_delete(
    store: RedisStore,
    raw: redis.Redis,
    settings: RedisSettings,
    open_store: Callable[[RedisSettings], RedisStore],
) -> None:
    docs = await filled(store, raw, {})
    raw.delete("nestvec:{catalogue}:primary")  # as after a restart, when it names another server
    deleted = await open_store(settings).delete(docs, some_deletions(NAMES[:10]))
    assert all(one.internal_id >= 0 for one in deleted)
    assert raw.hlen("nestvec:{catalogue}:primary") == 2


async def test_a_full_store_is_freed_by_dropping(store: RedisStore, raw: redis.Redis) -> None:
    docs = await filled(store, raw, {"rotation": b"r" * 100_000})
    await store.drop_collection(docs)
    docs = await store.create_collection(a_collection(), {})
    assert len(await store.put(docs, some_documents(["a"]))) == 1
