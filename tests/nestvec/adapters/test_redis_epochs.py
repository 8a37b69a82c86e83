"""Servers that lose their last writes: no sequence number comes twice, and readers see it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, StoreUnavailable
from nestvec.core.placement import split_id
from nestvec.core.ports import Placed
from nestvec.core.watermark import follows, split_sequence
from tests.support.store_server import StoreServer
from tests.support.stores import (
    a_collection,
    a_record,
    free_port,
    ids_of,
    live_ids,
    some_deletions,
    some_records,
)

Opener = Callable[[RedisSettings], RedisStore]
NAMES = [f"document {i}" for i in range(40)]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(data_dir: Path) -> Iterator[StoreServer]:
    with StoreServer(data_dir) as running:
        yield running


async def lose_what_came_after(server: StoreServer, copy: Path, data_dir: Path) -> None:
    """Kill it, and start it with the data of a moment ago."""

    def lose() -> None:
        server.kill()
        shutil.rmtree(data_dir)
        shutil.copytree(copy, data_dir)
        server.start_again()

    # In a thread: the loop must see that connections end.
    await asyncio.to_thread(lose)


async def restart(server: StoreServer) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start_again)


def epochs_of(placed: list[Placed]) -> set[int]:
    return {split_sequence(split_id(one.internal_id)[1])[0] for one in placed}


async def positions_of(store: RedisStore, docs: Collection) -> dict[int, int]:
    return await store.positions(docs, range(docs.partitions))


@pytest.mark.parametrize("lives_on", [True, False])
async def test_after_a_lost_tail_no_number_comes_twice_and_readers_see_it(
    server: StoreServer, data_dir: Path, tmp_path: Path, open_store: Opener, lives_on: bool
) -> None:
    settings = RedisSettings(server.url)
    store = open_store(settings)
    docs = await store.create_collection(a_collection(), {})
    kept = await store.put(docs, some_records(NAMES, "kept"))
    shutil.copytree(data_dir, tmp_path / "copy")
    lost = await store.put(docs, some_records(NAMES, "lost"))
    lost_deletions = await store.delete(docs, some_deletions(NAMES[:10]))
    reader = await positions_of(store, docs)

    await lose_what_came_after(server, tmp_path / "copy", data_dir)
    if not lives_on:
        store = open_store(settings)
    behind = await positions_of(store, docs)
    assert all(behind[partition] < reader[partition] for partition in reader)
    assert await store.read_log(docs, reader, 1000) == []
    assert await live_ids(store, docs) == set(ids_of(kept).tolist())

    # Past where the log was before the loss, so that counts alone would look as if nothing were.
    fresh = [one for tag in "abcd" for one in await store.put(docs, some_records(NAMES, tag))]
    numbers = ids_of(kept).tolist() + ids_of(lost).tolist() + ids_of(fresh).tolist()
    numbers += [one.position for one in lost_deletions]
    assert len(set(numbers)) == len(numbers)
    assert epochs_of(fresh) == {2}
    batches = await store.read_log(docs, reader, 1000)
    assert {batch.partition for batch in batches} == set(reader)
    for batch in batches:
        assert not follows(reader[batch.partition], batch.first)


async def test_a_process_that_lives_through_two_losses_keeps_the_epochs_apart(
    server: StoreServer, data_dir: Path, tmp_path: Path, open_store: Opener
) -> None:
    store = open_store(RedisSettings(server.url))
    docs = await store.create_collection(a_collection(), {})
    await store.put(docs, [a_record("a")])
    shutil.copytree(data_dir, tmp_path / "copy")
    seen: list[int] = []
    for epoch in (2, 3, 4):
        # What is lost each time is the epoch's own entry too.
        await lose_what_came_after(server, tmp_path / "copy", data_dir)
        placed = await store.put(docs, some_records(NAMES))
        assert epochs_of(placed) == {epoch}
        seen += ids_of(placed).tolist()
    assert len(set(seen)) == len(seen)


async def test_a_restart_that_loses_nothing_is_no_discontinuity(
    server: StoreServer, open_store: Opener
) -> None:
    store = open_store(RedisSettings(server.url))
    docs = await store.create_collection(a_collection(), {})
    reader = dict.fromkeys(range(docs.partitions), 0)
    for epoch in (1, 2, 3):
        placed = await store.put(docs, some_records(NAMES, str(epoch)))
        assert epochs_of(placed) == {epoch}
        for batch in await store.read_log(docs, reader, 10_000):
            assert follows(reader[batch.partition], batch.first)
            reader[batch.partition] = batch.last
        assert reader == await positions_of(store, docs)
        await restart(server)


async def test_all_processes_write_in_one_epoch_of_one_server(
    server: StoreServer, open_store: Opener
) -> None:
    one, other = (open_store(RedisSettings(server.url)) for _ in range(2))
    docs = await one.create_collection(a_collection(), {})
    for store in (one, other, one, other):
        assert epochs_of(await store.put(docs, some_records(NAMES))) == {1}
    await restart(server)
    for store in (other, one, other):
        assert epochs_of(await store.put(docs, some_records(NAMES))) == {2}


async def test_a_replica_that_was_promoted_too_early_gives_no_number_twice(
    open_store: Opener,
) -> None:
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
    replica_options = {"replicaof": f"127.0.0.1 {port}", "repl-diskless-sync-delay": "0"}
    with (
        EmbeddedValkey(EmbeddedSettings(options=options)) as old,
        EmbeddedValkey(EmbeddedSettings(options=replica_options)) as new,
        raw_of(old) as at_old,
        raw_of(new) as at_new,
    ):
        store = open_store(RedisSettings(old.url))
        docs = await store.create_collection(a_collection(), {})
        kept = await store.put(docs, some_records(NAMES, "kept"))
        at_old.set("last", "1")
        until(lambda: at_new.get("last") == b"1")
        at_new.replicaof("NO", "ONE")
        lost = await store.put(docs, some_records(NAMES, "lost"))
        reader = await positions_of(store, docs)

        promoted = open_store(RedisSettings(new.url))
        assert await live_ids(promoted, docs) == set(ids_of(kept).tolist())
        fresh = await promoted.put(docs, some_records(NAMES, "fresh"))
        numbers = [*ids_of(kept).tolist(), *ids_of(lost).tolist(), *ids_of(fresh).tolist()]
        assert len(set(numbers)) == len(numbers)
        for batch in await promoted.read_log(docs, reader, 1000):
            assert not follows(reader[batch.partition], batch.first)

        # And back: the first server runs as it did, but is the successor of the second now.
        at_new.set("last", "2")
        at_old.replicaof(*new_address(at_new))
        until(lambda: at_old.get("last") == b"2")
        at_old.replicaof("NO", "ONE")
        at_old.client_kill_filter(_type="normal")  # as who arranges a failover does
        with suppress(StoreUnavailable):
            await store.ping()
        tail = await promoted.put(docs, some_records(NAMES, "lost with the second"))
        last = await store.put(docs, some_records(NAMES, "last"))
        numbers += [*ids_of(tail).tolist(), *ids_of(last).tolist()]
        assert len(set(numbers)) == len(numbers)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def raw_of(server: EmbeddedValkey) -> Any:
    return redis.Redis(unix_socket_path=str(server.socket_path), protocol=2)


def new_address(client: Any) -> tuple[str, int]:
    """Open a port to a server that has only a socket so far."""
    port = free_port()
    client.config_set("bind", "127.0.0.1")
    client.config_set("port", port)
    return "127.0.0.1", port


async def test_a_replica_that_attaches_moves_the_epoch_once_whatever_connection_writes(
    open_store: Opener,
) -> None:
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
    with EmbeddedValkey(EmbeddedSettings(options=options)) as server, raw_of(server) as raw:
        before = raw.info("replication")["master_replid"]
        store = open_store(RedisSettings(server.url))
        docs = await store.create_collection(a_collection(), {})
        await store.put(docs, some_records(NAMES))
        replica_options = {"replicaof": f"127.0.0.1 {port}"}
        with EmbeddedValkey(EmbeddedSettings(options=replica_options)):
            raw.set("last", "1")
            assert raw.wait(1, 30_000) == 1
            assert raw.info("replication")["master_replid"] != before
            later = open_store(RedisSettings(server.url))
            for _ in range(5):
                for one in (store, later):
                    await one.put(docs, some_records(NAMES))
            assert int(raw.hget("nestvec:{catalogue}:primary", "epoch")) <= 2


async def test_a_restored_log_raises_the_epoch_for_all_partitions(
    server: StoreServer, open_store: Opener
) -> None:
    store = open_store(RedisSettings(server.url))
    docs = await store.create_collection(a_collection(), {})
    await store.put(docs, some_records(NAMES))
    back = await store.create_collection(a_collection("back"), {})
    await store.restore(back, 0, [], 9 << 32 | 5)
    assert epochs_of(await store.put(back, some_records(NAMES))) == {10}
    assert epochs_of(await store.put(docs, some_records(NAMES))) == {10}
    late = open_store(RedisSettings(server.url))
    assert epochs_of(await late.put(docs, some_records(NAMES))) == {10}


async def test_a_store_without_epochs_left_refuses_writes_and_is_read(
    server: StoreServer, open_store: Opener
) -> None:
    store = open_store(RedisSettings(server.url))
    docs = await store.create_collection(a_collection(), {})
    placed = ids_of(await store.put(docs, [a_record("a")]))
    server.redis.hset("nestvec:{catalogue}:primary", mapping={"server": "x", "epoch": 65_535})
    await restart(server)
    for writer in (store, open_store(RedisSettings(server.url))):
        with pytest.raises(ConfigError, match="no epoch is left"):
            await writer.put(docs, [a_record("a")])
        with pytest.raises(ConfigError, match="no epoch is left"):
            await writer.delete(docs, some_deletions(["a"]))
        assert await writer.vectors(docs, placed) == [b"vector a "]
