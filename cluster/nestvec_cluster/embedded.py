"""The embedded engine: every application in one process, one public port, a store as a child.

The applications are those that a cluster runs; only who mounts them differs. Any of encoder,
coarse shards and reranker may instead stand behind gRPC: the settings name their addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import nestvec
from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.redis_pool import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.admin import servicer as admin_servicer
from nestvec.admin.app import AdminApp, StoredCatalogue
from nestvec.admin.servicer import ServerFacts
from nestvec.coarse.app import CoarseApp
from nestvec.config import Settings
from nestvec.core.codec import VectorDtype
from nestvec.core.ports import CoarseSearcher, Encoder, Reranker, VectorStore
from nestvec.encoder import servicer as encoder_servicer
from nestvec.ingest import servicer as ingest_servicer
from nestvec.ingest.app import IngestApp
from nestvec.query import servicer as query_servicer
from nestvec.query.app import QueryApp
from nestvec.query.plan import Limits, SearchClass
from nestvec.rerank.app import RerankApp
from nestvec.rpc.clients import RemoteCoarse, RemoteEncoder, RemoteReranker, channel_to
from nestvec.rpc.server import Server, ServerLimits
from nestvec.telemetry.logs import logger

_log = logger()


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs, for those in the same process."""

    settings: Settings
    address: str
    server: Server
    query: QueryApp
    admin: AdminApp
    ingest: IngestApp
    encoder: Encoder
    shards: tuple[CoarseSearcher, ...]
    reranker: Reranker
    store: VectorStore


@asynccontextmanager
async def running_engine(settings: Settings) -> AsyncIterator[Engine]:
    """Start everything, listen, and stop in reverse order. Raises ConfigError before listening."""
    async with AsyncExitStack() as stack:
        store = await _store(settings, stack)
        catalogue = StoredCatalogue(store)
        encoder = await _encoder(settings, stack)
        shards = await _shards(settings, store, stack)
        reranker: Reranker = RerankApp(store)
        if settings.rerank.address:
            reranker = RemoteReranker(await _channel(settings, settings.rerank.address, stack))
        classes = search_classes(settings)
        limits = Limits(**settings.limits.model_dump())
        query = QueryApp(catalogue, encoder, shards, reranker, store, classes, limits)
        tiers = settings.coarse.tiers or tuple(one.coarse_dim for one in classes)
        admin = AdminApp(
            catalogue, encoder.space, shards, store, tiers, VectorDtype(settings.store.dtype)
        )
        ingest = IngestApp(catalogue, encoder, shards, store, limits.max_text_bytes)
        stack.push_async_callback(ingest.close)
        for collection in await admin.open_all():
            if collection.space.fingerprint != encoder.space.fingerprint:
                _log.warning(
                    "collection.other_space",
                    collection=collection.name,
                    space=collection.space.fingerprint,
                    model=collection.space.model,
                    encoder=encoder.space.fingerprint,
                    encoder_model=encoder.space.model,
                    hint="texts are refused for it; serve the model it was made with",
                )
        cap_s = settings.server.deadline_cap_s
        server = Server(
            [
                query_servicer.mount(query, cap_s),
                ingest_servicer.mount(ingest),
                admin_servicer.mount(admin, _facts(settings, encoder, classes)),
                encoder_servicer.mount(encoder, cap_s),
            ],
            ServerLimits(
                settings.server.max_message_bytes,
                settings.server.max_concurrent_calls,
                settings.server.drain_s,
            ),
        )
        port = await server.start(settings.server.host, settings.server.port)
        stack.push_async_callback(server.stop)
        address = f"{settings.server.host}:{port}"
        yield Engine(
            settings,
            address,
            server,
            query,
            admin,
            ingest,
            encoder,
            tuple(shards),
            reranker,
            store,
        )


def search_classes(settings: Settings) -> list[SearchClass]:
    """The configured classes."""
    return [SearchClass(name, **one.model_dump()) for name, one in settings.classes.items()]


async def _store(settings: Settings, stack: AsyncExitStack) -> VectorStore:
    section = settings.store
    url = section.url
    if url is None:
        embedded = EmbeddedValkey(
            EmbeddedSettings(
                data_dir=section.data_dir,
                appendfsync=section.fsync,
                maxmemory_bytes=section.max_memory_bytes,
            )
        )
        # In this thread: the child is tied to the life of the thread that started it.
        embedded.start()
        stack.push_async_callback(asyncio.to_thread, embedded.stop)
        url = embedded.url
    store = RedisStore(
        RedisSettings(
            url=url,
            prefix=section.prefix,
            max_connections=section.max_connections,
            command_timeout_s=section.timeout_s,
        )
    )
    stack.push_async_callback(store.close)
    await store.ping()
    await store.finish_drops()
    return store


async def _encoder(settings: Settings, stack: AsyncExitStack) -> Encoder:
    section = settings.encoder
    if section.address:
        return await RemoteEncoder.connect(await _channel(settings, section.address, stack))
    from nestvec.encoder.main import local_encoder

    encoder = local_encoder(section, settings.limits)
    stack.callback(encoder.close)
    return encoder


async def _shards(
    settings: Settings, store: VectorStore, stack: AsyncExitStack
) -> list[CoarseSearcher]:
    section = settings.coarse
    if section.addresses:
        return [
            RemoteCoarse(await _channel(settings, address, stack), f"shard {number}")
            for number, address in enumerate(section.addresses)
        ]
    factory = FaissFactory(section.threads, section.exact_rows, section.use_gpu)
    shards: list[CoarseSearcher] = []
    for number in range(section.shards):
        shard = CoarseApp(store, factory, number, section.shards, section.threads, section.waiting)
        stack.push_async_callback(shard.close)
        shards.append(shard)
    return shards


async def _channel(settings: Settings, address: str, stack: AsyncExitStack):  # type: ignore[no-untyped-def]
    channel = channel_to(address, settings.server.max_message_bytes)
    stack.push_async_callback(channel.close)
    return channel


def _facts(settings: Settings, encoder: Encoder, classes: list[SearchClass]) -> ServerFacts:
    return ServerFacts(
        version=nestvec.__version__,
        space=encoder.space,
        classes=tuple(
            {
                "name": one.name,
                "coarse_dim": one.coarse_dim,
                "k": one.k,
                "candidates": one.candidates,
                "rerank": one.rerank,
                "min_coverage": one.min_coverage,
            }
            for one in classes
        ),
        limits={
            **settings.limits.model_dump(),
            "max_message_bytes": settings.server.max_message_bytes,
        },
    )
