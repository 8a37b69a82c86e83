"""Credentials, addresses and foreign servers: refused with a message that gives nothing away."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable

import pytest
from redis import exceptions as redis_errors

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_errors import translate
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.errors import ConfigError, NestvecError, Overloaded, StoreUnavailable
from tests.support.stores import TIMEOUT_S, a_collection, a_record, ask, free_port

SECRET = "p4ssw0rd"


async def refusal(url: str) -> StoreUnavailable:
    store = RedisStore(RedisSettings(url, command_timeout_s=TIMEOUT_S))
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await store.collections()
    finally:
        await store.close()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


async def test_credentials_open_the_store_and_wrong_ones_do_not(
    open_store: Callable[[RedisSettings], RedisStore],
) -> None:
    port = str(free_port())
    with EmbeddedValkey(EmbeddedSettings(options={"port": port, "bind": "127.0.0.1"})) as server:
        ask(server, f"CONFIG SET requirepass {SECRET}")
        store = open_store(RedisSettings(f"redis://:{SECRET}@127.0.0.1:{port}/0"))
        assert await store.collections() == []
        assert "user or password" in str(await refusal(f"redis://:{SECRET}x@127.0.0.1:{port}"))
        assert "user or password" in str(await refusal(f"redis://who:{SECRET}@127.0.0.1:{port}"))
        assert "asks for a password" in str(await refusal(f"redis://127.0.0.1:{port}"))


async def test_nothing_at_the_address() -> None:
    port = free_port()
    error = await refusal(f"redis://me:{SECRET}@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in str(error)
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00", b""]
)
async def test_a_server_of_another_protocol(greeting: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(greeting)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await refusal(f"redis://me:{SECRET}@127.0.0.1:{port}")


async def test_a_read_only_replica_is_named_as_one(
    open_store: Callable[[RedisSettings], RedisStore],
) -> None:
    with EmbeddedValkey() as server:
        store = open_store(RedisSettings(server.url))
        docs = await store.create_collection(a_collection(), {})
        ask(server, "REPLICAOF 127.0.0.1 1")
        with pytest.raises(StoreUnavailable, match="read-only replica"):
            await store.put(docs, [a_record("a")])


async def test_keys_of_two_slots_at_a_cluster_are_named_as_a_setting(
    open_store: Callable[[RedisSettings], RedisStore],
) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "bind": "127.0.0.1"}
    with EmbeddedValkey(EmbeddedSettings(options=options)) as server:
        store = open_store(RedisSettings(server.url))
        with pytest.raises(StoreUnavailable, match="cluster"):
            await store.collections()  # no slot is served yet


def test_settings_show_no_credentials() -> None:
    settings = RedisSettings(f"redis://me:{SECRET}@example.org:6380/2?x=1")
    assert SECRET not in repr(settings)
    assert RedisStore(settings).address == "example.org:6380"


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@example.org",
        f"example.org:{SECRET}",
        "",
        f"redis://me:{SECRET}@example.org:port",
        f"redis://me:{SECRET}@example.org?db=many",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url") as caught:
        RedisStore(RedisSettings(url))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_connections"):
        RedisSettings("redis://x", max_connections=0)
    with pytest.raises(ConfigError, match="command_timeout_s"):
        RedisSettings("redis://x", command_timeout_s=float("nan"))
    with pytest.raises(ConfigError, match="wait_replicas"):
        RedisSettings("redis://x", wait_replicas=-1)
    with pytest.raises(ConfigError, match=r"wait_timeout_s is 3, expected less than the 3"):
        RedisSettings("redis://x", wait_replicas=1, wait_timeout_s=3, command_timeout_s=3)
    with pytest.raises(ConfigError, match="database 0"):
        RedisStore(RedisSettings("redis://x/3", cluster=True))
    for prefix in ("", "a:b", "{a}", "a*", "x" * 33):
        with pytest.raises(ConfigError, match="prefix"):
            Keyspace(prefix)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (redis_errors.OutOfMemoryError("command not allowed when used memory"), Overloaded, "full"),
        (
            redis_errors.ResponseError("Error running script: OOM command not allowed when"),
            Overloaded,
            "full",
        ),
        (redis_errors.BusyLoadingError("Redis is loading"), StoreUnavailable, "loading"),
        (redis_errors.ReadOnlyError("You can't write"), StoreUnavailable, "primary"),
        (redis_errors.ResponseError("MISCONF cannot persist"), StoreUnavailable, "disk"),
        (redis_errors.ResponseError("NOREPLICAS not enough"), StoreUnavailable, "replicas"),
        (redis_errors.ResponseError("BUSY running a script"), StoreUnavailable, "script"),
        (redis_errors.NoPermissionError("no"), StoreUnavailable, "access rules"),
        (redis_errors.TimeoutError("Timeout"), StoreUnavailable, "in time"),
        (TimeoutError(), StoreUnavailable, "in time"),
        (redis_errors.ConnectionError("refused"), StoreUnavailable, "refused"),
        (redis_errors.InvalidResponse("?"), StoreUnavailable, "protocol"),
        (
            redis_errors.ResponseError(f"unknown command 'AUTH', with args beginning: '{SECRET}'"),
            StoreUnavailable,
            "unknown command 'AUTH'",
        ),
    ],
)
def test_each_error_says_what_it_means(
    error: Exception, kind: type[NestvecError], says: str
) -> None:
    translated = translate(error, "example.org:6379")
    assert type(translated) is kind
    assert says in str(translated)
    assert "example.org:6379" in str(translated)
    assert SECRET not in str(translated)
