"""The store on a real Redis Cluster: slots that move, scripts, sweeps, masters that are lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import redis

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, StoreUnavailable
from nestvec.core.placement import partition_of, split_id
from nestvec.core.ports import Placed
from nestvec.core.watermark import follows, split_sequence
from tests.support.redis_servers import LocalCluster, Server, until
from tests.support.stores import (
    a_collection,
    free_port,
    ids_of,
    live_ids,
    some_deletions,
    some_records,
    tidy_all,
)

Opener = Callable[[RedisSettings], RedisStore]
NAMES = [f"document {i}" for i in range(60)]
PATIENT_S = 30.0


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalCluster]:
    """Three masters without replicas, for what breaks nothing."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: LocalCluster) -> LocalCluster:
    for node in shared.nodes:
        node.raw.flushall()
    return shared


@pytest.fixture
def replicated() -> Iterator[LocalCluster]:
    """Three masters, each with a replica, to be killed."""
    with LocalCluster(replicas=1) as cluster:
        yield cluster


def tag_of(partition: int, docs: Collection) -> str:
    return f"nestvec:{{{docs.name}:{docs.generation}:{partition}}}"


def partitions_at(cluster: LocalCluster, docs: Collection, node: Server) -> set[int]:
    return {
        p for p in range(docs.partitions) if cluster.owner(f"{tag_of(p, docs)}:sequence") is node
    }


async def persistently(put: Callable[[], Any]) -> Any:
    """Until the cluster takes it."""
    deadline = time.monotonic() + PATIENT_S
    while True:
        try:
            return await put()
        except StoreUnavailable:
            assert time.monotonic() < deadline, "the store never came back"
            await asyncio.sleep(0.05)


async def assert_whole(store: RedisStore, docs: Collection, placed: list[Placed]) -> None:
    """What was written is there, the log tells of all that lives, and no number came twice."""
    ids = ids_of(placed)
    assert len(set(ids.tolist())) == len(ids)
    assert None not in await store.vectors(docs, ids)
    after = dict.fromkeys(range(docs.partitions), 0)
    told: list[int] = []
    while batches := await store.read_log(docs, after, 100_000):
        for batch in batches:
            told += batch.added.tolist()
            after[batch.partition] = batch.last
    assert set(told) <= set(ids.tolist())
    assert await live_ids(store, docs) <= set(told)


class Moving:
    """A slot on its way from one master to another, key by key."""

    def __init__(self, cluster: LocalCluster, key: str) -> None:
        self._cluster = cluster
        until(cluster.agrees, "the nodes never agreed")
        self.source = cluster.owner(key)
        self.target = next(node for node in cluster.nodes if node is not self.source)
        self.slot = self.source.raw.execute_command("CLUSTER KEYSLOT", key)
        self._set(self.target, "IMPORTING", self._identity(self.source))
        self._set(self.source, "MIGRATING", self._identity(self.target))

    def move(self, count: int) -> int:
        """So many keys; returns how many there were."""
        keys = self.source.raw.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, count)
        if keys:
            where = ("127.0.0.1", self.target.port, "", 0, 5000)
            self.source.raw.execute_command("MIGRATE", *where, "KEYS", *keys)
        return len(keys)

    def finish(self) -> None:
        while self.move(100):
            pass
        identity = self._identity(self.target)
        for node in (self.target, self.source, *self._cluster.nodes):
            self._set(node, "NODE", identity)
        until(self._cluster.agrees, "the nodes never agreed")

    def _set(self, node: Server, state: str, identity: str) -> None:
        node.raw.execute_command("CLUSTER", "SETSLOT", self.slot, state, identity)

    def _identity(self, node: Server) -> str:
        return str(node.raw.execute_command("CLUSTER", "MYID").decode())


async def test_reads_go_on_while_a_slot_moves_and_writes_wait_whole(
    cluster: LocalCluster, open_store: Opener
) -> None:
    store = open_store(RedisSettings(cluster.url))
    docs = await store.create_collection(a_collection(), {})
    placed = await store.put(docs, some_records(NAMES))
    partition = partition_of(NAMES[0], docs.partitions)
    moving = Moving(cluster, f"{tag_of(partition, docs)}:sequence")
    moving.move(7)
    expected = [f"vector {name} ".encode() for name in NAMES]
    assert await store.vectors(docs, ids_of(placed)) == expected
    before = await store.positions(docs, range(docs.partitions))
    with pytest.raises(StoreUnavailable, match="moving slots"):
        await store.put(docs, some_records(NAMES[:1], "again"))
    assert await store.positions(docs, range(docs.partitions)) == before
    waiting = asyncio.create_task(store.put(docs, some_records(NAMES[:1], "again")))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(moving.finish)
    placed += await persistently(lambda: waiting)
    placed += await store.put(docs, some_records(NAMES, "moved"))
    assert cluster.owner(f"{tag_of(partition, docs)}:sequence") is moving.target
    await assert_whole(store, docs, placed)


async def test_a_script_that_meets_a_moving_slot_has_written_nothing(
    cluster: LocalCluster, open_store: Opener
) -> None:
    store = open_store(RedisSettings(cluster.url))
    docs = await store.create_collection(a_collection(), {})
    name = NAMES[0]
    placed = await store.put(docs, some_records([name]))
    partition = partition_of(name, docs.partitions)
    # All that PUT declares is still there: only what it would make is refused.
    await store.put(docs, some_records(["other"]))
    owner = cluster.owner(f"{tag_of(partition, docs)}:sequence")
    owner.raw.hset(f"{tag_of(partition, docs)}:tombstones", "x", b"0" * 14)
    moving = Moving(cluster, f"{tag_of(partition, docs)}:sequence")
    before = {key: owner.raw.dump(key) for key in owner.raw.scan_iter()}
    with pytest.raises(StoreUnavailable, match="moving slots"):
        await store.put(docs, some_records([name], "again"))
    assert {key: owner.raw.dump(key) for key in owner.raw.scan_iter()} == before
    moving.finish()
    (again,) = await store.put(docs, some_records([name], "again"))
    assert again.replaced == placed[0].internal_id


async def test_slots_that_moved_unseen_are_followed(
    cluster: LocalCluster, open_store: Opener
) -> None:
    store = open_store(RedisSettings(cluster.url))
    docs = await store.create_collection(a_collection(), {})
    placed = await store.put(docs, some_records(NAMES))
    for key in ["nestvec:{catalogue}:primary"] + [
        f"{tag_of(p, docs)}:sequence" for p in range(docs.partitions)
    ]:
        Moving(cluster, key).finish()
    placed += await store.put(docs, some_records(NAMES, "moved"))
    # To a server whose epoch is older than the numbers that come along.
    late = open_store(RedisSettings(cluster.url))
    placed += await late.put(docs, some_records(NAMES, "late"))
    await assert_whole(store, docs, placed)


async def test_masters_that_forgot_the_scripts_are_told_them_again(
    cluster: LocalCluster, open_store: Opener
) -> None:
    store = open_store(RedisSettings(cluster.url))
    docs = await store.create_collection(a_collection(), {})
    await store.put(docs, some_records(NAMES))
    for node in cluster.nodes[:2]:
        node.raw.script_flush()
    placed = await store.put(docs, some_records(NAMES, "again"))
    assert all(one.replaced >= 0 for one in placed)


async def test_a_drop_sweeps_every_master_and_usage_counts_all(
    cluster: LocalCluster, open_store: Opener
) -> None:
    store = open_store(RedisSettings(cluster.url))
    docs = await store.create_collection(a_collection("swept"), {"rotation": b"r"})
    await store.put(docs, some_records(NAMES))
    await store.delete(docs, some_deletions(NAMES[:10]))
    await tidy_all(store, docs)
    usage = await store.usage(docs)
    assert usage.documents == len(NAMES) - 10
    used = [node.raw.info("memory")["used_memory"] for node in cluster.nodes]
    assert usage.used_memory_bytes > sum(used) - min(used)
    assert all(partitions_at(cluster, docs, node) for node in cluster.nodes)
    await store.drop_collection(docs)
    kept = {key for node in cluster.nodes for key in node.raw.scan_iter()}
    assert {key.split(b"}")[0] for key in kept} == {b"nestvec:{catalogue"}


async def test_all_masters_write_in_epochs_of_their_own_whoever_asks_first(
    cluster: LocalCluster, open_store: Opener
) -> None:
    one, other = (open_store(RedisSettings(cluster.url)) for _ in range(2))
    docs = await one.create_collection(a_collection("swept"), {})
    assert all(partitions_at(cluster, docs, node) for node in cluster.nodes)
    for store, names in ((one, NAMES), (other, NAMES[::-1]), (one, NAMES[7:]), (other, NAMES)):
        await store.put(docs, some_records(names))
    owner = cluster.owner("nestvec:{catalogue}:primary")
    assert int(owner.raw.hget("nestvec:{catalogue}:primary", "epoch")) == len(cluster.nodes)


async def test_a_restored_log_raises_the_epoch_on_every_master(
    cluster: LocalCluster, open_store: Opener
) -> None:
    store = open_store(RedisSettings(cluster.url))
    back = await store.create_collection(a_collection("back"), {})
    await store.restore(back, 0, [], 9 << 32 | 5)
    epochs = {
        split_sequence(split_id(placed.internal_id)[1])[0]
        for placed in await store.put(back, some_records(NAMES))
    }
    assert min(epochs) >= 10


async def test_a_transaction_of_one_slot_is_followed_whole(cluster: LocalCluster) -> None:
    from nestvec.adapters.redis_scripts import Script

    add = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    client = RedisClient(RedisSettings(cluster.url), Epochs(b"nestvec:{catalogue}:primary"))
    try:
        calls: list[Any] = [(1, b"{t}a", 1), (1, b"{t}b", 2)]
        assert await client.run(add, calls, atomic=True) == [1, 2]
        Moving(cluster, "{t}a").finish()
        assert await client.run(add, calls, atomic=True) == [2, 4]
        assert await client.batch([(b"GET", b"{t}b"), (b"GET", b"no"), (b"GET", b"{t}a")]) == [
            *(b"4", None),
            b"2",
        ]
    finally:
        await client.close()


async def test_one_start_node_that_answers_is_enough(
    cluster: LocalCluster, open_store: Opener
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    url = f"redis://{dead},{cluster.nodes[1].address},{dead}"
    store = open_store(RedisSettings(url, cluster=True))
    assert await store.collections() == []
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await open_store(RedisSettings(f"redis+cluster://{dead}")).collections()


async def test_a_server_that_is_no_cluster_is_named_as_such(open_store: Opener) -> None:
    server = Server()
    try:
        with pytest.raises(ConfigError, match=r"is no Redis Cluster; remove store\.cluster"):
            await open_store(RedisSettings(server.url, cluster=True)).collections()
    finally:
        server.stop()


async def test_a_master_that_is_gone_fails_its_own_slots_in_bounded_time(
    open_store: Opener,
) -> None:
    with LocalCluster(options={"cluster-require-full-coverage": "no"}) as cluster:
        store = open_store(RedisSettings(cluster.url, command_timeout_s=2.0))
        docs = await store.create_collection(a_collection(), {})
        placed = ids_of(await store.put(docs, some_records(NAMES)))
        dead = next(
            node
            for node in cluster.nodes
            if node is not cluster.owner("nestvec:{catalogue}:primary")
        )
        lost = partitions_at(cluster, docs, dead)
        os.kill(dead.pid, signal.SIGKILL)
        for internal in placed.tolist():
            partition = split_id(internal)[0]
            call = store.vectors(docs, placed[placed == internal])
            async with asyncio.timeout(PATIENT_S):
                if partition in lost:
                    with pytest.raises(StoreUnavailable):
                        await call
                else:
                    assert None not in await call
            if partition in lost:
                break
        whole = [i for i in placed.tolist() if split_id(i)[0] not in lost]
        assert None not in await store.vectors(docs, placed[[i in whole for i in placed.tolist()]])


async def test_each_masters_own_replicas_confirm(
    replicated: LocalCluster, open_store: Opener
) -> None:
    patient = RedisSettings(
        replicated.url, command_timeout_s=20, wait_replicas=1, wait_timeout_s=10
    )
    store = open_store(patient)
    docs = await store.create_collection(a_collection(), {})
    placed = await store.put(docs, some_records(NAMES))
    master = replicated.owner(f"{tag_of(0, docs)}:sequence")
    mine = partitions_at(replicated, docs, master)
    hasty = open_store(RedisSettings(replicated.url, wait_replicas=1, wait_timeout_s=0.3))
    theirs = [n for n in NAMES if partition_of(n, docs.partitions) not in mine]
    # Entered while all replicas are there.
    await hasty.put(docs, some_records(NAMES))
    with replicated.replica_of(master).stopped():
        with pytest.raises(StoreUnavailable, match=r"has written it, but 0 of 1"):
            await hasty.put(docs, some_records(NAMES, "again"))
        assert len(await hasty.put(docs, some_records(theirs, "others"))) == len(theirs)
    assert all(one.replaced >= 0 for one in await store.put(docs, some_records(NAMES, "once more")))
    assert len(placed) == len(NAMES)


@pytest.mark.parametrize("lives_on", [True, False])
async def test_a_master_that_takes_its_tail_along_leaves_no_number_to_come_twice(
    replicated: LocalCluster, open_store: Opener, lives_on: bool
) -> None:
    settings = RedisSettings(replicated.url)
    store = open_store(settings)
    docs = await store.create_collection(a_collection(), {})
    kept = await store.put(docs, some_records(NAMES, "kept"))
    catalogue = replicated.owner("nestvec:{catalogue}:primary")
    masters = {replicated.owner(f"{tag_of(p, docs)}:sequence") for p in range(docs.partitions)}
    victim = next(one for one in masters if one is not catalogue)
    mine = partitions_at(replicated, docs, victim)
    replica = replicated.replica_of(victim)
    until(lambda: replica.raw.dbsize() == victim.raw.dbsize())
    os.kill(replica.pid, signal.SIGSTOP)
    victim.raw.client_kill_filter(_type="replica")  # what it was sent it would still read
    lost = await store.put(docs, some_records(NAMES, "lost"))
    reader = await store.positions(docs, range(docs.partitions))
    os.kill(victim.pid, signal.SIGKILL)
    os.kill(replica.pid, signal.SIGCONT)
    if not lives_on:
        store = open_store(settings)
    fresh: list[Placed] = []
    # Past where the log was before, so that counts alone would look as if nothing were lost.
    for tag in "abc":
        records = some_records(NAMES, tag)
        fresh += await persistently(partial(store.put, docs, records))
    assert replicated.owner(f"{tag_of(min(mine), docs)}:sequence") is replica
    numbers = [one.internal_id for one in (*kept, *lost, *fresh)]
    assert len(set(numbers)) == len(numbers)
    for batch in await store.read_log(docs, reader, 100_000):
        assert follows(reader[batch.partition], batch.first) == (batch.partition not in mine)
    final = fresh[-len(NAMES) :]
    assert await live_ids(store, docs) == set(ids_of(final).tolist())


async def test_the_catalogues_master_may_be_lost_and_a_stopped_one_is_left(
    replicated: LocalCluster, open_store: Opener
) -> None:
    store = open_store(
        RedisSettings(replicated.url, command_timeout_s=1.5, wait_replicas=1, wait_timeout_s=1)
    )
    docs = await store.create_collection(a_collection(), {})
    placed = await store.put(docs, some_records(NAMES, "first"))
    catalogue = replicated.owner("nestvec:{catalogue}:primary")
    heir = replicated.replica_of(catalogue)
    with catalogue.stopped():
        until(lambda: heir.role == "master")
        with suppress(StoreUnavailable):  # who met the stopped one
            await store.collections()
        assert await persistently(store.collections) == [docs]
        late = open_store(RedisSettings(replicated.url, command_timeout_s=1.5))
        placed += await persistently(lambda: late.put(docs, some_records(NAMES, "late")))
    assert await persistently(store.collections) == [docs]
    numbers = [one.internal_id for one in placed]
    assert len(set(numbers)) == len(numbers)
    # The old one is a replica now, and never read.
    until(lambda: catalogue.role == "slave")
    assert [x async for x in store.live_ids(docs, range(0))] == []
    assert await live_ids(store, docs) == set(numbers[-len(NAMES) :])


def test_the_servers_of_this_module_are_a_cluster(cluster: LocalCluster) -> None:
    with pytest.raises(redis.RedisError, match=r"MOVED|CROSSSLOT|slot"):
        cluster.nodes[0].raw.mget("a", "b", "c")
