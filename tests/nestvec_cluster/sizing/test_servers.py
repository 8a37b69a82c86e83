"""What keys take, against what real servers say that they take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec_cluster.sizing.allocators import Allocator
from nestvec_cluster.sizing.servers import Server, ServerMemory
from tests.support.stores import redis_binary

KEYS = (20, 31, 32, 45)
VALUES = (1, 20, 44, 45, 62, 75, 80, 100, 255, 780, 1544, 3080, 70_000)


@pytest.fixture(scope="module")
def valkey() -> Iterator[redis.Redis]:
    with EmbeddedValkey() as server:
        yield from _client(server)


@pytest.fixture(scope="module")
def debian_redis() -> Iterator[redis.Redis]:
    with EmbeddedValkey(EmbeddedSettings(binary=redis_binary())) as server:
        yield from _client(server)


def _client(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client:
        yield client


def memory_of(client: redis.Redis) -> ServerMemory:
    """As its INFO says."""
    info = client.info("memory")
    kind = Server.REDIS if "valkey" not in str(client.info("server")) else Server.VALKEY
    libc = info["mem_allocator"] == "libc"
    return ServerMemory(kind, Allocator.LIBC if libc else Allocator.SYSTEM_JEMALLOC)


def string_usage(client: redis.Redis, key: int, value: int) -> int:
    """Written by a script, as documents are. The least of several: glibc gives a block that is left
    over whole where the rest would be too small for another.
    """
    script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('MEMORY', 'USAGE', KEYS[1])"
    names = [f"{number}".rjust(key, "k") for number in range(8)]
    return min(int(client.eval(script, 1, name, b"x" * value)) for name in names)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", KEYS)
def test_a_string_in_valkey_takes_exactly_what_is_computed(
    valkey: redis.Redis, key: int, value: int
) -> None:
    assert memory_of(valkey).string(key, value).used == string_usage(valkey, key, value)


@pytest.mark.parametrize("value", [20, 80, 200, 1544])
def test_a_string_in_redis_takes_what_is_computed(debian_redis: redis.Redis, value: int) -> None:
    memory = memory_of(debian_redis)
    # The server counts an entry of its table as it is, not as it was allocated.
    more = memory.allocator.usable(24) - 24
    assert memory.string(31, value).used == string_usage(debian_redis, 31, value) + more


@pytest.mark.parametrize("name", [12, 31, 60, 100])
@pytest.mark.parametrize("count", [100, 500, 800, 3000])
def test_an_id_map_takes_what_is_computed(valkey: redis.Redis, name: int, count: int) -> None:
    key = f"ids-{name}-{count}"
    pipeline = valkey.pipeline()
    for number in range(count):
        field = f"{number}".rjust(name, "a")
        pipeline.hget(key, field)
        pipeline.hset(key, field, b"v" * 15)
    pipeline.execute()
    found = valkey.memory_usage(key, samples=0)
    assert found is not None
    computed = memory_of(valkey).hash_fields(count, name, 15).used
    assert computed == pytest.approx(found, rel=0.03, abs=400)


@pytest.mark.parametrize("documents", [1, 4, 8, 16])
@pytest.mark.parametrize("entries", [40, 250, 700])
def test_a_log_takes_what_is_computed(valkey: redis.Redis, documents: int, entries: int) -> None:
    key, value = f"log-{documents}-{entries}", b"p" + b"\0" * 6 * documents
    pipeline = valkey.pipeline()
    for number in range(1, entries + 1):
        pipeline.xadd(key, {"b": value}, id=f"1-{number * documents}")
    pipeline.execute()
    found = valkey.memory_usage(key, samples=0)
    assert found is not None
    computed = memory_of(valkey).stream(entries, len(value)).used
    assert computed == pytest.approx(found, rel=0.07)


def test_keys_are_in_tables_of_what_is_computed(valkey: redis.Redis) -> None:
    valkey.config_set("lazyfree-lazy-user-flush", "no")
    valkey.flushall()
    before, keys = valkey.info("memory")["used_memory"], 20_000
    names = [f"{number:031}" for number in range(keys)]
    for start in range(0, keys, 2000):
        valkey.mset(dict.fromkeys(names[start : start + 2000], b"x" * 100))
    memory = memory_of(valkey)
    grown = valkey.info("memory")["used_memory"] - before
    valkey.flushall()
    computed = memory.string(31, 100).times(keys) + memory.key_table(keys)
    assert computed.used == pytest.approx(grown, rel=0.03)
