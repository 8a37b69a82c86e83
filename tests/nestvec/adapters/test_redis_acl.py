"""The least that a user of the store must be allowed, and what is said when it is less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_registry import RedisRegistry
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.migration import Migration, MigrationWish
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

# What the documentation of the store gives. `cluster|slots` and `asking` are for a cluster only.
LEAST = (
    "resetkeys ~nestvec:* resetchannels -@all "
    "+get +mget +set +getrange +setrange +exists +del +unlink +expire "
    "+hget +hmget +hset +hsetnx +hdel +hgetall +hkeys +hlen +hexists +hincrby +hscan "
    "+sadd +srem +smembers +zadd +zrem +zcard +zrange +zrangebyscore "
    "+xadd +xrange +xlen +xtrim +eval +evalsha +script|load +multi +exec +wait "
    "+scan +memory|usage +info +time +ping +cluster|slots +asking"
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


def allow(server: Server, rules: str) -> None:
    server.raw.flushall()
    server.raw.script_flush()
    server.raw.execute_command(
        "ACL", "SETUSER", "nestvec", "reset", "on", f">{PASSWORD}", *rules.split()
    )


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


async def test_the_least_rules_are_enough(
    server: Server, password_file: Path, open_store: Opener
) -> None:
    allow(server, LEAST)
    settings = RedisSettings(server.url, user="nestvec", password_file=password_file)
    await use_all(open_store(settings))
    client = RedisClient(settings, Epochs(Keyspace("nestvec").primary))
    try:
        registry = RedisRegistry(client, "nestvec")
        await registry.found("cluster")
        assert (await registry.view()) is not None
        await registry.disband()
    finally:
        await client.close()


async def test_the_least_rules_are_enough_on_a_cluster(
    password_file: Path, open_store: Opener
) -> None:
    with LocalCluster() as cluster:
        for node in cluster.nodes:
            allow(node, LEAST)
        settings = RedisSettings(cluster.url, user="nestvec", password_file=password_file)
        await use_all(open_store(settings))


@pytest.mark.parametrize("missing", ["evalsha", "info", "mget", "xadd"])
async def test_rules_that_permit_less_are_named_as_the_reason(
    server: Server, password_file: Path, open_store: Opener, missing: str
) -> None:
    allow(server, f"{LEAST} -{missing}")
    store = open_store(RedisSettings(server.url, user="nestvec", password_file=password_file))
    with pytest.raises(StoreUnavailable, match=r"does not permit.*access rules"):
        await use_all(store)


async def test_another_prefix_is_out_of_bounds(
    server: Server, password_file: Path, open_store: Opener
) -> None:
    allow(server, LEAST)
    settings = RedisSettings(
        server.url, prefix="other", user="nestvec", password_file=password_file
    )
    with pytest.raises(StoreUnavailable, match=r"does not permit.*access rules"):
        await open_store(settings).collections()
