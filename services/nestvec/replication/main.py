"""Open the replication application. It is served beside ingest: see ingest/main.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from nestvec.core.collection import Collection
from nestvec.core.ports import Encoders, Generations, Shards, VectorStore, WatchedCatalogue
from nestvec.core.watermark import Watermark
from nestvec.replication.app import MigrationApp
from nestvec.replication.carrying import Carrier


def open_migrations(
    store: VectorStore,
    catalogue: WatchedCatalogue,
    generations: Generations,
    shards: Shards,
    encoders: Encoders,
    stack: AsyncExitStack,
    wrote: Callable[[Collection, Watermark], None],
) -> MigrationApp:
    """The application, at work until `stack` closes. wrote: see MigrationApp."""
    app = MigrationApp(store, catalogue, generations, shards, encoders, wrote=wrote)
    stack.push_async_callback(app.close)
    app.start()
    return app


def open_carrier(store: VectorStore, catalogue: WatchedCatalogue) -> Carrier:
    """For those who write and those who search."""
    return Carrier(store, catalogue)
