"""What each role's user of the store may do, on real servers, and what is said when it is less."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from nestvec.adapters.redis_acl import (
    StoreRole,
    advice,
    file_line,
    hashed,
    needed,
    set_user,
    user_of,
)
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_registry import RedisRegistry
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, StoreUnavailable
from nestvec.core.members import Assignment, Layout, Member, MemberRole
from nestvec.core.migration import Migration, MigrationWish
from nestvec.core.shadowing import SHADOW
from tests.support.redis_servers import LocalCluster, Server
from tests.support.stores import (
    a_collection,
    ids_of,
    live_ids,
    redis_binary,
    some_deletions,
    some_records,
    tidy_all,
)

Opener = Callable[[RedisSettings], RedisStore]
NAMES = [f"document {i}" for i in range(30)]
PASSWORD = "p4ssw0rd"

READERS = (
    StoreRole.QUERY,
    StoreRole.COARSE,
    StoreRole.RERANK,
    StoreRole.MEMBER,
    StoreRole.OPERATOR,
)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary=redis_binary() if request.param == "redis" else None) as running:
        yield running


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


def empty(server: Server) -> None:
    server.raw.flushall()
    server.raw.script_flush()


def allow(server: Server, role: StoreRole, *less: str, prefix: str = "nestvec") -> None:
    """The user that is called after its role, by the product's own line. less: what takes of it."""
    server.raw.execute_command(*set_user(role, prefix, role, f">{PASSWORD}").split(), *less)


def as_role(server: Server, role: StoreRole, password_file: Path, **more: Any) -> RedisSettings:
    return RedisSettings(server.url, user=role, password_file=password_file, role=role, **more)


async def use_all(store: RedisStore) -> None:
    """Every operation of the store, once."""
    await store.ping()
    await store.require_kind()
    await store.finish_drops()
    docs = await store.create_collection(a_collection(), {"rotation": b"r"})
    assert await store.collections() == [docs]
    assert await store.lists(docs)
    assert await store.asset(docs, "rotation") == b"r"
    await store.update_collection(docs, {"more": b"m"}, ["rotation"])
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    await store.delete(docs, some_deletions(NAMES[:5], remember=True))
    assert (await store.find(docs, NAMES))[5:].tolist() == placed[5:].tolist()
    await store.vectors(docs, placed)
    await store.payloads(docs, placed)
    await store.external_ids(docs, placed)
    assert len(await live_ids(store, docs)) == len(NAMES) - 5
    assert await store.read_log(docs, dict.fromkeys(range(docs.partitions), 0), 100)
    assert [page async for page in store.documents(docs, 0)]
    await tidy_all(store, docs)
    await store.expire_tombstones(docs, 1 << 45)
    await store.advance_stream(docs, "s", 0, b"1234")
    await store.stream(docs, "s")
    await store.stream_digests(docs, "s", 0, 1)
    await store.usage(docs)
    back = await store.create_collection(a_collection("back"), {})
    pages = [page async for page in store.documents(docs, 0)]
    await store.restore(back, 0, pages[0], 99 << 32)
    await move(store, docs)
    await store.drop_collection(docs)
    await store.drop_collection(back)


async def move(store: RedisStore, docs: Collection) -> None:
    """To another generation, and all that is read and kept on the way."""
    beside = await store.add_generation(a_collection(), {"rotation": b"n"})
    await store.catalogue_revision()
    assert (await store.listing()).beside == (beside,)
    live: list[str] = []
    buried: list[str] = []
    for partition in range(docs.partitions):
        async for entries in store.entries(docs, partition):
            live += [one.external_id for one in entries]
        async for tombstones in store.tombstones(docs, partition):
            buried += [name for name, _ in tombstones]
    assert sorted(live) == sorted(NAMES[5:])
    assert not set(live) & set(buried)
    await store.versions(docs, NAMES)
    await store.deletions(docs, NAMES)
    await store.live_documents(docs, await store.find(docs, NAMES[5:9]), True)
    await store.put_newer(beside, some_records(NAMES))
    begun = Migration(
        docs.name,
        docs.generation,
        MigrationWish(),
        target=beside.generation,
        serving=docs.generation,
    )
    assert await store.claim_migration("docs", "me", 9.0)
    before = await store.change_migration(None, begun, "me")
    assert before is not None
    assert await store.migration("docs") == before
    after = replace(before, serving=beside.generation)
    assert await store.switch_generation(before, after, "me") is not None
    await store.release_migration("docs", "me")
    await store.set_tally("docs", "positions", {"1": 1})
    await store.add_to_tally("docs", "positions", {"1": 1})
    assert await store.tally("docs", "positions") == {"1": 2}
    await store.drop_tally("docs", "positions")
    await store.drop_collection(beside)


async def read_all(store: RedisStore, docs: Collection) -> None:
    """What front ends and coarse workers read, other regions' questions among it."""
    await store.ping()
    assert await store.collections() == [docs]
    assert await store.lists(docs)
    assert await store.asset(docs, "rotation") == b"r"
    await store.catalogue_revision()
    found = await store.find(docs, NAMES)
    assert all(await store.vectors(docs, found))
    assert all(await store.payloads(docs, found))
    await store.external_ids(docs, found)
    assert len(await live_ids(store, docs)) == await store.count(docs) == len(NAMES)
    assert sum(await _each(store.positions(docs, range(docs.partitions)))) > 0
    assert await store.read_log(docs, dict.fromkeys(range(docs.partitions), 0), 100)
    assert [page async for page in store.entries(docs, 0)]
    buried = [page for p in range(docs.partitions) async for page in store.tombstones(docs, p)]
    assert [name for page in buried for name, _ in page] == ["gone"]
    assert [page async for page in store.documents(docs, 0)]
    await store.versions(docs, NAMES)
    await store.deletions(docs, NAMES)
    await store.live_documents(docs, found, True)
    assert await store.tally("docs", "positions") == {}
    await store.migration("docs")


async def _each(positions: Awaitable[dict[int, int]]) -> list[int]:
    return list((await positions).values())


async def in_registry(settings: RedisSettings) -> None:
    """What every member does there."""
    client = RedisClient(settings, Epochs(Keyspace(settings.prefix).primary))
    registry = RedisRegistry(client, settings.prefix)
    member = Member("worker", MemberRole.COARSE, "127.0.0.1:1", "here")
    try:
        await registry.found("cluster")
        joined = await registry.join(member, 9.0)
        await registry.renew(joined, 9.0)
        assert [one.name for one in (await registry.view()).members] == ["worker"]
        layout = Assignment(Layout("default", 1))
        await registry.assign("docs", None, layout)
        await registry.assign("docs", layout, None)
        await registry.forget(layout.current)
        await registry.leave(joined)
    finally:
        await client.close()


async def test_whoever_writes_may_do_all_that_the_store_does(
    server: Server, password_file: Path, open_store: Opener
) -> None:
    empty(server)
    allow(server, StoreRole.INGEST)
    settings = as_role(server, StoreRole.INGEST, password_file)
    await use_all(open_store(settings))
    await in_registry(settings)


async def test_the_rules_are_enough_on_a_cluster(password_file: Path, open_store: Opener) -> None:
    with LocalCluster() as cluster:
        for node in cluster.nodes:
            for role in StoreRole:
                allow(node, role)
        at = {
            role: RedisSettings(cluster.url, user=role, password_file=password_file, role=role)
            for role in StoreRole
        }
        writer = open_store(at[StoreRole.INGEST])
        await use_all(writer)
        docs = await writer.create_collection(a_collection(), {"rotation": b"r"})
        await writer.put(docs, some_records(NAMES, version=9))
        await writer.delete(docs, some_deletions(["gone"], remember=True))
        for role in (StoreRole.QUERY, StoreRole.COARSE):
            await read_all(open_store(at[role]), docs)
        for role in READERS:
            await in_registry(at[role])


async def test_each_role_reads_what_it_needs_and_changes_no_document(
    server: Server, password_file: Path, open_store: Opener
) -> None:
    empty(server)
    for role in StoreRole:
        allow(server, role)
    writer = open_store(as_role(server, StoreRole.INGEST, password_file))
    docs = await writer.create_collection(a_collection(), {"rotation": b"r"})
    placed = ids_of(await writer.put(docs, some_records(NAMES)))
    await writer.delete(docs, some_deletions(["gone"], remember=True))
    stores = {role: open_store(as_role(server, role, password_file)) for role in READERS}
    await read_all(stores[StoreRole.QUERY], docs)
    await read_all(stores[StoreRole.COARSE], docs)
    await stores[StoreRole.QUERY].add_to_tally("docs", SHADOW, {"asked": 1})
    assert all(await stores[StoreRole.RERANK].vectors(docs, placed))
    for role in (StoreRole.RERANK, StoreRole.OPERATOR):
        assert await stores[role].collections() == [docs]
    before = everything(server)
    for role, store in stores.items():
        await in_registry(as_role(server, role, password_file))
        for what, change in changes(store, docs).items():
            assert f"--role {role}" in await refusal(change()), what
    assert everything(server) == before


async def refusal(change: Awaitable[Any]) -> str:
    """Empty where the store let it."""
    try:
        await change
    except StoreUnavailable as error:
        return str(error)
    return ""


def everything(server: Server) -> dict[bytes, bytes]:
    """Of documents and the catalogue, as the server would dump it."""
    keys = [key for key in server.raw.keys("nestvec:*") if b"{registry}" not in key]
    return {key: server.raw.dump(key) for key in keys}


def changes(store: RedisStore, docs: Collection) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What no role but one may do."""
    return {
        "write": lambda: store.put(docs, some_records(NAMES, version=2)),
        "delete": lambda: store.delete(docs, some_deletions(NAMES, 2)),
        "tidy": lambda: store.tidy(docs, {0: 1 << 40}, 0),
        "advance a stream": lambda: store.advance_stream(docs, "s", 0, b"1234"),
        "create": lambda: store.create_collection(a_collection("more"), {}),
        "update": lambda: store.update_collection(docs, {"more": b"m"}, ["rotation"]),
        "drop": lambda: store.drop_collection(docs),
        "claim": lambda: store.claim_migration("docs", "me", 9.0),
        "count": lambda: store.set_tally("docs", "regions", {"eu.whole": 1}),
    }


@pytest.mark.parametrize("role", StoreRole)
def test_the_server_refuses_what_is_beyond_a_role(server: Server, role: StoreRole) -> None:
    """Whatever a client of ours would send."""
    empty(server)
    allow(server, role)
    vector, payload, ids = (f"nestvec:{{docs:1:0}}{end}" for end in ("v:7", "d:7", ":ids"))
    server.raw.mset({vector: "v", payload: "p", "other:a": "o"})
    server.raw.hset(ids, "a", "1")
    collections = "nestvec:{catalogue}:collections"
    refused: list[tuple[str, ...]] = [
        ("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*"), ("GET", "other:a"),
        ("SET", "other:a", "x"), ("REPLICAOF", "NO", "ONE"), ("SHUTDOWN",), ("BGREWRITEAOF",),
        ("PUBLISH", "a", "b"), ("MONITOR",), ("SCRIPT", "FLUSH"), ("RENAME", vector, payload),
    ]  # fmt: skip
    if role is not StoreRole.INGEST:
        script = "return redis.call('SET', KEYS[1], 'x')"
        undeclared = f"return redis.call('DEL', '{vector}')"
        digests = [server.raw.script_load(one) for one in (script, undeclared)]
        refused += [
            ("SCAN", "0"), ("SET", vector, "x"), ("DEL", payload), ("UNLINK", vector),
            ("HSET", ids, "a", "2"), ("HDEL", collections, "docs"), ("HSET", collections, "a", "b"),
            ("EVALSHA", digests[0], "1", vector), ("EVALSHA", digests[1], "0"),
            ("XADD", "nestvec:{docs:1:0}:log", "*", "b", "p"),
        ]  # fmt: skip
    if role in (StoreRole.RERANK, StoreRole.MEMBER, StoreRole.OPERATOR):
        refused += [("MGET", payload), ("HGET", ids, "a"), ("GET", payload)]
    if role in (StoreRole.MEMBER, StoreRole.OPERATOR):
        refused += [("MGET", vector), ("GET", vector)]
    client: Any = redis.Redis(port=server.port, username=role, password=PASSWORD, protocol=2)
    with client:
        for command in refused:
            with pytest.raises(
                redis.exceptions.ResponseError,
                match=r"permissions|NOPERM|ACL|executing the script can't",
            ):
                print(command, client.execute_command(*command))  # noqa: T201  told where it may
    assert server.raw.mget(vector, payload, "other:a") == [b"v", b"p", b"o"]


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("-evalsha", r"a script \(EVALSHA\) on the key nestvec:"),
        ("-evalsha_ro", r"a script \(EVALSHA_RO\) on the key nestvec:\{catalogue\}:revision"),
        ("-info", "'info' command"),
        ("-mget", r"MGET on the key nestvec:\{docs:1:\d\}v:"),
        ("-xadd", r"a script \(EVALSHA\) on the key nestvec:\{docs:1:\d\}:sequence"),
        ("-script|load", "SCRIPT LOAD"),
        ("-scan", "SCAN"),
    ],
)
async def test_a_right_that_lacks_is_named_with_the_rules_that_give_it(
    server: Server, password_file: Path, open_store: Opener, missing: str, told: str
) -> None:
    empty(server)
    allow(server, StoreRole.INGEST, missing)
    store = open_store(as_role(server, StoreRole.INGEST, password_file))
    with pytest.raises(StoreUnavailable, match="does not permit") as refused:
        await use_all(store)
    assert re.search(told, str(refused.value)), str(refused.value)
    assert "nestvec acl" in str(refused.value)


async def test_another_prefix_is_out_of_bounds(
    server: Server, password_file: Path, open_store: Opener
) -> None:
    empty(server)
    allow(server, StoreRole.QUERY)
    settings = as_role(server, StoreRole.QUERY, password_file, prefix="other")
    with pytest.raises(
        StoreUnavailable, match=r"GET on the key other:\{catalogue\}:format.*--role query"
    ):
        await open_store(settings).collections()
    allow(server, StoreRole.QUERY, prefix="other")
    assert await open_store(settings).collections() == []


def test_lines_for_a_file_are_what_the_server_reads(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    password = hashed(PASSWORD)
    lines = [file_line(role, "nestvec", user_of(role), password) for role in StoreRole]
    path.write_text("\n".join(lines) + "\n")
    with Server({"aclfile": str(path)}) as running:
        for role in StoreRole:
            client = redis.Redis(port=running.port, username=user_of(role), password=PASSWORD)
            with client:
                assert client.ping()


def test_no_argument_is_told_and_no_line_is_without_bounds() -> None:
    assert needed((b"SET", b"nestvec:{a:1:0}d:1", b"secret text")) == (
        "SET on the key nestvec:{a:1:0}d:1"
    )
    assert needed((b"EVALSHA", b"abc", 0, b"secret")) == "a script (EVALSHA)"
    assert len(needed((b"GET", b"k" * 9000))) < 250
    with pytest.raises(ConfigError, match="key prefix"):
        set_user(StoreRole.QUERY, "a*", "u", ">p")
    assert advice(None).startswith("`nestvec acl` prints")
