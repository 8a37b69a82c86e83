"""Serve one shard of the coarse tier on its own, or open shards for another application."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.blob_store import open_blobs
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.opening import open_shared_store
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse import servicer
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.config import Settings
from nestvec.core.ports import FixedShards, Shards, VectorStore
from nestvec.rpc.clients import RemoteCoarse
from nestvec.rpc.server import Mounted
from nestvec.serving import open_channel, run_main


async def open_shards(settings: Settings, store: VectorStore, stack: AsyncExitStack) -> Shards:
    """All shards: in this process, or behind gRPC where the settings give their addresses."""
    section = settings.coarse
    if section.addresses:
        return FixedShards(
            [
                RemoteCoarse(await open_channel(settings, address, stack), f"shard {number}")
                for number, address in enumerate(section.addresses)
            ]
        )
    factory = FaissFactory(section.threads, section.exact_rows, section.use_gpu)
    return FixedShards(
        [local_shard(settings, store, factory, number, stack) for number in range(section.shards)]
    )


def local_shard(
    settings: Settings,
    store: VectorStore,
    factory: FaissFactory,
    number: int,
    stack: AsyncExitStack,
) -> CoarseApp:
    """Shard `number` of `settings.coarse.shards`, in this process."""
    section = settings.coarse
    snapshots = None
    if settings.snapshots is not None:
        blobs = open_blobs(settings.snapshots)
        snapshots = ShardSnapshots(blobs, factory, number, section.shards)
    shard = CoarseApp(
        store,
        factory,
        number,
        section.shards,
        section.threads,
        section.waiting,
        snapshots=snapshots,
        snapshot_every_s=section.snapshot_every_s,
    )
    stack.push_async_callback(shard.close)
    return shard


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers: shard `coarse.shard` of `coarse.shards`."""
    section = settings.coarse
    store = await open_shared_store(settings.store, stack)
    factory = FaissFactory(section.threads, section.exact_rows, section.use_gpu)
    shard = local_shard(settings, store, factory, section.shard, stack)
    catalogue = StoredCatalogue(store)
    for collection in await catalogue.refresh():
        # One that is being restored is opened by whoever restores it, when it is complete.
        if not collection.restoring:
            await shard.open(collection)
    return [servicer.mount(shard, catalogue, settings.server.deadline_cap_s)]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "one shard of the coarse tier"))
