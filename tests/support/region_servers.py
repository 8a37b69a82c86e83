"""Regions over rooms in memory, answering on real sockets; and endpoints that answer anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from nestvec.core.ports import Staleness
from nestvec.core.regions import RegionMap, RegionPlace, Shared, Sharing
from nestvec.core.round_trip import RoundTrip
from nestvec.query.for_regions import LocalQueries
from nestvec.regions import servicer
from nestvec.regions.app import RegionApp
from nestvec.regions.log import RegionLog, RowReader
from nestvec.rpc.clients import RECONNECT_MS, internal_options
from nestvec.rpc.region_clients import RemoteRegion, RemoteSource
from nestvec.rpc.server import Server, ServerLimits
from nestvec.v1 import region_pb2, region_pb2_grpc
from tests.support.rooms import Rooms

MESSAGE_BYTES = 16 << 20


def a_map(
    here: str = "us",
    names: Sequence[str] = ("eu", "us"),
    sharing: Sharing = Sharing.PARTITIONED,
    collections: Sequence[str] = ("docs",),
) -> RegionMap:
    """Nobody calls by these endpoints: tests connect themselves. Numbers are in order, from 1."""
    places = [RegionPlace(one, number, (f"{one}:1",)) for number, one in enumerate(names, 1)]
    places.sort(key=lambda one: one.name != here)
    return RegionMap(here, tuple(places), {name: Shared(sharing) for name in collections})


def region_over(
    rooms: Rooms,
    regions: RegionMap | None = None,
    staleness: Staleness | None = None,
) -> RegionApp:
    """These rooms as a region."""
    return RegionApp(
        regions or a_map(),
        rooms.catalogue,
        LocalQueries(rooms.query),
        rooms.reranker,
        rooms.documents,
        rooms.store,
        staleness,
    )


@asynccontextmanager
async def listening(
    rooms: Rooms, app: RegionApp | None = None, rows: RowReader | None = None
) -> AsyncIterator[str]:
    """A region on a socket of its own. Gives its address."""
    app = app or region_over(rooms)
    mounted = servicer.mount(app, RegionLog(rooms.store, rows), rooms.catalogue, 10.0)
    server = Server([mounted], ServerLimits(MESSAGE_BYTES, drain_s=0.0))
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop()


@dataclass(frozen=True, slots=True)
class Connected:
    """One endpoint, as a region calls it."""

    region: RemoteRegion
    source: RemoteSource
    stub: Any


@asynccontextmanager
async def connected(
    *addresses: str,
    name: str = "us",
    caller: str = "eu",
    way: RoundTrip | None = None,
    prefix_dim: int = 0,
) -> AsyncIterator[Connected]:
    """The region by its first endpoint, its log by all of them."""
    options = [*internal_options(MESSAGE_BYTES), *RECONNECT_MS]
    channels = [grpc.aio.insecure_channel(one, options=options) for one in addresses]
    try:
        yield Connected(
            RemoteRegion(channels[0], name, caller, way),
            RemoteSource(channels, name, caller, prefix_dim),
            region_pb2_grpc.RegionServiceStub(channels[0]),
        )
    finally:
        for channel in channels:
            await channel.close()


async def drained(call: Any) -> None:
    """Wait for the end of a call, whatever kind of call it is."""
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


@asynccontextmanager
async def pretending(
    search: Callable[[Any], Any] | None = None,
    describe: Callable[[Any], Any] | None = None,
) -> AsyncIterator[str]:
    """An endpoint that answers what a test says: a message, or bytes that need be none. Gives its
    address.
    """
    described = region_pb2.DescribeRegionResponse(region="us", number=2)
    behaviours = {
        "DescribeRegion": (describe or (lambda _: described), region_pb2.DescribeRegionRequest),
        "SearchRegion": (
            search or (lambda _: region_pb2.SearchRegionResponse(region="us")),
            region_pb2.SearchRegionRequest,
        ),
    }

    def handler(behaviour: Callable[[Any], Any], request: Any) -> Any:
        async def answer(asked: Any, _: Any) -> bytes:
            answered = behaviour(asked)
            return answered if isinstance(answered, bytes) else answered.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer, request.FromString)

    server = grpc.aio.server()
    handlers = {name: handler(*one) for name, one in behaviours.items()}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("nestvec.v1.RegionService", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
