"""Open the admin application. It is served beside ingest: see ingest/main.py."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import nestvec
from nestvec.adapters.blob_store import open_blobs
from nestvec.admin.app import AdminApp, StoredCatalogue
from nestvec.admin.servicer import ServerFacts
from nestvec.admin.store_sizes import StoreSizes
from nestvec.config import Settings
from nestvec.core.codec import VectorDtype
from nestvec.core.ports import Encoders, Shards, VectorStore
from nestvec.core.regions import RegionPolicy
from nestvec.rpc.region_outcome_wire import policy_to_wire


def admin_app(
    settings: Settings,
    catalogue: StoredCatalogue,
    encoders: Encoders,
    shards: Shards,
    store: VectorStore,
) -> AdminApp:
    """The application. New collections serve the tiers that the search classes need."""
    tiers = settings.coarse.tiers or tuple(one.coarse_dim for one in settings.classes.values())
    dtype = VectorDtype(settings.store.dtype)
    return AdminApp(catalogue, encoders, shards, store, tiers, dtype, open_blobs)


def open_store_sizes(settings: Settings, store: VectorStore, stack: AsyncExitStack) -> None:
    """Measure what collections cost in the store, where anybody may ask for it; `stack` ends it."""
    if settings.server.metrics_port is None:
        return
    sizes = StoreSizes(store)
    stack.push_async_callback(sizes.close)
    sizes.start()


def server_facts(settings: Settings, encoders: Encoders) -> ServerFacts:
    """What DescribeServer tells."""
    untold = {"degrade", "share", "certified"}
    classes = tuple(
        {
            "name": name,
            **one.model_dump(exclude=untold),
            "regions": policy_to_wire(RegionPolicy(one.regions)),
        }
        for name, one in settings.classes.items()
    )
    section = settings.cross_encoder
    return ServerFacts(
        version=nestvec.__version__,
        encoders=encoders,
        classes=classes,
        limits={
            **settings.limits.model_dump(exclude={"max_queries_under_way"}),
            "max_message_bytes": settings.server.max_message_bytes,
        },
        # The process that tells need not be the one that has it: by its settings, without folders.
        cross_encoder=Path(section.model).name if section.model else section.address or "",
    )
