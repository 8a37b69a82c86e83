"""Open what one region does for the others, and the others for this one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import grpc

from nestvec.config import Settings
from nestvec.core.ports import Catalogue, Reranker, Staleness, VectorStore
from nestvec.core.regions import RegionMap, RegionPlace, Shared, Sharing
from nestvec.core.round_trip import RoundTrip
from nestvec.fanout.regions import WatchedRegion
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.for_regions import LocalQueries
from nestvec.regions import servicer
from nestvec.regions.app import RegionApp
from nestvec.regions.log import RegionLog
from nestvec.regions.row_packing import RowPacker
from nestvec.rpc.clients import RECONNECT_MS, channel_to
from nestvec.rpc.region_clients import RemoteRegion, RemoteSource
from nestvec.rpc.securing import channel_security
from nestvec.rpc.server import Mounted

# A connection that was cut without a word is found out: pings no closer than servers allow.
_KEEPALIVE_MS = (
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

Neighbours = dict[str, WatchedRegion[RemoteSource]]


def region_map(settings: Settings) -> RegionMap | None:
    """What the settings say of the regions; None for a deployment that is none."""
    section = settings.regions
    if section.here is None:
        return None
    places = tuple(
        RegionPlace(one.name, one.number, one.endpoints, one.rtt_ms / 1e3) for one in section.map
    )
    collections = {
        name: Shared(Sharing(one.mode), one.prefixes_of, one.prefix_dim)
        for name, one in section.collections.items()
    }
    return RegionMap(section.here, places, collections)


def open_others(settings: Settings, regions: RegionMap | None, stack: AsyncExitStack) -> Neighbours:
    """Every other region of the map by name, the nearest first, watched until `stack` closes."""
    if regions is None:
        return {}
    found = {place.name: _other(settings, regions, place, stack) for place in regions.others}
    for one in found.values():
        one.start()
        stack.push_async_callback(one.close)
    return found


def _other(
    settings: Settings, regions: RegionMap, place: RegionPlace, stack: AsyncExitStack
) -> WatchedRegion[RemoteSource]:
    way = RoundTrip(place.rtt_s)
    peers = [
        RemoteRegion(_channel(settings, address, place.name, stack), place.name, regions.here, way)
        for address in place.endpoints
    ]
    # Apart from those that queries take: a copier fills its connection.
    channels = [_channel(settings, address, place.name, stack) for address in place.endpoints]
    source = partial(RemoteSource, channels, place.name, regions.here)
    return WatchedRegion(place, peers, way, source)


def _channel(
    settings: Settings, address: str, region: str, stack: AsyncExitStack
) -> grpc.aio.Channel:
    # With TLS, one of another region than was meant is not spoken to.
    security = channel_security(settings, region)
    most = settings.server.max_message_bytes
    channel = channel_to(address, most, security, (*RECONNECT_MS, *_KEEPALIVE_MS))
    stack.push_async_callback(channel.close)
    return channel


def region_room(
    settings: Settings,
    regions: RegionMap | None,
    catalogue: Catalogue,
    query: QueryApp,
    reranker: Reranker,
    documents: Documents,
    store: VectorStore,
    stack: AsyncExitStack,
    staleness: Staleness | None = None,
) -> list[Mounted]:
    """What a server offers other regions, until `stack` closes; nothing where the deployment is no
    region.
    """
    if regions is None:
        return []
    app = RegionApp(
        regions,
        catalogue,
        LocalQueries(query),
        reranker,
        documents,
        store,
        staleness,
        settings.limits.max_candidates,
        settings.limits.max_ids,
    )
    packer = RowPacker(store)
    stack.push_async_callback(asyncio.to_thread, packer.close)
    log = RegionLog(store, packer.read)
    return [servicer.mount(app, log, catalogue, settings.server.deadline_cap_s)]
