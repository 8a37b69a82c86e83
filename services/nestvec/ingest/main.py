"""Serve writing and the administration of collections on their own.

The two share a process: both change what the shards serve, and neither is asked often.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_shared_store
from nestvec.adapters.redis_acl import StoreRole
from nestvec.admin import servicer as admin_servicer
from nestvec.admin.app import StoredCatalogue
from nestvec.admin.main import admin_app, open_store_sizes, server_facts
from nestvec.coarse.main import open_shards
from nestvec.config import Settings
from nestvec.core.members import MemberRole
from nestvec.core.ports import Carrying, Catalogue, Encoders, Shards, VectorStore
from nestvec.encoder.main import open_encoders
from nestvec.ingest import servicer
from nestvec.ingest.app import IngestApp
from nestvec.ingest.options import IngestOptions
from nestvec.ingest.tidying import NeededSince
from nestvec.regions.main import open_others, region_map
from nestvec.replication import servicer as migration_servicer
from nestvec.replication.main import (
    deletions_needed,
    open_carrier,
    open_migrations,
    open_regional,
)
from nestvec.replication.prefixes import PrefixCopying
from nestvec.rpc.server import Mounted
from nestvec.serving import run_main


def ingest_app(
    settings: Settings,
    catalogue: Catalogue,
    encoders: Encoders,
    shards: Shards,
    store: VectorStore,
    stack: AsyncExitStack,
    carrying: Carrying | None = None,
    needed_since: NeededSince | None = None,
) -> IngestApp:
    """The application; `stack` lets it finish what it began. carrying, needed_since: see
    IngestApp.
    """
    options = IngestOptions(
        region=settings.region_number,
        max_lag_documents=settings.ingest.max_lag_documents,
        tombstone_hours=settings.ingest.tombstone_hours,
        log_entries=settings.ingest.log_entries,
    )
    app = IngestApp(
        catalogue,
        encoders,
        shards,
        store,
        settings.limits.max_text_bytes,
        options,
        carrying=carrying,
        needed_since=needed_since,
    )
    stack.push_async_callback(app.close)
    app.start()
    return app


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers."""
    store = await open_shared_store(settings.store, stack, StoreRole.INGEST)
    encoders = await open_encoders(settings, stack)
    shards = await open_shards(settings, store, stack)
    catalogue = StoredCatalogue(store)
    admin = admin_app(settings, catalogue, encoders, shards, store)
    if settings.cluster.name is None:
        # In a cluster workers open what is assigned to them, and others may be restoring.
        await admin.open_all()
    open_store_sizes(settings, store, stack)
    catalogue.tell(encoders.expect)
    await catalogue.refresh()
    catalogue.start()
    stack.push_async_callback(catalogue.close)
    regions = region_map(settings)
    others = open_others(settings, regions, stack)
    carrying = open_carrier(store, catalogue, regions)
    needed = deletions_needed(store, regions)
    ingest = ingest_app(settings, catalogue, encoders, shards, store, stack, carrying, needed)
    migrations = open_migrations(
        store, catalogue, admin, shards, encoders, stack, wrote=ingest.copied
    )
    regional = open_regional(
        settings,
        regions,
        others,
        store,
        catalogue,
        encoders,
        stack,
        adopt=admin.adopt,
        found=ingest.found,
        wrote=ingest.copied,
        copying=PrefixCopying(store, catalogue, shards),
    )
    return [
        servicer.mount(ingest),
        admin_servicer.mount(admin, server_facts(settings, encoders)),
        migration_servicer.mount(migrations),
        migration_servicer.mount_regional(regional),
    ]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "writing and administration", MemberRole.INGEST))
