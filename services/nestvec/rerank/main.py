"""Serve the reranker on its own, or open it for another application."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_shared_store
from nestvec.adapters.redis_acl import StoreRole
from nestvec.admin.app import StoredCatalogue
from nestvec.config import Settings
from nestvec.core.members import MemberRole
from nestvec.core.ports import Reranker, VectorStore
from nestvec.rerank import servicer
from nestvec.rerank.app import RerankApp
from nestvec.rpc.clients import RemoteReranker
from nestvec.rpc.server import Mounted
from nestvec.serving import open_channel, run_main


async def open_reranker(settings: Settings, store: VectorStore, stack: AsyncExitStack) -> Reranker:
    """In this process, or behind gRPC where the settings give its address."""
    if settings.rerank.address:
        return RemoteReranker(await open_channel(settings, settings.rerank.address, stack))
    return RerankApp(store)


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers."""
    store = await open_shared_store(settings.store, stack, StoreRole.RERANK)
    catalogue = StoredCatalogue(store)
    return [servicer.mount(RerankApp(store), catalogue, settings.server.deadline_cap_s)]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "the reranker", MemberRole.RERANK))
