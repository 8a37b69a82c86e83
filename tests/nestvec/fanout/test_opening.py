"""A front end opened by its settings finds workers and encoders through a real registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from nestvec.adapters.opening import open_registry, open_shared_store
from nestvec.coarse import main as coarse_main
from nestvec.coarse.main import open_shards
from nestvec.config import Settings, load_settings
from nestvec.core.errors import ConfigError, NestvecError, WorkerUnavailable
from nestvec.core.members import EVERY_COLLECTION, Assignment, Layout, MemberRole
from nestvec.core.ports import Registry, Shards
from nestvec.core.space import Role
from nestvec.encoder import main as encoder_main
from nestvec.encoder.main import open_encoder
from nestvec.fanout.main import open_watch
from nestvec.serving import Hosted, host
from tests.nestvec.core.synthetic import mrl_like
from tests.support.faults import PATIENT_S, eventually
from tests.support.rooms import a_collection, created, written
from tests.support.shards import a_query
from tests.support.store_server import StoreServer

HEARTBEAT_S = 0.2


class Processes:
    """What would be processes of a cluster, each with a stack of its own."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.stack = stack
        self.registry: Registry

    def settings(self, **more: Any) -> Settings:
        overrides = {key.replace("__", "."): value for key, value in more.items()}
        return load_settings(
            None,
            {
                "store.url": self.url,
                "cluster.name": "test",
                "cluster.heartbeat_s": HEARTBEAT_S,
                "coarse.shards": 2,
                "server.port": 0,
                "server.drain_s": 0.0,
                **overrides,
            },
        )

    async def worker(self, shard: int, replica: int) -> tuple[Hosted, AsyncExitStack]:
        own = await self.stack.enter_async_context(AsyncExitStack())
        settings = self.settings(coarse__shard=shard, coarse__replica=replica)
        hosted = await host(settings, coarse_main.mounted, own, MemberRole.COARSE)
        await asyncio.wait_for(hosted.become_ready(), PATIENT_S)
        return hosted, own

    async def encoder(self, **more: Any) -> tuple[Hosted, AsyncExitStack]:
        own = await self.stack.enter_async_context(AsyncExitStack())
        settings = self.settings(**more)
        hosted = await host(settings, encoder_main.mounted, own, MemberRole.ENCODER)
        await asyncio.wait_for(hosted.become_ready(), PATIENT_S)
        return hosted, own


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    with StoreServer(tmp_path) as server:
        async with AsyncExitStack() as stack:
            built = Processes(server.url, stack)
            settings = built.settings()
            built.registry = await open_registry(settings.store, settings.cluster, stack)
            yield built


async def answers(shards: Shards, documents: int, query: Any) -> bool:
    """Whether both shards answer, and hold so many between them."""
    try:
        found = await asyncio.gather(
            *(shard.search(query, PATIENT_S) for shard in shards.of(query.collection))
        )
    except NestvecError:
        return False
    return sum(one.documents for one in found) == documents


async def test_shards_are_found_and_one_replica_is_enough(processes: Processes) -> None:
    stack = processes.stack
    await processes.registry.assign(EVERY_COLLECTION, None, Assignment(Layout("default", 2)))
    settings = processes.settings()
    store = await open_shared_store(settings.store, stack)
    docs = await created(store, a_collection())
    await written(store, docs, mrl_like(100, 64, seed=1))
    members = {
        (shard, replica): await processes.worker(shard, replica)
        for shard in range(2)
        for replica in range(2)
    }
    shards = await open_shards(settings, store, stack)
    query = a_query(docs, count=10)
    assert await answers(shards, 100, query)
    # One leaves as it should, while it is asked.
    _, leaving = members[0, 0]
    closing = asyncio.create_task(leaving.aclose())
    while not closing.done():
        assert await answers(shards, 100, query)
        await asyncio.sleep(0.01)
    await closing
    assert await answers(shards, 100, query)
    # One is cut off without a word.
    hosted, _ = members[1, 1]
    await hosted.server.stop()
    for _ in range(20):
        assert await answers(shards, 100, query)
    # What both shards hold is remembered when nobody holds it any more.
    for key in ((0, 1), (1, 0), (1, 1)):
        await members[key][1].aclose()

    async def nobody_is_left() -> bool:
        return not await answers(shards, 100, query)

    await eventually(nobody_is_left)
    with pytest.raises(WorkerUnavailable):
        await shards.of("docs")[0].search(query, PATIENT_S)
    promised = shards.promised("docs", docs.generation)
    assert sum(number or 0 for number in promised) == 100


async def test_encoders_are_found_and_one_that_leaves_is_not_missed(
    processes: Processes,
) -> None:
    _, first = await processes.encoder(cluster__slot="a")
    settings = processes.settings(encoder__from_cluster=True)
    encoder = await open_encoder(settings, processes.stack)
    own = await open_encoder(processes.settings(), processes.stack)
    assert encoder.space == own.space
    vectors = await encoder.encode(["some text"], Role.QUERY, PATIENT_S)
    assert vectors.tolist() == (await own.encode(["some text"], Role.QUERY, PATIENT_S)).tolist()
    await processes.encoder(cluster__slot="b")
    watch = await open_watch(settings, processes.stack)

    async def both_are_seen() -> bool:
        return len(watch.view.of_role(MemberRole.ENCODER)) == 2

    await eventually(both_are_seen)
    closing = asyncio.create_task(first.aclose())
    while not closing.done():
        await encoder.encode(["another"], Role.QUERY, PATIENT_S)
    await closing


async def test_one_watch_serves_all_that_a_process_opens(processes: Processes) -> None:
    settings = processes.settings()
    one = await open_watch(settings, processes.stack)
    assert await open_watch(settings, processes.stack) is one
    async with AsyncExitStack() as other:
        assert await open_watch(settings, other) is not one


async def test_encoders_of_a_cluster_need_the_name_of_one() -> None:
    settings = load_settings(None, {"encoder.from_cluster": True})
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"cluster\.name is not"):
            await open_encoder(settings, stack)
