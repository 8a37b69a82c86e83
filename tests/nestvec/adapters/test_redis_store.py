"""The store at real servers that are killed, stopped, full, damaged, restarted or foreign."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.adapters.redis_writes import MAX_RECORDS_PER_PUT
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, CorruptVector, InvalidRequest, StoreUnavailable
from nestvec.core.placement import partition_of, split_id
from nestvec.core.ports import StoreDeletion
from nestvec.core.watermark import follows
from tests.support.long_runs import takes_long
from tests.support.stores import (
    TIMEOUT_S,
    a_collection,
    a_record,
    free_port,
    ids_of,
    some_deletions,
    some_records,
    tidy_all,
)

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

    async def read_out() -> None:
        async for _ in store.documents(docs, 0):
            pass

    return {
        "collections": store.collections,
        "create": lambda: store.create_collection(a_collection("other"), {}),
        "drop": lambda: store.drop_collection(docs),
        "asset": lambda: store.asset(docs, "rotation"),
        "put": lambda: store.put(docs, [a_record("a")]),
        "find": lambda: store.find(docs, ["a"]),
        "update": lambda: store.update_collection(docs, {}),
        "delete": lambda: store.delete(docs, some_deletions(["a"])),
        "positions": lambda: store.positions(docs, range(docs.partitions)),
        "read_log": lambda: store.read_log(docs, {0: 0}, 10),
        "tidy": lambda: store.tidy(docs, {0: 1}, 0),
        "expire_tombstones": lambda: store.expire_tombstones(docs, 0),
        "stream": lambda: store.stream(docs, "s"),
        "stream_digests": lambda: store.stream_digests(docs, "s", 0, 1),
        "advance_stream": lambda: store.advance_stream(docs, "s", 0, b"1234"),
        "documents": read_out,
        "restore": lambda: store.restore(docs, 0, [], 1),
        "external_ids": lambda: store.external_ids(docs, ONE_ID),
        "vectors": lambda: store.vectors(docs, ONE_ID),
        "payloads": lambda: store.payloads(docs, ONE_ID),
        "live_ids": scan,
        "usage": lambda: store.usage(docs),
        "count": lambda: store.count(docs),
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


@takes_long
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


def contents(raw: redis.Redis) -> dict[bytes, bytes | None]:
    """Every key with its value, as the server would save it."""
    return {key: raw.dump(key) for key in sorted(raw.scan_iter())}


@pytest.mark.parametrize("key", ["ids", "sequence", "tombstones", "log"])
async def test_a_partition_with_a_key_of_another_type_refuses_writes_unchanged(
    store: RedisStore, docs: Collection, raw: redis.Redis, key: str
) -> None:
    await store.put(docs, [a_record("a")])
    await store.delete(docs, [StoreDeletion("gone", 1, remember=True)])
    raw.delete(f"{tag_of('a', docs)}:{key}")
    raw.rpush(f"{tag_of('a', docs)}:{key}", "what is this")
    before = contents(raw)
    with pytest.raises(StoreUnavailable, match="another type"):
        await store.put(docs, [a_record("a")])
    with pytest.raises(StoreUnavailable, match="another type"):
        await store.delete(docs, [StoreDeletion("a", 1, remember=True)])
    assert contents(raw) == before


@pytest.mark.parametrize("counter", [b"1", b"seven", b"", None])
async def test_a_damaged_counter_refuses_writes_unchanged(
    store: RedisStore, docs: Collection, raw: redis.Redis, counter: bytes | None
) -> None:
    for _ in range(3):
        await store.put(docs, [a_record("a")])
    await store.tidy(docs, await store.positions(docs, range(docs.partitions)), 0)
    key = f"{tag_of('a', docs)}:sequence"
    if counter is None:
        raw.delete(key)
    else:
        raw.set(key, counter)
    before = contents(raw)
    with pytest.raises(StoreUnavailable, match="refused a command"):
        await store.put(docs, [a_record("a")])
    with pytest.raises(StoreUnavailable, match="refused a command"):
        await store.delete(docs, some_deletions(["a"]))
    assert contents(raw) == before
    if counter in (b"seven", b""):
        with pytest.raises(CorruptVector, match="sequence"):
            await store.positions(docs, range(docs.partitions))


@pytest.mark.parametrize(
    "damaged", [b"", b"p", b"p12345", b"x123456", b"d", b"d123456", b"d" + bytes(14) + b"\xff\xffa"]
)
async def test_a_damaged_log_entry_is_a_discontinuity(
    store: RedisStore, docs: Collection, raw: redis.Redis, damaged: bytes
) -> None:
    partition = partition_of("a", docs.partitions)
    key = f"{tag_of('a', docs)}:log"
    (first,) = await store.put(docs, [a_record("a")])
    number = split_id(first.internal_id)[1]
    raw.xadd(key, {"b": damaged}, id=f"{number >> 32}-2")
    raw.set(f"{tag_of('a', docs)}:sequence", number + 1)
    (third,) = await store.put(docs, [a_record("a")])

    (batch,) = await store.read_log(docs, {partition: 0}, 100)
    assert batch.added.tolist() == [first.internal_id]
    (batch,) = await store.read_log(docs, {partition: batch.last}, 100)
    assert not follows(number, batch.first)
    assert batch.added.tolist() == [third.internal_id]
    # What it removed is nowhere written, the rest is freed all the same.
    assert await tidy_all(store, docs) == 1
    assert raw.xlen(key) == 0


async def test_a_log_entry_of_other_fields_is_a_discontinuity(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    raw.xadd(f"{tag_of('a', docs)}:log", {"what": "is this"}, id="1-1")
    assert await store.read_log(docs, {partition_of("a", docs.partitions): 0}, 100) == []


async def test_damaged_tombstones_count_as_nothing_and_are_forgotten(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    key = f"{tag_of('a', docs)}:tombstones"
    for damaged in (b"", b"\xff" * 13, b"\xff" * 15):
        raw.hset(key, "a", damaged)
        (placed,) = await store.put(docs, [a_record("a")])
        assert placed.internal_id >= 0
        raw.hset(key, "b", damaged)
        assert await store.expire_tombstones(docs, 0) == 1
    assert not raw.exists(key)


async def test_a_damaged_id_map_entry_is_named_and_healed_by_writing_again(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, [a_record("a")])
    (key,) = raw.keys("nestvec:{docs:1:*}:ids")
    for damaged in (b"", b"v", b"s7", b"v" + bytes(14), b"w" + b"1" * 14, b"v" + b"1" * 15):
        raw.hset(key, "a", damaged)
        with pytest.raises(CorruptVector, match="'a'"):
            await store.find(docs, ["a"])
        assert [batch async for batch in store.live_ids(docs, range(docs.partitions))] == []
        (placed,) = await store.put(docs, [a_record("a")])
        assert placed.replaced == -1
        assert (await store.find(docs, ["a"])).tolist() == [placed.internal_id]


async def test_a_damaged_id_map_entry_can_be_deleted(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, [a_record("a")])
    raw.hset(f"{tag_of('a', docs)}:ids", "a", b"what is this")
    (deleted,) = await store.delete(docs, some_deletions(["a"]))
    assert (deleted.internal_id, deleted.newest) == (-1, 1)
    assert deleted.position >= 0
    assert (await store.find(docs, ["a"])).tolist() == [-1]


async def test_streams_are_forgotten_a_week_after_their_last_call(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.advance_stream(docs, "s", 0, bytes(4 * 70_000))
    keys: list[Any] = sorted(raw.keys("nestvec:{docs:1:streams}*"))
    assert len(keys) == 3
    for key in keys:
        raw.expire(key, 5)
    await store.advance_stream(docs, "s", 70_000, bytes(4))
    week_s = 7 * 24 * 3600
    kept = {key: raw.ttl(key) > week_s - 600 for key in keys}
    # A chunk that is full keeps the week from its own last offset.
    assert kept == {
        b"nestvec:{docs:1:streams}d:0:s": False,
        b"nestvec:{docs:1:streams}d:1:s": True,
        b"nestvec:{docs:1:streams}s:s": True,
    }
    assert max(raw.strlen(key) for key in keys[:2]) == 65_536 * 4


async def test_a_namespace_of_another_format_is_refused(
    store: RedisStore,
    docs: Collection,
    raw: redis.Redis,
    server: EmbeddedValkey,
    open_store: Callable[[RedisSettings], RedisStore],
) -> None:
    raw.set("nestvec:{catalogue}:format", "1")
    late = open_store(RedisSettings(server.url))
    for name, operation in every_operation(late, docs).items():
        if name != "ping":
            with pytest.raises(ConfigError, match=r"holds format 1 .* reads 2"):
                await operation()
    # One that checked before the change meets it where it would write to the catalogue.
    with pytest.raises(ConfigError, match="holds format 1"):
        await store.create_collection(a_collection("other"), {})


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


async def test_dropping_deletes_every_key_but_the_catalogue_s_own(
    store: RedisStore, docs: Collection, raw: redis.Redis
) -> None:
    await store.put(docs, some_records(f"n{i}" for i in range(3000)))
    await store.delete(docs, some_deletions(f"n{i}" for i in range(300)))
    await store.advance_stream(docs, "s", 0, b"1234")
    await tidy_all(store, docs, 1)
    await store.drop_collection(docs)
    names = ("format", "generations", "primary", "revision")
    kept = [f"nestvec:{{catalogue}}:{name}" for name in names]
    assert sorted(key.decode() for key in raw.scan_iter()) == kept


async def test_more_callers_than_connections_wait_their_turn(
    server: EmbeddedValkey,
    docs: Collection,
    raw: redis.Redis,
    open_store: Callable[[RedisSettings], RedisStore],
) -> None:
    store = open_store(RedisSettings(server.url, max_connections=3))
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    before = raw.info("clients")["connected_clients"]
    answers = await asyncio.gather(*(store.vectors(docs, placed) for _ in range(200)))
    assert all(answer == [f"vector {name} ".encode() for name in NAMES] for answer in answers)
    assert raw.info("clients")["connected_clients"] - before <= 3


async def test_cancelled_calls_lose_no_connection(
    server: EmbeddedValkey, docs: Collection, open_store: Callable[[RedisSettings], RedisStore]
) -> None:
    store = open_store(RedisSettings(server.url, max_connections=2))
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    for turns in range(20):
        tasks = [asyncio.create_task(store.vectors(docs, placed)) for _ in range(30)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert store._client._node is not None
    assert store._client._node.pool._free._value == 2


async def test_calls_under_way_when_a_store_closes_end_and_leave_nothing_open(
    server: EmbeddedValkey, docs: Collection, open_store: Callable[[RedisSettings], RedisStore]
) -> None:
    for turns in range(20):
        store = open_store(RedisSettings(server.url, max_connections=4))
        calls = [asyncio.create_task(store.find(docs, NAMES)) for _ in range(30)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.close()
        for found in await asyncio.gather(*calls):
            assert found.tolist() == [-1] * len(NAMES)
        assert store._client._node is not None
        links = store._client._node.pool._idle
        assert len(links) <= 4
        assert not any(link.connection.is_connected for link in links)


async def test_too_many_records_at_once_are_refused(
    server: EmbeddedValkey, docs: Collection, open_store: Callable[[RedisSettings], RedisStore]
) -> None:
    store = open_store(RedisSettings(server.url, command_timeout_s=60))
    records = some_records(f"n{i}" for i in range(MAX_RECORDS_PER_PUT + 1))
    with pytest.raises(InvalidRequest, match="at most 16,384"):
        await store.put(docs, records)
    assert len(await store.put(docs, records[:-1])) == MAX_RECORDS_PER_PUT
