"""Coarse workers of a cluster, in processes of their own over a real Valkey: how they come, are
ready, follow the catalogue and the assignments, and go.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nestvec.adapters.opening import open_registry
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.config import ClusterSection, StoreSection
from nestvec.core.collection import Collection
from nestvec.core.errors import LeaseLost, NestvecError, NotFound
from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    Layout,
    Member,
    MemberState,
    documents_key,
)
from nestvec.core.ports import Registry
from nestvec.membership.watch import Watch
from nestvec.rpc.clients import RemoteCoarse, channel_to
from tests.nestvec.core.synthetic import mrl_like
from tests.support.long_runs import takes_long
from tests.support.registries import until
from tests.support.rooms import a_collection, created, written
from tests.support.shards import a_query
from tests.support.store_server import StoreServer
from tests.support.worker_processes import CLUSTER, WorkerProcesses

HEARTBEAT_S = 1.0
DOCUMENTS = 3000
LAYOUT = Layout("default", 1)
ASK_S = 20.0


@dataclass
class House:
    """The workers as a front end sees them."""

    store: RedisStore
    registry: Registry
    watch: Watch
    workers: WorkerProcesses
    stack: AsyncExitStack
    _shards: dict[tuple[str, int], RemoteCoarse] = field(default_factory=dict)

    def member(self, name: str) -> Member | None:
        return next((one for one in self.watch.view.members if one.name == name), None)

    def state(self, name: str) -> MemberState | None:
        found = self.member(name)
        return None if found is None else found.state

    def documents(self, name: str, collection: Collection) -> int | None:
        found = self.member(name)
        key = documents_key(collection.name, collection.generation)
        return None if found is None else found.facts.documents.get(key)

    def shard(self, member: Member) -> RemoteCoarse:
        """A client that means this incarnation."""
        channel = channel_to(member.address, 1 << 24)
        self.stack.push_async_callback(channel.close)
        return RemoteCoarse(channel, member.name, member.incarnation)

    async def ready(self, name: str) -> Member:
        await until(lambda: self.state(name) is MemberState.READY, f"{name} is ready")
        found = self.member(name)
        assert found is not None
        return found

    async def found(self, member: Member, collection: Collection) -> int:
        """How many documents it searches."""
        answer = await self.shard(member).search(a_query(collection), ASK_S)
        return answer.documents


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path / "store") as running:
        yield running


@pytest.fixture
async def house(server: StoreServer, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        store = RedisStore(RedisSettings(server.url))
        stack.push_async_callback(store.close)
        registry = await open_registry(
            StoreSection(url=server.url), ClusterSection(name=CLUSTER), stack
        )
        watch = Watch(registry, HEARTBEAT_S)
        await watch.start()
        stack.push_async_callback(watch.close)
        workers = stack.enter_context(WorkerProcesses(server.url, tmp_path, HEARTBEAT_S))
        await registry.assign(EVERY_COLLECTION, None, Assignment(LAYOUT))
        yield House(store, registry, watch, workers, stack)


async def filled(house: House, name: str, count: int, seed: int) -> Collection:
    collection = await created(house.store, a_collection(name))
    await written(house.store, collection, mrl_like(count, 64, seed=seed))
    return collection


async def test_workers_are_ready_when_they_hold_everything_and_follow_what_changes(
    house: House,
) -> None:
    docs = await filled(house, "docs", DOCUMENTS, 1)
    names = [house.workers.start(shard, shards=2) for shard in range(2)]
    two = Layout("default", 2)
    await house.registry.assign(EVERY_COLLECTION, Assignment(LAYOUT), Assignment(two))
    members = [await house.ready(name) for name in names]
    # From the first moment on, and without anybody having told them to open it.
    held = [await house.found(member, docs) for member in members]
    assert sum(held) == DOCUMENTS
    assert min(held) > 0
    assert {member.place.shard for member in members if member.place} == {0, 1}
    await until(
        lambda: [house.documents(name, docs) for name in names] == held, "facts tell what they hold"
    )
    assert all(
        one.facts.memory_bytes > 1 << 20 and one.facts.lag == 0 for one in house.watch.view.members
    )
    # One that is created while they run.
    more = await filled(house, "more", 100, 2)
    await until(lambda: all(house.documents(name, more) for name in names), "it is opened")
    await house.shard(members[0]).settle(more)
    # One that is dropped while they run.
    await house.store.drop_collection(docs)
    await until(lambda: all(house.documents(name, docs) is None for name in names), "it is closed")
    with pytest.raises(NotFound):
        await house.found(members[0], docs)
    # And one that goes to other workers.
    await house.registry.assign("more", None, Assignment(LAYOUT))
    await until(lambda: all(house.documents(name, more) is None for name in names), "it has moved")
    with pytest.raises(NotFound):
        await house.found(members[0], more)
    # Nobody was lost over all this.
    assert [house.member(name).incarnation for name in names] == [  # type: ignore[union-attr]
        member.incarnation for member in members
    ]
    await until(
        lambda: house.watch.view.promised == {}, "what nobody of the place holds is not promised"
    )


@takes_long
async def test_a_killed_worker_is_gone_and_a_new_one_takes_its_name(house: House) -> None:
    docs = await filled(house, "docs", 300, 1)
    killed, stays = house.workers.start(0, 0), house.workers.start(0, 1)
    first = await house.ready(killed)
    await house.ready(stays)
    house.workers.signal(killed, signal.SIGKILL)
    await until(lambda: house.state(killed) is None, "it is gone")
    assert house.state(stays) is MemberState.READY
    assert house.watch.view.promised == {(LAYOUT, 0): {documents_key("docs", 1): 300}}
    house.workers.start(0, 0)
    second = await house.ready(killed)
    assert second.incarnation > first.incarnation
    assert await house.found(second, docs) == 300


async def test_a_drained_worker_tells_finishes_and_leaves_at_once(house: House) -> None:
    docs = await filled(house, "docs", 300, 1)
    name = house.workers.start()
    member = await house.ready(name)
    shard = house.shard(member)
    house.workers.signal(name, signal.SIGTERM)
    await until(lambda: house.state(name) is MemberState.DRAINING, "it says so")
    answer = await shard.search(a_query(docs), ASK_S)
    assert answer.documents == 300
    assert await asyncio.to_thread(house.workers.exit_code, name) == 0
    # It did not wait for its lease to end.
    assert (await house.registry.view()).members == ()
    assert "lease.lost" not in house.workers.log(name)
    assert "Traceback" not in house.workers.log(name)


@takes_long
async def test_a_worker_that_was_stopped_answers_nothing_until_it_has_joined_again(
    house: House,
) -> None:
    docs = await filled(house, "docs", 300, 1)
    name = house.workers.start()
    member = await house.ready(name)
    shard = house.shard(member)
    assert (await shard.search(a_query(docs), ASK_S)).documents == 300
    house.workers.signal(name, signal.SIGSTOP)
    # Calls that reach it while it is stopped, and are the first thing that it reads when it wakes.
    waiting = [asyncio.create_task(shard.search(a_query(docs), ASK_S)) for _ in range(5)]
    await until(lambda: house.state(name) is None, "it is gone")
    house.workers.signal(name, signal.SIGCONT)
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, LeaseLost), outcome
    again = await house.ready(name)
    assert again.incarnation > member.incarnation
    assert await house.found(again, docs) == 300
    with pytest.raises(LeaseLost):
        await shard.search(a_query(docs), ASK_S)


@takes_long
@pytest.mark.parametrize("outage", ["hangs", "restarts"])
async def test_an_outage_of_the_registry_stops_no_search_and_loses_nobody(
    house: House, server: StoreServer, outage: str
) -> None:
    """As a failover does, for longer than a lease lasts."""
    docs = await filled(house, "docs", 300, 1)
    names = [house.workers.start(0, replica) for replica in range(2)]
    members = [await house.ready(name) for name in names]
    shards = [house.shard(member) for member in members]

    async def search_for(heartbeats: float) -> int:
        loop = asyncio.get_running_loop()
        ends, searches = loop.time() + heartbeats * HEARTBEAT_S, 0
        while loop.time() < ends:
            for shard in shards:
                assert (await shard.search(a_query(docs), ASK_S)).documents == 300
                searches += 1
            assert [house.state(name) for name in names] == [MemberState.READY] * 2
            await asyncio.sleep(HEARTBEAT_S / 5)
        return searches

    if outage == "hangs":
        with server.stopped():
            assert await search_for(6) > 2
    else:
        server.kill()
        assert await search_for(6) > 2
        await asyncio.to_thread(server.start_again)
    # When it answers again nobody has lost anything.
    assert await search_for(6) > 2
    view = await house.registry.view()
    assert {one.name: one.incarnation for one in view.members} == {
        member.name: member.incarnation for member in members
    }


async def test_one_replica_saves_snapshots_and_the_other_starts_from_them(
    house: House, tmp_path: Path
) -> None:
    docs = await filled(house, "docs", DOCUMENTS, 1)
    place = {"snapshots": str(tmp_path / "snapshots"), "snapshot_every_s": 0.5}
    names = []
    for replica in range(2):
        coarse = {**place, "replica": replica, "use_gpu": False}
        names.append(house.workers.start(0, replica, coarse=coarse))
        # Before the first one is there it would be the second one's turn.
        await house.ready(names[-1])
    for row in range(4):
        await written(
            house.store, docs, mrl_like(10, 64, seed=10 + row), [f"n{row}-{i}" for i in range(10)]
        )
        await saved_again(house, names[0])
    assert "snapshot.saved" not in house.workers.log(names[1])
    # With the first one gone it is the other's turn; what is saved, the next one starts with.
    house.workers.signal(names[0], signal.SIGKILL)
    await until(lambda: house.state(names[0]) is None, "it is gone")
    await written(house.store, docs, mrl_like(10, 64, seed=99), [f"late-{i}" for i in range(10)])
    await until(lambda: "snapshot.saved" in house.workers.log(names[1]), "the other one saves")
    house.workers.start(0, 0, coarse={**place, "use_gpu": False})
    again = await house.ready(names[0])
    assert "snapshot.loaded" in house.workers.log(names[0])
    assert await house.found(again, docs) == DOCUMENTS + 50


async def saved_again(house: House, name: str) -> None:
    """Wait until it has saved once more than it has."""
    before = house.workers.log(name).count("snapshot.saved")
    await until(lambda: house.workers.log(name).count("snapshot.saved") > before, "it is saved")


@takes_long
async def test_a_worker_of_another_cluster_is_refused_with_a_way_out(house: House) -> None:
    name = house.workers.start(cluster={"name": "another"})
    assert await asyncio.to_thread(house.workers.exit_code, name) == 1
    assert "belongs to cluster 'workers'" in house.workers.log(name)
    with pytest.raises(NestvecError, match="belongs to cluster"):
        await open_registry(
            StoreSection(url=house.workers._store_url), ClusterSection(name="other"), house.stack
        )
