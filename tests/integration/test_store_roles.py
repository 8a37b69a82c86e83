"""Every process of a cluster under the store's user of its own role, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from nestvec.adapters.opening import open_registry, open_shared_store
from nestvec.adapters.redis_acl import StoreRole, set_user, user_of
from nestvec.client import AsyncNestvecClient, IngestDocument
from nestvec.coarse import main as coarse_main
from nestvec.config import Settings, load_settings
from nestvec.core.errors import StoreUnavailable
from nestvec.core.members import EVERY_COLLECTION, Assignment, Layout, MemberRole
from nestvec.encoder import main as encoder_main
from nestvec.ingest import main as ingest_main
from nestvec.query import main as query_main
from nestvec.rerank import main as rerank_main
from nestvec.serving import Opener, host
from tests.support.long_runs import takes_long
from tests.support.redis_servers import Server
from tests.support.stores import redis_binary

PATIENT_S = 30.0
LAYOUT = Layout("default", 1)


class Cluster:
    """Processes, each with a stack and a user of its own."""

    def __init__(self, server: Server, folder: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self._folder = folder
        self._stack = stack
        for role in StoreRole:
            password = f"{role}'s own password"
            (folder / role).write_text(password)
            line = set_user(role, "nestvec", user_of(role), ">PASSWORD").split()
            server.raw.execute_command(*[f">{password}" if w == ">PASSWORD" else w for w in line])
        # As a server for everybody has it: nobody comes in by the way.
        server.raw.execute_command("ACL", "SETUSER", "default", "resetkeys", "-@all", "+acl")

    def settings(self, role: StoreRole, **more: Any) -> Settings:
        return load_settings(
            None,
            {
                "store.url": self.server.url,
                "store.user": user_of(role),
                "store.password_file": str(self._folder / role),
                "cluster.name": "test",
                "cluster.heartbeat_s": 0.2,
                "server.port": 0,
                "server.drain_s": 0.0,
                "coarse.use_gpu": False,
                **{key.replace("__", "."): value for key, value in more.items()},
            },
        )

    async def start(self, opener: Opener, role: StoreRole, member: MemberRole, **more: Any) -> str:
        own = await self._stack.enter_async_context(AsyncExitStack())
        hosted = await host(self.settings(role, **more), opener, own, member)
        await asyncio.wait_for(hosted.become_ready(), PATIENT_S)
        return hosted.address


@pytest.fixture(params=["valkey", pytest.param("redis", marks=takes_long)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary=redis_binary() if request.param == "redis" else None) as running:
        yield running


@pytest.fixture
async def cluster(server: Server, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        built = Cluster(server, tmp_path, stack)
        operator = built.settings(StoreRole.OPERATOR)
        registry = await open_registry(operator.store, operator.cluster, stack)
        await registry.assign(EVERY_COLLECTION, None, Assignment(LAYOUT))
        yield built


async def test_every_process_does_its_work_under_its_own_user(cluster: Cluster) -> None:
    member = await cluster.start(encoder_main.mounted, StoreRole.MEMBER, MemberRole.ENCODER)
    assert member
    shared = {"encoder__from_cluster": True}
    await cluster.start(coarse_main.mounted, StoreRole.COARSE, MemberRole.COARSE)
    rerank = await cluster.start(rerank_main.mounted, StoreRole.RERANK, MemberRole.RERANK)
    await cluster.start(ingest_main.mounted, StoreRole.INGEST, MemberRole.INGEST, **shared)
    more = {**shared, "rerank__address": rerank}
    front_end = await cluster.start(query_main.mounted, StoreRole.QUERY, MemberRole.QUERY, **more)
    async with AsyncNestvecClient(front_end, timeout_s=PATIENT_S) as client:
        await client.create_collection("docs")
        documents = [IngestDocument(f"d{n}", f"the text of document {n}") for n in range(40)]
        assert (await client.index("docs", documents)).indexed == 40
        for kind in ("autocomplete", "search", "analyst"):
            found = await client.search("docs", "document 7", search_class=kind, k=5)
            assert len(found.hits) == 5
            assert found.coverage.fraction == 1.0
        assert [one.id for one in (await client.get("docs", ["d7"])).documents] == ["d7"]
        await client.delete("docs", ["d7"])
        assert (await client.verify("docs")).clean
        await client.add_tier("docs", 64)
        await client.drop_tier("docs", 64)
        assert (await client.describe("docs")).documents == 39
        await client.drop_collection("docs")
        assert await client.collections() == []
    assert cluster.server.raw.acl_log() == [], "nothing was refused on the way"


async def test_a_process_under_the_user_of_another_role_says_what_it_lacks(
    cluster: Cluster,
) -> None:
    async with AsyncExitStack() as stack:
        wrong = cluster.settings(StoreRole.MEMBER)
        with pytest.raises(StoreUnavailable, match=r"format.*nestvec acl --role query"):
            await open_shared_store(wrong.store, stack, StoreRole.QUERY)
        wrong = cluster.settings(StoreRole.QUERY)
        with pytest.raises(StoreUnavailable, match=r"SMEMBERS.*nestvec acl --role ingest"):
            await open_shared_store(wrong.store, stack, StoreRole.INGEST)
