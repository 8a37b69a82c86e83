"""The store at real servers that are killed, stopped, full, damaged, restarted or foreign."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_pool import RedisSettings
from nestvec.adapters.redis_store import MAX_RECORDS_PER_PUT, RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, CorruptVector, InvalidRequest, StoreUnavailable
from nestvec.core.placement import partition_of
from tests.support.stores import TIMEOUT_S, a_collection, a_record, free_port, ids_of, some_records

NAMES = [f"document {i}" for i in range(50)]
ONE_ID = np.array([0], np.int64)


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as running:
        yield running


@pytest.fixture
def raw(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    """Another client, which does what no store should."""
    with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client:
        yield client


@pytest.fixture
async def store(server: EmbeddedValkey) -> AsyncIterator[RedisStore]:
    opened = RedisStore(RedisSettings(server.url, command_timeout_s=TIMEOUT_S))
    yield opened
    await opened.close()


@pytest.fixture
async def docs(store: RedisStore) -> Collection:
    return await store.create_collection(a_collection(), {"rotation": b"r"})


def tag_of(external_id: str, collection: Collection) -> str:
    """How the keys of a document's partition begin."""
    return f"nestvec:{{docs:1:{partition_of(external_id, collection.partitions)}}}"


def every_operation(
    store: RedisStore, docs: Collection
) -> dict[str, Callable[[], Awaitable[object]]]:
    async def scan() -> None:
        async for _ in store.live_ids(docs, range(docs.partitions)):
            pass

    return {
        "collections": store.collections,
        "create": lambda: store.create_collection(a_collection("other"), {}),
        "drop": lambda: store.drop_collection(docs),
        "asset": lambda: store.asset(docs, "rotation"),
        "put": lambda: store.put(docs, [a_record("a")]),
        "find": lambda: store.find(docs, ["a"]),
        "unmap": lambda: store.unmap(docs, ["a"]),
        "purge": lambda: store.purge(docs, ONE_ID),
        "vectors": lambda: store.vectors(docs, ONE_ID),
        "payloads": lambda: store.payloads(docs, ONE_ID),
        "live_ids": scan,
        "usage": lambda: store.usage(docs),
        "ping": store.ping,
    }


async def assert_all_unavailable(store: RedisStore, docs: Collection, reason: str) -> None:
    for name, operation in every_operation(store, docs).items():
        async with asyncio.timeout(20):  # it must fail by itself, long before
            with pytest.raises(StoreUnavailable, match=reason) as caught:
                await operation()
        assert store.address in str(caught.value), name


async def test_a_killed_server_makes_every_operation_unavailable(
    server: EmbeddedValkey, store: RedisStore, docs: Collection
) -> None:
    os.kill(server.pid, signal.SIGKILL)
    await assert_all_unavailable(store, docs, "cannot be reached")


async def test_a_stopped_server_makes_every_operation_unavailable_in_bounded_time(
    server: EmbeddedValkey, store: RedisStore, docs: Collection
) -> None:
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await assert_all_unavailable(store, docs, "did not answer in time")
        many = [store.vectors(docs, placed[at : at + 1]) for at in range(40)]  # more than the pool
        answers = await asyncio.gather(*many, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
    finally:
        os.kill(server.pid, signal.SIGCONT)
    # What it answers late must reach nobody.
    for at in range(40):
        assert await store.vectors(docs, placed[at : at + 1]) == [f"vector {NAMES[at]} ".encode()]


async def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    port = free_port()
    settings = EmbeddedSettings(
        data_dir=tmp_path,
        appendfsync="always",
        options={"port": str(port), "bind": "127.0.0.1"},
    )
    store = RedisStore(RedisSettings(f"redis://127.0.0.1:{port}"))
    server = EmbeddedValkey(settings).start()
    try:
        docs = await store.create_collection(a_collection(), {"rotation": b"r"})
        placed = await store.put(docs, some_records(NAMES))
        await asyncio.gather(*(store.ping() for _ in range(10)))  # so that several are pooled
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.to_thread(server.stop)
        with pytest.raises(StoreUnavailable):
            await store.ping()

        server = EmbeddedValkey(settings).start()
        await asyncio.gather(*(store.ping() for _ in range(20)))
        assert await store.collections() == [docs]
        assert await store.asset(docs, "rotation") == b"r"
        assert (await store.find(docs, NAMES)).tolist() == ids_of(placed).tolist()
        expected = [f"vector {name} ".encode() for name in NAMES]
        assert await store.vectors(docs, ids_of(placed)) == expected
        (again,) = await store.put(docs, [a_record(NAMES[0])])  # its scripts are unknown now
        assert again.replaced == placed[0].internal_id
        assert again.internal_id > placed[0].internal_id
    finally:
        await store.close()
        await asyncio.to_thread(server.stop)


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, some_records(NAMES))
    raw.script_flush()
    placed = await store.put(docs, some_records(NAMES, "again"))
    assert all(one.replaced >= 0 for one in placed)
    raw.script_flush()
    await store.drop_collection(docs)
    await store.create_collection(a_collection(), {})


async def test_a_damaged_value_is_returned_as_it_is(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    placed = ids_of(await store.put(docs, some_records(["a", "b"])))
    (key,) = raw.keys(f"{tag_of('a', docs)}v:*")
    raw.set(key, b"vec")
    assert await store.vectors(docs, placed) == [b"vec", b"vector b "]


async def test_a_value_of_another_type_is_none(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    placed = ids_of(await store.put(docs, [a_record("a")]))
    (key,) = raw.keys("nestvec:{docs:1:*}v:*")
    raw.delete(key)
    raw.rpush(key, "what is this")
    assert await store.vectors(docs, placed) == [None]


@pytest.mark.parametrize("key", ["ids", "sequence"])
async def test_a_partition_with_a_key_of_another_type_refuses_writes_unchanged(
    store: RedisStore, docs: Collection, raw: redis.Redis, key: str
) -> None:
    raw.rpush(f"{tag_of('a', docs)}:{key}", "what is this")
    before = sorted(raw.scan_iter())
    with pytest.raises(StoreUnavailable, match="another type"):
        await store.put(docs, [a_record("a")])
    assert sorted(raw.scan_iter()) == before


async def test_a_damaged_id_map_entry_is_named_and_healed_by_writing_again(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, [a_record("a")])
    (key,) = raw.keys("nestvec:{docs:1:*}:ids")
    for damaged in (b"", b"s", b"7", b"s-7", b"z12", b"s" + b"9" * 40):
        raw.hset(key, "a", damaged)
        with pytest.raises(CorruptVector, match="'a'"):
            await store.find(docs, ["a"])
        assert [batch async for batch in store.live_ids(docs, range(docs.partitions))] == []
        (placed,) = await store.put(docs, [a_record("a")])
        assert placed.replaced == -1
        assert (await store.find(docs, ["a"])).tolist() == [placed.internal_id]


async def test_a_namespace_of_another_format_is_refused(
    store: RedisStore, docs: Collection, raw: redis.Redis, server: EmbeddedValkey
) -> None:
    raw.set("nestvec:{catalogue}:format", "2")
    late = RedisStore(RedisSettings(server.url))
    for name, operation in every_operation(late, docs).items():
        if name != "ping":
            with pytest.raises(ConfigError, match=r"holds format 2 .* reads 1"):
                await operation()
    # One that checked before the change meets it where it would write to the catalogue.
    with pytest.raises(ConfigError, match="holds format 2"):
        await store.create_collection(a_collection("other"), {})
    await late.close()


async def test_a_damaged_catalogue_record_is_named(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    for damaged in (b"", b"{", b"[]", b'{"format": 1}'):
        raw.hset("nestvec:{catalogue}:collections", "broken", damaged)
        with pytest.raises(ConfigError, match="'broken'"):
            await store.collections()


async def test_a_drop_that_crashed_leaves_nothing_readable_and_is_finished_later(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    await store._catalogue.leave(docs)  # and here the process dies
    assert await store.collections() == []
    second = await store.create_collection(a_collection(), {})
    assert (await store.find(second, NAMES)).tolist() == [-1] * len(NAMES)
    assert await store.vectors(second, placed) == [None] * len(NAMES)
    await store.put(second, [a_record("a")])
    assert raw.keys("nestvec:{docs:1:*")

    await store.finish_drops()
    assert raw.keys("nestvec:{docs:1:*") == []
    assert raw.exists("nestvec:{catalogue}:dropping") == 0
    assert (await store.find(second, ["a"])).tolist() != [-1]


async def test_a_lost_generation_counter_never_brings_old_keys_back(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, some_records(NAMES))
    raw.delete("nestvec:{catalogue}:generations", "nestvec:{catalogue}:collections")
    second = await store.create_collection(a_collection(), {})
    assert second.generation == 2
    assert (await store.find(second, NAMES)).tolist() == [-1] * len(NAMES)


async def test_dropping_deletes_every_key_but_the_generation_counter(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, some_records(f"n{i}" for i in range(3000)))
    await store.drop_collection(docs)
    kept = ["nestvec:{catalogue}:format", "nestvec:{catalogue}:generations"]
    assert sorted(key.decode() for key in raw.scan_iter()) == kept


async def test_more_callers_than_connections_wait_their_turn(
    server: EmbeddedValkey, docs: Collection, raw: redis.Redis
) -> None:
    store = RedisStore(RedisSettings(server.url, max_connections=3))
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    before = raw.info("clients")["connected_clients"]
    answers = await asyncio.gather(*(store.vectors(docs, placed) for _ in range(200)))
    assert all(answer == [f"vector {name} ".encode() for name in NAMES] for answer in answers)
    assert raw.info("clients")["connected_clients"] - before <= 3
    await store.close()


async def test_cancelled_calls_lose_no_connection(server: EmbeddedValkey, docs: Collection) -> None:
    store = RedisStore(RedisSettings(server.url, max_connections=2))
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    for turns in range(20):
        tasks = [asyncio.create_task(store.vectors(docs, placed)) for _ in range(30)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert store._client._pool._free._value == 2
    await store.close()


async def test_too_many_records_at_once_are_refused(
    server: EmbeddedValkey, docs: Collection
) -> None:
    store = RedisStore(RedisSettings(server.url, command_timeout_s=60))
    records = some_records(f"n{i}" for i in range(MAX_RECORDS_PER_PUT + 1))
    with pytest.raises(InvalidRequest, match="at most 16,384"):
        await store.put(docs, records)
    assert len(await store.put(docs, records[:-1])) == MAX_RECORDS_PER_PUT
    await store.close()
