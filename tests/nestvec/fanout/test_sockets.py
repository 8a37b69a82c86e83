"""Real workers behind real sockets, some of which are cut, muted, refused or taken by another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import numpy as np
import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse import servicer
from nestvec.coarse.app import CoarseApp
from nestvec.config import load_settings
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, LeaseLost, WorkerUnavailable
from nestvec.core.hedging import BURST, EXTRA_SHARE, CallCounts
from nestvec.core.members import Assignment, Layout, Member
from nestvec.core.ports import CoarseAnswer
from nestvec.fanout.cluster_shards import ClusterShards
from nestvec.fanout.main import connect_coarse
from nestvec.fanout.replicated_shard import ReplicatedShard
from nestvec.rpc.server import Server, ServerLimits
from tests.nestvec.core.synthetic import mrl_like
from tests.support.faults import PATIENT_S, eventually
from tests.support.long_runs import LONG, takes_long
from tests.support.relay import Relay
from tests.support.replicas import WrittenViews, a_worker
from tests.support.rooms import FaultyStore, a_collection, created, written
from tests.support.shards import a_query
from tests.support.stores import free_port

ONE = Layout("docs", 1)
# Searches, where extra calls are counted against them.
CALLS = 1000 if LONG else 400


class Workers:
    """Three replicas of the only shard of a collection, and its shards as a front end has them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.views = WrittenViews()
        self.store = FaultyStore()
        self.shards = ClusterShards(self.views, partial(connect_coarse, load_settings(None)))
        self.apps: list[CoarseApp] = []
        self.servers: list[Server] = []
        self.addresses: list[str] = []
        self.docs: Collection

    async def start(self) -> None:
        self.docs = await created(self.store, a_collection())
        await written(self.store, self.docs, mrl_like(100, 64, seed=1))
        for number in range(3):
            app = CoarseApp(self.store, NumpyFactory(), 0, 1)
            self.stack.push_async_callback(app.close)
            await app.open(self.docs)
            mounted = servicer.mount(
                app, StoredCatalogue(self.store), 10.0, partial(require, 10 + number)
            )
            server = Server([mounted], ServerLimits(drain_s=0.0))
            port = await server.start("127.0.0.1", 0)
            self.stack.push_async_callback(server.stop)
            self.apps.append(app)
            self.servers.append(server)
            self.addresses.append(f"127.0.0.1:{port}")
        self.shards.start()
        self.stack.push_async_callback(self.shards.close)

    def through(self, number: int) -> Relay:
        """One is reached through a relay from now on."""
        relay = self.stack.enter_context(Relay(self.addresses[number]))
        self.addresses[number] = relay.address
        return relay

    def member(self, number: int, incarnation: int | None = None) -> Member:
        own = 10 + number
        address = self.addresses[number]
        return a_worker(f"w{number}", 0, incarnation or own, ONE, address=address)

    def show(self, *members: Member) -> None:
        self.views.show(*members, assignments={"docs": Assignment(ONE)})

    @property
    def shard(self) -> ReplicatedShard:
        (shard,) = self.shards.of("docs")
        assert isinstance(shard, ReplicatedShard)
        return shard

    @property
    def counts(self) -> CallCounts:
        return self.shard.group.hedging.counts

    async def search(self, timeout_s: float = PATIENT_S) -> CoarseAnswer:
        return await self.shard.search(a_query(self.docs, count=10), timeout_s)

    async def search_many(self, calls: int, at_once: int = 10) -> None:
        """Every one of them gives the whole answer."""
        truth = (await self.apps[0].search(a_query(self.docs, count=10), PATIENT_S)).hits[0].ids
        for _ in range(calls // at_once):
            for answer in await asyncio.gather(*(self.search() for _ in range(at_once))):
                assert answer.documents == 100
                assert answer.hits[0].ids.tolist() == truth.tolist()

    def trusts(self, number: int) -> bool:
        (one,) = [one for one in self.shard.group.members if one.name == f"w{number}"]
        return one.breaker.closed


def require(own: int, incarnation: int) -> None:
    if incarnation not in (0, own):
        raise LeaseLost(f"incarnation {own} is here, {incarnation} was called")


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with AsyncExitStack() as stack:
        built = Workers(stack)
        await built.start()
        yield built


async def test_replicas_answer_as_one_shard_and_extra_calls_stay_within_their_budget(
    workers: Workers,
) -> None:
    workers.show(*(workers.member(number) for number in range(3)))
    await workers.search_many(CALLS)
    assert workers.counts.calls == CALLS
    assert workers.counts.hedges <= BURST + EXTRA_SHARE * CALLS
    assert workers.counts.retries == 0


async def test_a_replica_that_falls_silent_fails_no_query(workers: Workers) -> None:
    """Its connection stays open, and takes what is sent."""
    relay = workers.through(0)
    workers.show(*(workers.member(number) for number in range(3)))
    await workers.search_many(100)
    relay.mute()
    await workers.search_many(CALLS // 2)
    assert not workers.trusts(0)
    assert workers.counts.hedges <= BURST + EXTRA_SHARE * workers.counts.calls


async def test_a_replica_whose_connection_is_cut_and_then_refused_fails_no_query(
    workers: Workers,
) -> None:
    relay = workers.through(0)
    workers.show(*(workers.member(number) for number in range(3)))
    # One at a time: of many, a short stall may make several late at once, and open the breaker.
    await workers.search_many(50, at_once=1)

    async def trusted() -> bool:
        # On a busy machine four in a row may be late all the same; then a probe closes it again.
        await workers.search()
        return workers.trusts(0)

    await eventually(trusted)
    relay.cut()
    await workers.search_many(100, at_once=1)
    assert not workers.trusts(0)
    assert workers.counts.retries > 0


async def test_an_address_where_nobody_listens_fails_no_query(workers: Workers) -> None:
    workers.addresses[0] = f"127.0.0.1:{free_port()}"
    workers.show(*(workers.member(number) for number in range(3)))
    await workers.search_many(100)
    assert not workers.trusts(0)
    workers.show(workers.member(0))
    with pytest.raises(WorkerUnavailable, match="w0"):
        await workers.search()


async def test_another_incarnation_at_the_same_address_never_answers(workers: Workers) -> None:
    workers.show(workers.member(0, incarnation=99), workers.member(1))
    await workers.search_many(50)
    assert not workers.trusts(0)
    workers.show(workers.member(0, incarnation=99))
    with pytest.raises(LeaseLost, match="99 was called"):
        await workers.search()
    # It joins again, and the front ends see it.
    workers.show(workers.member(0))
    await workers.search_many(10)


async def test_one_that_comes_back_at_the_same_address_is_asked_at_once(workers: Workers) -> None:
    workers.show(workers.member(0))
    await workers.search_many(10)
    host, port = workers.addresses[0].split(":")
    await workers.servers[0].stop()
    for _ in range(5):
        with pytest.raises(WorkerUnavailable):
            await workers.search()
    mounted = servicer.mount(
        workers.apps[0], StoredCatalogue(workers.store), 10.0, partial(require, 20)
    )
    again = Server([mounted], ServerLimits(drain_s=0.0))
    await again.start(host, int(port))
    workers.stack.push_async_callback(again.stop)
    workers.show(workers.member(0, incarnation=20))
    await workers.search_many(10)


async def test_one_that_opened_late_is_passed_over(workers: Workers) -> None:
    await workers.apps[1].drop("docs", workers.docs.generation)
    workers.show(workers.member(0), workers.member(1))
    await workers.search_many(50)
    assert workers.counts.retries > 0
    assert workers.trusts(1), "it answers: there is nothing to hold against it"
    assert await workers.shard.open(workers.docs) == 100
    retries = workers.counts.retries
    await workers.search_many(50)
    assert workers.counts.retries == retries


async def test_a_wrong_request_is_refused_by_the_first_that_reads_it(workers: Workers) -> None:
    workers.show(*(workers.member(number) for number in range(3)))
    query = a_query(workers.docs, queries=np.zeros((1, 64), np.float32))
    with pytest.raises(InvalidRequest):
        await workers.shard.search(query, PATIENT_S)
    assert workers.counts.retries == 0


@takes_long
async def test_calls_that_lost_are_cancelled_at_the_worker_too(workers: Workers) -> None:
    relay = workers.through(0)
    workers.show(workers.member(0), workers.member(1))
    await workers.search_many(40)
    relay.mute()
    await workers.search_many(100)
    assert [one.under_way for one in workers.shard.group.members] == [0, 0]
