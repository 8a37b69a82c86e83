"""Writes that are answered once replicas have them, at a primary with a real replica."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.errors import Overloaded, StoreUnavailable
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


@dataclass
class Pair:
    primary: EmbeddedValkey
    replica: EmbeddedValkey
    raw: Any

    def settings(self, replicas: int = 1, wait_timeout_s: float = 10.0) -> RedisSettings:
        return RedisSettings(
            self.primary.url,
            command_timeout_s=20.0,
            wait_replicas=replicas,
            wait_timeout_s=wait_timeout_s,
        )

    @contextmanager
    def replica_stopped(self) -> Iterator[None]:
        os.kill(self.replica.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.replica.pid, signal.SIGCONT)


@pytest.fixture
def pair() -> Iterator[Pair]:
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
    replica_options = {"replicaof": f"127.0.0.1 {port}"}
    with (
        EmbeddedValkey(EmbeddedSettings(options=options)) as primary,
        EmbeddedValkey(EmbeddedSettings(options=replica_options)) as replica,
        redis.Redis(unix_socket_path=str(primary.socket_path), protocol=2) as raw,
    ):
        raw.set("first", "1")
        assert raw.wait(1, 30_000) == 1
        yield Pair(primary, replica, raw)


async def test_what_was_answered_is_on_the_replica(pair: Pair, open_store: Opener) -> None:
    store = open_store(pair.settings())
    docs = await store.create_collection(a_collection(), {"rotation": b"r"})
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    await store.delete(docs, some_deletions(NAMES[:10]))
    os.kill(pair.primary.pid, signal.SIGKILL)
    with redis.Redis(unix_socket_path=str(pair.replica.socket_path)) as raw:
        raw.replicaof("NO", "ONE")
    survivor = open_store(RedisSettings(pair.replica.url))
    assert await survivor.collections() == [docs]
    assert await survivor.asset(docs, "rotation") == b"r"
    assert await live_ids(survivor, docs) == set(placed[10:].tolist())


async def test_what_no_replica_confirms_says_so_and_may_be_sent_again(
    pair: Pair, open_store: Opener
) -> None:
    patient = open_store(pair.settings())
    docs = await patient.create_collection(a_collection(), {})
    placed = await patient.put(docs, [a_record("a")])
    hasty = open_store(pair.settings(wait_timeout_s=0.2))
    with pair.replica_stopped():
        with pytest.raises(StoreUnavailable, match=r"has written it, but 0 of 1 .* again"):
            await hasty.put(docs, [a_record("b")])
        with pytest.raises(StoreUnavailable, match="has written it"):
            await hasty.delete(docs, some_deletions(["a"]))
        # Nothing is left to delete, and still nobody has confirmed that it is gone.
        with pytest.raises(StoreUnavailable, match="has written it"):
            await open_store(pair.settings(wait_timeout_s=0.2)).delete(docs, some_deletions(["a"]))
        assert (await hasty.find(docs, ["a", "b"]) >= 0).tolist() == [False, True]
    (again,) = await patient.put(docs, [a_record("b")])
    assert again.replaced >= 0
    (gone,) = await patient.delete(docs, some_deletions(["a"]))
    assert gone.internal_id == -1
    assert placed[0].internal_id not in await live_ids(patient, docs)


async def test_too_few_replicas_are_counted(pair: Pair, open_store: Opener) -> None:
    store = open_store(pair.settings(2, 0.2))
    with pytest.raises(StoreUnavailable, match="1 of 2 replicas"):
        await store.create_collection(a_collection(), {})


async def test_an_error_of_the_write_itself_comes_first(pair: Pair, open_store: Opener) -> None:
    store = open_store(pair.settings())
    docs = await store.create_collection(a_collection(), {})
    await store.put(docs, [a_record("a")])
    pair.raw.config_set("maxmemory", 1)
    hasty = open_store(pair.settings(wait_timeout_s=0.2))
    with pair.replica_stopped(), pytest.raises(Overloaded):
        await hasty.put(docs, [a_record("b")])


async def test_reading_waits_for_nobody(pair: Pair, open_store: Opener) -> None:
    store = open_store(pair.settings())
    docs = await store.create_collection(a_collection(), {})
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    before = pair.raw.info("commandstats")["cmdstat_wait"]["calls"]
    await store.vectors(docs, placed)
    await store.find(docs, NAMES)
    await store.read_log(docs, {0: 0}, 100)
    await store.tidy(docs, {0: 1 << 47}, 100)
    assert pair.raw.info("commandstats")["cmdstat_wait"]["calls"] == before
