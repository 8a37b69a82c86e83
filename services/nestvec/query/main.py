"""Serve searching and reading on its own, or open the application for another process."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_shared_store
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse.main import open_shards
from nestvec.config import Settings
from nestvec.core.ports import Catalogue, Encoder, Reranker, Shards, VectorStore
from nestvec.encoder.main import open_encoder
from nestvec.query import servicer
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.kept import KeptQueries
from nestvec.query.plan import Limits, SearchClass
from nestvec.rerank.main import open_reranker
from nestvec.rpc.server import Mounted
from nestvec.serving import run_main


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
    app = query_app(
        settings,
        catalogue,
        await open_encoder(settings, stack),
        await open_shards(settings, store, stack),
        await open_reranker(settings, store, stack),
        documents,
    )
    return [servicer.mount(app, documents, settings.server.deadline_cap_s)]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "searching and reading"))
