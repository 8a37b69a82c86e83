"""Serve one shard of the coarse tier on its own, or open shards for another application."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from nestvec.adapters.blob_store import open_blobs
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.opening import open_registry, open_shared_store
from nestvec.adapters.redis_acl import StoreRole
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse import servicer
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.holdings import Holdings, saves
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.config import Settings
from nestvec.core.errors import ConfigError
from nestvec.core.members import Layout, MemberRole, Place
from nestvec.core.ports import FixedShards, Shards, VectorStore
from nestvec.fanout.main import open_cluster_shards
from nestvec.membership.lease import Lease
from nestvec.membership.measures import Load
from nestvec.membership.watch import Watch
from nestvec.rpc.clients import RemoteCoarse
from nestvec.serving import Offer, member_of, open_channel, run_main


async def open_shards(settings: Settings, store: VectorStore, stack: AsyncExitStack) -> Shards:
    """All shards: those of the cluster where the settings name one; else behind gRPC where they
    give addresses; else in this process.
    """
    if settings.cluster.name is not None:
        return await open_cluster_shards(settings, stack)
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
    saves: Callable[[], bool] = lambda: True,
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
        keep_ids=section.keep_ids,
        saves=saves,
    )
    stack.push_async_callback(shard.close)
    return shard


async def mounted(settings: Settings, stack: AsyncExitStack) -> Offer:
    """What a process of this application offers: shard `coarse.shard` of `coarse.shards`."""
    section = settings.coarse
    if not section.shard < section.shards:
        raise ConfigError(
            f"coarse.shard is {section.shard}, expected 0 to {section.shards - 1}: coarse.shards "
            f"is {section.shards}"
        )
    store = await open_shared_store(settings.store, stack, StoreRole.COARSE)
    catalogue = StoredCatalogue(store, copies=True)
    if settings.cluster.name is not None:
        return await _in_cluster(settings, store, catalogue, stack)
    factory = FaissFactory(section.threads, section.exact_rows, section.use_gpu)
    shard = local_shard(settings, store, factory, section.shard, stack)
    # One that is being restored is opened by whoever restores it, when it is complete.
    for collection in await catalogue.generations():
        await shard.open(collection)
    return Offer([servicer.mount(shard, catalogue, settings.server.deadline_cap_s)])


async def _in_cluster(
    settings: Settings, store: VectorStore, catalogue: StoredCatalogue, stack: AsyncExitStack
) -> Offer:
    """One replica of a shard: it opens what is assigned to it once it listens; see Holdings."""
    section, heartbeat_s = settings.coarse, settings.cluster.heartbeat_s
    place = Place(Layout(section.pool, section.shards), section.shard)
    member = member_of(
        settings,
        MemberRole.COARSE,
        place.worker(section.replica),
        place=place,
    )
    registry = await open_registry(settings.store, settings.cluster, stack, StoreRole.COARSE)
    watch = Watch(registry, heartbeat_s)
    await watch.start()
    stack.push_async_callback(watch.close)
    factory = FaissFactory(section.threads, section.exact_rows, section.use_gpu)
    shard = local_shard(
        settings,
        store,
        factory,
        section.shard,
        stack,
        saves=lambda: saves(watch.view, place, member.name),
    )
    load = Load(section.threads)
    holdings = Holdings(shard, catalogue.generations, watch, place, heartbeat_s, load)
    holdings.start()
    stack.push_async_callback(holdings.close)
    lease = Lease(registry, member, heartbeat_s, holdings.facts, holdings.until_ready)
    cap_s = settings.server.deadline_cap_s
    return Offer([servicer.mount(shard, catalogue, cap_s, lease.require, load)], lease=lease)


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "one shard of the coarse tier", MemberRole.COARSE))
