"""Open the admin application. It is served beside ingest: see ingest/main.py."""

from __future__ import annotations

import nestvec
from nestvec.adapters.blob_store import open_blobs
from nestvec.admin.app import AdminApp, StoredCatalogue
from nestvec.admin.servicer import ServerFacts
from nestvec.config import Settings
from nestvec.core.codec import VectorDtype
from nestvec.core.ports import Encoder, Shards, VectorStore


def admin_app(
    settings: Settings,
    catalogue: StoredCatalogue,
    encoder: Encoder,
    shards: Shards,
    store: VectorStore,
) -> AdminApp:
    """The application. New collections serve the tiers that the search classes need."""
    tiers = settings.coarse.tiers or tuple(one.coarse_dim for one in settings.classes.values())
    dtype = VectorDtype(settings.store.dtype)
    return AdminApp(catalogue, encoder.space, shards, store, tiers, dtype, open_blobs)


def server_facts(settings: Settings, encoder: Encoder) -> ServerFacts:
    """What DescribeServer tells."""
    classes = tuple(
        {"name": name, **one.model_dump(exclude={"degrade", "share"})}
        for name, one in settings.classes.items()
    )
    return ServerFacts(
        version=nestvec.__version__,
        space=encoder.space,
        classes=classes,
        limits={
            **settings.limits.model_dump(exclude={"max_queries_under_way"}),
            "max_message_bytes": settings.server.max_message_bytes,
        },
    )
