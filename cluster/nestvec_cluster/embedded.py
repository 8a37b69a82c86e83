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
from nestvec.admin.main import admin_app, server_facts
from nestvec.coarse.main import open_shards
from nestvec.config import Settings
from nestvec.core.ports import Encoder, Reranker, Shards, VectorStore
from nestvec.encoder import servicer as encoder_servicer
from nestvec.encoder.main import open_encoder
from nestvec.ingest import servicer as ingest_servicer
from nestvec.ingest.app import IngestApp
from nestvec.ingest.main import ingest_app
from nestvec.query import servicer as query_servicer
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.main import open_documents, query_app
from nestvec.rerank.main import open_reranker
from nestvec.rpc.server import Mounted
from nestvec.serving import listen
from nestvec.telemetry.logs import logger

_log = logger()


@dataclass(frozen=True, slots=True)
class Applications:
    """Everything that one process mounts, for those in the same process."""

    settings: Settings
    query: QueryApp
    documents: Documents
    admin: AdminApp
    ingest: IngestApp
    encoder: Encoder
    shards: Shards
    reranker: Reranker
    store: VectorStore

    def mounted(self) -> list[Mounted]:
        """The public services, and the encoder for clients that bring their own vectors."""
        cap_s = self.settings.server.deadline_cap_s
        return [
            query_servicer.mount(self.query, self.documents, cap_s),
            ingest_servicer.mount(self.ingest),
            admin_servicer.mount(self.admin, server_facts(self.settings, self.encoder)),
            encoder_servicer.mount(self.encoder, cap_s),
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
    encoder = await open_encoder(settings, stack)
    shards = await open_shards(settings, store, stack)
    reranker = await open_reranker(settings, store, stack)
    admin = admin_app(settings, catalogue, encoder, shards, store)
    documents = open_documents(settings, catalogue, store)
    applications = Applications(
        settings=settings,
        query=query_app(settings, catalogue, encoder, shards, reranker, documents),
        documents=documents,
        admin=admin,
        ingest=ingest_app(settings, catalogue, encoder, shards, store, stack),
        encoder=encoder,
        shards=shards,
        reranker=reranker,
        store=store,
    )
    for collection in await admin.open_all():
        if collection.space.fingerprint != encoder.space.fingerprint:
            _log.warning(
                "collection.other_space",
                collection=collection.name,
                collection_space=collection.space.fingerprint,
                collection_model=collection.space.model,
                encoder_space=encoder.space.fingerprint,
                encoder_model=encoder.space.model,
                hint="texts are refused for it: serve the model that it was made with",
            )
    return applications


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """For `serving.run`: the whole engine in one process."""
    return (await open_applications(settings, stack)).mounted()


@asynccontextmanager
async def running_engine(settings: Settings) -> AsyncIterator[Engine]:
    """Start everything, listen, and stop in reverse order. Raises ConfigError before listening."""
    async with AsyncExitStack() as stack:
        applications = await open_applications(settings, stack)
        server = await listen(settings, applications.mounted(), stack)
        yield Engine(f"{settings.server.host}:{server.port}", applications)
