"""Regions in one process, each with rooms and a store of its own, that copy from each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from nestvec.adapters.memory_store import MemoryStore
from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_from_bytes
from nestvec.core.errors import NotFound, WorkerUnavailable
from nestvec.core.placement import split_id
from nestvec.core.ports import FixedShards, LogBatch, StoredDocument, StoredVersion
from nestvec.core.regions import HeldCollection, RegionDescription, RegionMap, Sharing
from nestvec.encoders import FixedEncoders
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Ack, Item, Outcome
from nestvec.ingest.options import IngestOptions
from nestvec.replication.carrying import Carrier
from nestvec.replication.regional import RegionalApp
from nestvec.replication.replicas import Replica
from nestvec.replication.staleness import SharedStaleness, needed_since_ms
from nestvec.replication.way import Rooms as WayRooms
from nestvec.replication.way import Terms, Way
from nestvec.wall_clock import wall_clock_ms
from tests.support.faults import eventually
from tests.support.region_servers import a_map
from tests.support.rooms import FaultyStore, Rooms, open_rooms

NAMES = ("eu", "us", "ap")
CLAIM_S = 0.3
# name -> text and version
Contents = dict[str, tuple[str, int]]


class PlaceSource:
    """The log of another place. Fills RegionSource. read: documents whose values were asked for."""

    def __init__(self, neighbour: PlaceNeighbour) -> None:
        self._neighbour = neighbour
        self.received_bytes = 0

    @property
    def _store(self) -> MemoryStore:
        if self._neighbour.cut:
            raise WorkerUnavailable(f"region {self._neighbour.name!r} does not answer")
        return self._neighbour.place.store

    async def record(
        self, collection: str, with_assets: bool = False
    ) -> tuple[Collection, dict[str, bytes]]:
        assert not with_assets, "a replica draws its own"
        for one in await self._store.collections():
            if one.name == collection:
                return self._neighbour.lies.get(collection, one), {}
        raise NotFound("collection", collection)

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        return await self._store.positions(collection, partitions)

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        return await self._store.read_log(collection, after, limit)

    async def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredVersion]]:
        self._neighbour.compared += 1
        async for batch in self._store.entries(collection, partition):
            yield batch

    async def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        async for batch in self._store.tombstones(collection, partition):
            yield batch

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        return await self._store.versions(collection, external_ids)

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]:
        found = await self._store.live_documents(collection, ids, with_vectors)
        self._neighbour.read += [one.external_id for one in found if one is not None]
        self.received_bytes += sum(len(one.payload or b"") for one in found if one is not None)
        return found

    async def names(self, collection: Collection, ids: Ids) -> list[StoredVersion | None]:
        names = await self._store.external_ids(collection, ids)
        known = [name for name in names if name is not None]
        stands = dict(zip(known, await self._store.versions(collection, known), strict=True))
        found = []
        for internal, name in zip(ids.tolist(), names, strict=True):
            one = None if name is None else stands[name]
            same = one is not None and one.sequence == split_id(internal)[1]
            found.append(one if same else None)
        return found


@dataclass(eq=False)
class PlaceNeighbour:
    """Fills Neighbour. cut: nothing comes from there. skew_s: its clock against this one. lies:
    records that it gives in place of its own. compared: partitions that were listed. read: names of
    documents whose values were read.
    """

    place: Place
    cut: bool = False
    skew_s: float | None = 0.0
    lies: dict[str, Collection] = field(default_factory=dict)
    compared: int = 0
    read: list[str] = field(default_factory=list)
    round_trip_s: float = 0.001

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def endpoints(self) -> Sequence[str]:
        return (f"{self.name}:7700",)

    @property
    def reachable(self) -> bool:
        return not self.cut

    @property
    def said(self) -> str:
        return f"region {self.name!r} does not answer" if self.cut else ""

    @property
    def described(self) -> RegionDescription | None:
        return self.place.description

    def source(self, prefix_dim: int = 0) -> PlaceSource:
        assert not prefix_dim
        return PlaceSource(self)


@dataclass(eq=False)
class Place:
    """One region. clock_ms: what its writers' clock is off."""

    name: str
    number: int
    rooms: Rooms
    regions: RegionMap
    neighbours: dict[str, PlaceNeighbour] = field(default_factory=dict)
    clock_ms: int = 0
    description: RegionDescription | None = None

    def __post_init__(self) -> None:
        rooms = self.rooms
        self.ingest = IngestApp(
            rooms.catalogue,
            FixedEncoders(rooms.encoder),
            FixedShards(rooms.shards),
            rooms.store,
            65536,
            IngestOptions(region=self.number, purge_after_s=0.0, tidy_every_s=0.01),
            now_ms=lambda: wall_clock_ms() + self.clock_ms,
            carrying=Carrier(rooms.store, rooms.catalogue, self.regions),
            needed_since=lambda one: needed_since_ms(rooms.store, self.regions, one.name),
        )
        self.staleness = SharedStaleness(rooms.store, self.regions, wall_clock_ms)
        self.terms = Terms(
            self.name, look_s=0.005, retry_s=0.01, record_s=0.02, figures_s=0.01, batch=16
        )

    @property
    def store(self) -> FaultyStore:
        assert isinstance(self.rooms.store, FaultyStore)
        return self.rooms.store

    def app(self) -> RegionalApp:
        """What copies from the others; not started."""
        rooms = self.rooms
        kind = Replica(
            "docs", rooms.store, rooms.catalogue, FixedEncoders(rooms.encoder), rooms.admin.adopt
        )
        way_rooms = WayRooms(rooms.store, self.ingest.found, self.ingest.copied, wall_clock_ms)
        ways = [
            Way(way_rooms, self.terms, "docs", neighbour, kind)
            for neighbour in self.neighbours.values()
        ]
        return RegionalApp(
            self.regions,
            self.neighbours,
            ways,
            rooms.store,
            rooms.catalogue,
            self.terms.max_clock_skew_s,
            wall_clock_ms,
            CLAIM_S,
        )

    async def docs(self) -> Collection:
        return await self.rooms.catalogue.get("docs")

    async def write(self, *names: str, text: str = "", version: int = 0) -> Outcome:
        """One document a name, acknowledged as stored."""
        items = [
            Item(Document(name, text or f"words of {name}"), version=version) for name in names
        ]
        prepared = await self.ingest.prepare(await self.docs(), items, has_space=True)
        outcome = await self.ingest.commit(prepared, Ack.STORED)
        assert outcome.failures == []
        return outcome

    async def delete(self, *names: str) -> None:
        await self.ingest.delete("docs", list(names), ack=Ack.STORED)

    async def contents(self) -> Contents:
        """All that lives here."""
        collection, found = await self.docs(), Contents()
        for partition in range(collection.partitions):
            async for batch in self.store.documents(collection, partition):
                for one in batch:
                    payload = payload_from_bytes(one.payload or b"", one.external_id)
                    found[one.external_id] = payload.text, one.version
        return found

    async def describe(self) -> None:
        """Have the others hear what is held here."""
        await self.staleness.look()
        ages = {name: age for name, age in self.staleness.of("docs").items() if age is not None}
        collection = await self.docs()
        held = HeldCollection.of(collection, await self.store.count(collection), ages)
        told = {"docs": held}
        self.description = RegionDescription(self.name, self.number, wall_clock_ms(), told)


@dataclass
class World:
    """All of them, by name."""

    places: dict[str, Place]

    def __getitem__(self, name: str) -> Place:
        return self.places[name]

    def cut(self, *names: str) -> None:
        """Nothing comes from or to these any more, not between them either."""
        self._set(names, cut=True)

    def heal(self) -> None:
        self._set(tuple(self.places), cut=False)

    def _set(self, names: Sequence[str], cut: bool) -> None:
        for place in self.places.values():
            for neighbour in place.neighbours.values():
                if place.name in names or neighbour.name in names:
                    neighbour.cut = cut

    async def until_same(self) -> Contents:
        """Until all hold the same documents at the same versions; returns them."""

        async def same() -> bool:
            first, *others = [await place.contents() for place in self.places.values()]
            return all(first == other for other in others)

        await eventually(same)
        return await next(iter(self.places.values())).contents()


@asynccontextmanager
async def open_world(
    names: Sequence[str] = NAMES[:2],
    models: Mapping[str, HashModel] | None = None,
    create: Sequence[str] | None = None,
) -> AsyncIterator[World]:
    """create: where `docs` is made, everywhere by default. Nothing is copied yet."""
    async with AsyncExitStack() as stack:
        places = {}
        for number, name in enumerate(names, 1):
            model = (models or {}).get(name)
            rooms = await stack.enter_async_context(open_rooms(FaultyStore(), model=model))
            place = places[name] = Place(
                name, number, rooms, a_map(name, names, Sharing.REPLICATED)
            )
            stack.push_async_callback(place.ingest.close)
            place.ingest.start()
            if name in (names if create is None else create):
                await rooms.create(tiers=(16,))
        for place in places.values():
            place.neighbours = {
                name: PlaceNeighbour(other) for name, other in places.items() if other is not place
            }
        yield World(places)


@asynccontextmanager
async def following(world: World) -> AsyncIterator[dict[str, RegionalApp]]:
    """Every place copies from the others."""
    apps = {name: place.app() for name, place in world.places.items()}
    for app in apps.values():
        app.start()
    try:
        yield apps
    finally:
        for app in apps.values():
            await app.close()
