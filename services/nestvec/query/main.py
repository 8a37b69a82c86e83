"""Serve searching and reading on its own, or open the application for another process."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_shared_store
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse.main import open_shards
from nestvec.config import Settings
from nestvec.core.members import MemberRole
from nestvec.core.ports import Catalogue, Encoder, Reranker, Shards, VectorStore
from nestvec.encoder import servicer as encoder_servicer
from nestvec.encoder.main import open_encoder
from nestvec.fanout.main import open_writers
from nestvec.query import servicer
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.kept import KeptQueries
from nestvec.query.plan import Limits, SearchClass
from nestvec.rerank.main import open_reranker
from nestvec.rpc.forwarding import forwarded
from nestvec.rpc.server import Mounted
from nestvec.serving import run_main
from nestvec.v1 import admin_pb2, ingest_pb2


def search_classes(settings: Settings) -> list[SearchClass]:
    """The configured classes."""
    return [SearchClass(name, **one.model_dump()) for name, one in settings.classes.items()]


def open_documents(settings: Settings, catalogue: Catalogue, store: VectorStore) -> Documents:
    """The reader of documents, with the settings' limits."""
    cache_bytes = settings.store.payload_cache_bytes
    return Documents(catalogue, store, settings.limits.max_ids, cache_bytes)


def query_app(
    settings: Settings,
    catalogue: Catalogue,
    encoder: Encoder,
    shards: Shards,
    reranker: Reranker,
    documents: Documents,
) -> QueryApp:
    """The application, with the settings' classes and limits."""
    limits = Limits(**settings.limits.model_dump(exclude={"max_ids"}))
    kept = KeptQueries(encoder, settings.encoder.query_cache_bytes)
    return QueryApp(catalogue, kept, shards, reranker, documents, search_classes(settings), limits)


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers."""
    store = await open_shared_store(settings.store, stack)
    catalogue = StoredCatalogue(store)
    documents = open_documents(settings, catalogue, store)
    encoder = await open_encoder(settings, stack)
    app = query_app(
        settings,
        catalogue,
        encoder,
        await open_shards(settings, store, stack),
        await open_reranker(settings, store, stack),
        documents,
    )
    cap_s = settings.server.deadline_cap_s
    own = [servicer.mount(app, documents, cap_s)]
    if settings.cluster.name is None:
        return own
    return own + await _front_end(settings, encoder, stack)


async def _front_end(settings: Settings, encoder: Encoder, stack: AsyncExitStack) -> list[Mounted]:
    """In a cluster callers need one address: what others do is passed on to them."""
    writers = await open_writers(settings, stack)
    return [
        forwarded(ingest_pb2.DESCRIPTOR, "IngestService", writers.pick),
        forwarded(admin_pb2.DESCRIPTOR, "AdminService", writers.pick),
        encoder_servicer.mount(encoder, settings.server.deadline_cap_s),
    ]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "searching and reading", MemberRole.QUERY))
