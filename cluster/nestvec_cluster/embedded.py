"""The embedded engine: every application in one process, one public port, a store as a child.

The applications are those that a cluster runs; only who mounts them differs. Any of encoder,
coarse shards and reranker may instead stand behind gRPC: the settings give their addresses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from nestvec.adapters.opening import open_store
from nestvec.admin import servicer as admin_servicer
from nestvec.admin.app import AdminApp, StoredCatalogue
from nestvec.admin.main import admin_app, open_store_sizes, server_facts
from nestvec.coarse.main import open_shards
from nestvec.config import Settings
from nestvec.core.ports import Encoders, Reranker, Shards, VectorStore
from nestvec.cross.main import open_cross_encoder
from nestvec.encoder import servicer as encoder_servicer
from nestvec.encoder.main import open_encoders
from nestvec.ingest import servicer as ingest_servicer
from nestvec.ingest.app import IngestApp
from nestvec.ingest.main import ingest_app
from nestvec.quality import servicer as quality_servicer
from nestvec.quality.live import LiveRecall
from nestvec.quality.main import open_live_recall
from nestvec.query import servicer as query_servicer
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.main import (
    open_documents,
    open_prefixes,
    open_shadow,
    other_regions,
    query_app,
)
from nestvec.regions.main import Neighbours, open_others, region_map, region_room
from nestvec.replication import servicer as migration_servicer
from nestvec.replication.app import MigrationApp
from nestvec.replication.main import (
    deletions_needed,
    open_carrier,
    open_migrations,
    open_regional,
    open_staleness,
)
from nestvec.replication.prefixes import PrefixCopying
from nestvec.replication.regional import RegionalApp
from nestvec.rerank.main import open_reranker
from nestvec.rpc.server import Mounted
from nestvec.serving import listen, trace


@dataclass(frozen=True, slots=True)
class Applications:
    """Everything that one process mounts, for those in the same process."""

    settings: Settings
    query: QueryApp
    documents: Documents
    admin: AdminApp
    ingest: IngestApp
    encoders: Encoders
    shards: Shards
    reranker: Reranker
    store: VectorStore
    live: LiveRecall | None
    migrations: MigrationApp
    regional: RegionalApp
    others: Neighbours
    region_room: list[Mounted]

    def mounted(self) -> list[Mounted]:
        """The public services, and the encoder for clients that bring their own vectors."""
        cap_s = self.settings.server.deadline_cap_s
        return [
            query_servicer.mount(self.query, self.documents, cap_s),
            quality_servicer.mount(self.live),
            ingest_servicer.mount(self.ingest),
            admin_servicer.mount(self.admin, server_facts(self.settings, self.encoders)),
            migration_servicer.mount(self.migrations),
            migration_servicer.mount_regional(self.regional),
            encoder_servicer.mount(self.encoders, cap_s),
            *self.region_room,
        ]


@dataclass(frozen=True, slots=True)
class Engine:
    """A listening engine. address: host:port."""

    address: str
    applications: Applications


async def open_applications(settings: Settings, stack: AsyncExitStack) -> Applications:
    """Open every room and every collection in the store; `stack` closes them in reverse order."""
    store = await open_store(settings.store, stack)
    catalogue = StoredCatalogue(store)
    encoders = await open_encoders(settings, stack)
    shards = await open_shards(settings, store, stack)
    reranker = await open_reranker(settings, store, stack)
    cross_encoder = await open_cross_encoder(settings, stack)
    admin = admin_app(settings, catalogue, encoders, shards, store)
    await admin.open_all()
    open_store_sizes(settings, store, stack)
    catalogue.tell(encoders.expect)
    await catalogue.refresh()
    # What is under way is taken up again once all of it is open.
    regions = region_map(settings)
    others = open_others(settings, regions, stack)
    staleness = None if regions is None else open_staleness(store, regions, stack)
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
    documents = open_documents(settings, catalogue, store)
    live = open_live_recall(settings, store, shards, stack)
    prefixes = open_prefixes(settings, regions, others, staleness, catalogue, shards, documents)
    query = query_app(
        settings,
        catalogue,
        encoders,
        shards,
        reranker,
        documents,
        cross_encoder,
        live,
        carrying,
        open_shadow(catalogue, store, stack),
        other_regions(settings, regions, others, staleness, prefixes),
    )
    applications = Applications(
        settings=settings,
        query=query,
        documents=documents,
        admin=admin,
        ingest=ingest,
        encoders=encoders,
        shards=shards,
        reranker=reranker,
        store=store,
        live=live,
        migrations=migrations,
        regional=regional,
        others=others,
        region_room=region_room(
            settings, regions, catalogue, query, reranker, documents, store, stack, staleness
        ),
    )
    catalogue.start()
    stack.push_async_callback(catalogue.close)
    return applications


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """For `serving.run`: the whole engine in one process."""
    return (await open_applications(settings, stack)).mounted()


@asynccontextmanager
async def running_engine(settings: Settings) -> AsyncIterator[Engine]:
    """Start everything, listen, and stop in reverse order. Raises ConfigError before listening."""
    async with AsyncExitStack() as stack:
        trace(settings, stack)
        applications = await open_applications(settings, stack)
        server = await listen(settings, applications.mounted(), stack)
        yield Engine(f"{settings.server.host}:{server.port}", applications)
