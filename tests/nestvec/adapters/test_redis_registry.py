"""The registry on a real server: outages, a full store, records that somebody else has damaged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nestvec.adapters import redis_registry
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_registry import RedisRegistry
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.core.errors import ConfigError, LeaseLost, StoreUnavailable
from nestvec.core.members import Assignment, Facts, MemberState
from tests.support.registries import LAYOUT, a_member, a_worker, names_of
from tests.support.rooms import SpyLog
from tests.support.store_server import StoreServer
from tests.support.stores import TIMEOUT_S

LONG_S = 60.0
BASE = "nestvec:{registry}:"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as running:
        yield running


@pytest.fixture
async def registry(server: StoreServer) -> AsyncIterator[RedisRegistry]:
    client = RedisClient(
        RedisSettings(server.url, command_timeout_s=TIMEOUT_S), Epochs(Keyspace("nestvec").primary)
    )
    registry = RedisRegistry(client, "nestvec")
    await registry.found("green")
    yield registry
    await client.close()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SpyLog:
    log = SpyLog()
    monkeypatch.setattr(redis_registry, "_log", log)
    return log


# --- outages --------------------------------------------------------------------------------------


async def test_every_call_says_that_the_server_does_not_answer(
    registry: RedisRegistry, server: StoreServer
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    with server.stopped():
        for call in (
            lambda: registry.found("green"),
            lambda: registry.join(a_member(), LONG_S),
            lambda: registry.renew(joined, LONG_S),
            lambda: registry.leave(joined),
            registry.view,
            lambda: registry.assign("docs", None, Assignment(LAYOUT)),
            lambda: registry.forget(LAYOUT),
            registry.disband,
        ):
            with pytest.raises(StoreUnavailable, match="did not answer in time"):
                await call()
    server.kill()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await registry.view()


async def test_a_restarted_server_knows_its_members_and_its_scripts_are_loaded_again(
    registry: RedisRegistry, server: StoreServer
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    server.kill()
    server.start_again()
    # A connection made before may turn out to be closed only when it is used.
    with suppress(StoreUnavailable):
        await registry.renew(joined, LONG_S)
    await registry.renew(joined, LONG_S)
    assert await names_of(registry) == [joined.name]


async def test_a_server_that_lost_everything_gives_no_incarnation_twice(
    registry: RedisRegistry, server: StoreServer
) -> None:
    first = await registry.join(a_worker(), LONG_S)
    before = await registry.view()
    server.redis.flushall()
    with pytest.raises(LeaseLost):
        await registry.renew(first, LONG_S)
    second = await registry.join(a_worker(), LONG_S)
    assert second.incarnation > first.incarnation
    assert (await registry.view(before)).revision > before.revision
    # And it is the same cluster's again.
    with pytest.raises(ConfigError, match="'green'"):
        await registry.found("blue")


async def test_a_full_store_keeps_its_cluster(registry: RedisRegistry, server: StoreServer) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    with server.full():
        told = replace(joined, state=MemberState.READY, facts=Facts({"docs:1": 3}))
        await registry.renew(told, LONG_S)
        another = await registry.join(a_member(), LONG_S)
        await registry.assign("docs", None, Assignment(LAYOUT))
        view = await registry.view()
        assert view.members == (told, another)
        assert view.assignment("docs") == Assignment(LAYOUT)
        await registry.leave(another)
        await registry.forget(LAYOUT)
        await registry.disband()
        await registry.found("green")


# --- keys -----------------------------------------------------------------------------------------


async def test_all_keys_are_in_one_slot_and_a_disbanded_cluster_leaves_none(
    registry: RedisRegistry, server: StoreServer
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    await registry.renew(replace(joined, state=MemberState.READY, facts=Facts({"a:1": 1})), LONG_S)
    await registry.assign("docs", None, Assignment(LAYOUT))
    await registry.view()
    keys = server.redis.keys("*")
    assert len(keys) > 5
    assert all(key.startswith(BASE.encode()) for key in keys)
    await registry.disband()
    assert server.redis.keys("*") == []


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("members", b"\xff\x00 no JSON"),
        ("members", b"{}"),
        ("members", b'"text"'),
        ("members", json.dumps({"role": "juggler"}).encode()),
        ("incarnations", b"many"),
    ],
)
async def test_a_damaged_member_is_left_out_and_named_once(
    registry: RedisRegistry, server: StoreServer, log: SpyLog, key: str, value: bytes
) -> None:
    sound = await registry.join(a_member("sound"), LONG_S)
    await registry.join(a_member("spoilt"), LONG_S)
    server.redis.hset(BASE + key, "spoilt", value)
    for _ in range(3):
        assert (await registry.view()).members == (sound,)
    (line,) = log.named("registry.damaged")
    assert line["name"] == "spoilt"


async def test_damaged_facts_and_promises_cost_only_themselves(
    registry: RedisRegistry, server: StoreServer, log: SpyLog
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    told = replace(joined, state=MemberState.READY, facts=Facts({"docs:1": 3}))
    await registry.renew(told, LONG_S)
    server.redis.hset(BASE + "facts", joined.name, b'{"documents": [1]}')
    server.redis.hset(BASE + "promised", "docs/2/0 other:1", b"some")
    server.redis.hset(BASE + "promised", "nonsense", b"1")
    view = await registry.view()
    assert view.members == (replace(told, facts=Facts()),)
    assert view.promised == {(LAYOUT, 0): {"docs:1": 3}}
    assert sorted(str(line["kind"]) for line in log.named("registry.damaged")) == [
        "facts",
        "promised",
        "promised",
    ]
    # The next heartbeat heals it.
    await registry.renew(told, LONG_S)
    assert (await registry.view()).members == (told,)


async def test_a_damaged_assignment_is_refused_rather_than_passed_over(
    registry: RedisRegistry, server: StoreServer
) -> None:
    """Without it the collection would seem to be where every other one is."""
    server.redis.hset(BASE + "assignments", "docs", b'{"current": {"pool": 3}}')
    with pytest.raises(ConfigError, match=r"damaged assignment of collection 'docs'.*delete"):
        await registry.view()
    server.redis.hdel(BASE + "assignments", "docs")
    await registry.view()


async def test_counters_that_are_no_numbers_are_begun_again(
    registry: RedisRegistry, server: StoreServer
) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    for counter in ("revision", "incarnation"):
        server.redis.set(BASE + counter, b"x")
    server.redis.hset(BASE + "pulse", mapping={"at": b"y", "ttl": b"z"})
    again = await registry.join(a_worker(), LONG_S)
    assert again.incarnation > joined.incarnation
    assert (await registry.view()).members == (again,)


async def test_a_key_of_another_type_is_told_of(
    registry: RedisRegistry, server: StoreServer
) -> None:
    server.redis.set(BASE + "members", b"text")
    with pytest.raises(StoreUnavailable, match="another type"):
        await registry.join(a_member(), LONG_S)
