"""Open the replication application. It is served beside ingest: see ingest/main.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from nestvec.config import Settings
from nestvec.core.collection import Collection
from nestvec.core.ports import Encoders, Generations, Shards, VectorStore, WatchedCatalogue
from nestvec.core.regions import RegionMap
from nestvec.core.watermark import Watermark
from nestvec.ingest.tidying import NeededSince
from nestvec.replication.app import MigrationApp
from nestvec.replication.carrying import Carrier
from nestvec.replication.neighbours import Neighbour
from nestvec.replication.prefixes import PrefixCopying, PrefixKind, prefixes_wanted
from nestvec.replication.regional import RegionalApp
from nestvec.replication.replicas import Replica
from nestvec.replication.staleness import SharedStaleness, needed_since_ms, replicated
from nestvec.replication.way import Rooms, Terms, Way
from nestvec.wall_clock import wall_clock_ms


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


def open_carrier(
    store: VectorStore, catalogue: WatchedCatalogue, regions: RegionMap | None = None
) -> Carrier:
    """For those who write and those who search."""
    return Carrier(store, catalogue, regions)


def open_staleness(
    store: VectorStore, regions: RegionMap, stack: AsyncExitStack
) -> SharedStaleness:
    """For those who search; it looks until `stack` closes."""
    staleness = SharedStaleness(store, regions, wall_clock_ms)
    stack.push_async_callback(staleness.close)
    staleness.start()
    return staleness


def deletions_needed(store: VectorStore, regions: RegionMap | None) -> NeededSince | None:
    """For those who forget deletions: since when other regions may need them."""
    if regions is None:
        return None

    async def since(collection: Collection) -> int | None:
        return await needed_since_ms(store, regions, collection.name)

    return since


def open_regional(
    settings: Settings,
    regions: RegionMap | None,
    neighbours: Mapping[str, Neighbour],
    store: VectorStore,
    catalogue: WatchedCatalogue,
    encoders: Encoders,
    stack: AsyncExitStack,
    *,
    adopt: Callable[[Collection], Awaitable[Collection]],
    found: Callable[[Collection, Watermark, float], Awaitable[bool]],
    wrote: Callable[[Collection, Watermark], None],
    copying: PrefixCopying,
) -> RegionalApp:
    """What follows other regions, at work until `stack` closes. regions: None where this deployment
    is none. neighbours: all others of the map, by name. adopt, found, wrote: see way.Rooms and
    Replica. copying: of prefixes.
    """
    rooms = Rooms(store, found, wrote, wall_clock_ms)
    terms = _terms(settings)
    ways = []
    for name in replicated(regions) if regions else ():
        kind = Replica(name, store, catalogue, encoders, adopt)
        ways += [Way(rooms, terms, name, neighbour, kind) for neighbour in neighbours.values()]
    prefixes = prefixes_wanted(regions)
    for (name, home), dim in prefixes.items():
        ways.append(Way(rooms, terms, name, neighbours[home], PrefixKind(copying, home, dim)))
    copying.start(prefixes)
    stack.push_async_callback(copying.close)
    app = RegionalApp(
        regions, neighbours, ways, store, catalogue, terms.max_clock_skew_s, wall_clock_ms
    )
    stack.push_async_callback(app.close)
    app.start()
    return app


def _terms(settings: Settings) -> Terms:
    section = settings.regions
    return Terms(
        here=section.here or "",
        max_clock_skew_s=section.max_clock_skew_s,
        look_s=section.look_s,
        rate=section.rate,
    )
