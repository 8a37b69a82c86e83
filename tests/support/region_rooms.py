"""Several regions in one process, each with rooms and a store of its own: what they answer each
other is real, and the way between them fails on demand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.fields import FieldSchema
from nestvec.core.ports import (
    EmbeddingModel,
    PrefixCopies,
    RegionAnswer,
    RegionHits,
    RegionQuery,
    RegionRerank,
)
from nestvec.core.regions import (
    RegionDescription,
    RegionMap,
    RegionPlace,
    RegionPolicy,
    Shared,
    Sharing,
)
from nestvec.ingest.batch import Item
from nestvec.query.answer import Answer
from nestvec.query.other_regions import OtherRegions, RegionRules
from nestvec.query.plan import SearchClass
from nestvec.regions.app import RegionApp
from tests.support.faults import PATIENT_S, Faults
from tests.support.region_servers import region_over
from tests.support.rooms import Rooms, open_rooms

NAMES = ("eu", "us", "ap")
REGION_CLASSES = (
    SearchClass("search", 16, k=10, candidates=100, rerank=True, min_coverage=0.0),
    SearchClass(
        "all",
        16,
        k=10,
        candidates=400,
        rerank=True,
        min_coverage=0.0,
        regions=RegionPolicy.ALL,
        certified=True,
    ),
    SearchClass("local", 16, 10, 100, rerank=True, regions=RegionPolicy.LOCAL),
    SearchClass(
        "whole", 16, 10, 100, rerank=True, degrade=False, regions=RegionPolicy.ALL, min_coverage=1.0
    ),
    SearchClass("coarse", 16, 10, 10, rerank=False, min_coverage=0.0, regions=RegionPolicy.ALL),
)


class NearRegion:
    """A region as another one sees it. Fills ports.KnownRegion. asked: every question, with the
    time that it was given; fetched: ids of payloads. said: why a call would come to nothing.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.app: RegionApp | None = None
        self.faults = Faults()
        self.round_trip_s = 0.0
        self.said: str | None = None
        self.holds: int | None = None
        self.asked: list[tuple[RegionQuery, float]] = []
        self.fetched: list[list[str]] = []

    @property
    def there(self) -> RegionApp:
        """What answers."""
        assert self.app is not None
        return self.app

    def unfit(self, timeout_s: float) -> str | None:
        """See ports.KnownRegion."""
        if self.said is None and timeout_s <= self.round_trip_s:
            return f"a round trip takes {self.round_trip_s} s"
        return self.said

    def known(self, collection: str) -> int | None:
        """See ports.KnownRegion."""
        return self.holds

    async def describe(self, timeout_s: float) -> RegionDescription:
        """See ports.Region."""
        return await self.there.describe(timeout_s)

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        """See ports.Region."""
        self.asked.append((query, timeout_s))
        await self.faults.begin("search")
        answer = await self.there.search(query, timeout_s)
        await self.faults.end("search")
        return answer

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        """See ports.Region."""
        return await self.there.rerank(query, timeout_s)

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        """See ports.Region."""
        self.fetched.append(list(ids))
        await self.faults.begin("documents")
        return await self.there.documents(collection, ids, timeout_s)


@dataclass(slots=True)
class Ages:
    """Fills ports.Staleness: the same for every collection."""

    seconds: dict[str, float | None] = field(default_factory=dict)

    def of(self, collection: str) -> Mapping[str, float | None]:
        """See ports.Staleness."""
        return self.seconds


@dataclass(slots=True)
class RegionRooms:
    """One region. near: the others as it sees them. ages: how far it is behind them."""

    name: str
    rooms: Rooms
    near: dict[str, NearRegion]
    ages: Ages
    regions: OtherRegions

    async def create(self, fields: Sequence[FieldSchema] = (), name: str = "docs") -> Collection:
        """The collection that they share."""
        return await self.rooms.create(name, fields=tuple(fields))

    async def add(self, *documents: Document | Item) -> None:
        """All must be taken."""
        if documents:
            outcome = await self.rooms.add(*documents)
            assert not outcome.failures

    async def ask(
        self, query: str | Floats, timeout_s: float = PATIENT_S, **options: Any
    ) -> Answer:
        """As Rooms.ask."""
        return await self.rooms.ask(query, timeout_s=timeout_s, **options)


@asynccontextmanager
async def open_regions(
    sharing: Sharing = Sharing.PARTITIONED,
    names: Sequence[str] = NAMES,
    fields: Sequence[FieldSchema] = (),
    rules: RegionRules | None = None,
    prefixes: PrefixCopies | None = None,
    classes: Sequence[SearchClass] = REGION_CLASSES,
    models: Mapping[str, EmbeddingModel] | None = None,
    **rooms: Any,
) -> AsyncIterator[dict[str, RegionRooms]]:
    """By name, with an empty collection `docs` each. prefixes: of the first region. models: of
    those that have another one.
    """
    places = tuple(RegionPlace(name, number, (f"{name}:1",)) for number, name in enumerate(names))
    shared = {"docs": Shared(sharing)}
    opened: dict[str, RegionRooms] = {}
    async with AsyncExitStack() as stack:
        for name in names:
            regions = RegionMap(name, places, shared)
            near = {one.name: NearRegion(one.name) for one in regions.others}
            ages = Ages(dict.fromkeys(near, 0.0))
            copies = prefixes if name == names[0] else None
            others = OtherRegions(regions, list(near.values()), ages, rules, copies)
            inside = await stack.enter_async_context(
                open_rooms(
                    classes=classes,
                    regions=others,
                    model=(models or {}).get(name),
                    **rooms,
                )
            )
            opened[name] = RegionRooms(name, inside, near, ages, others)
            await opened[name].create(fields)
        apps = {
            name: region_over(one.rooms, one.regions.map, one.ages) for name, one in opened.items()
        }
        for one in opened.values():
            for name, near_one in one.near.items():
                near_one.app = apps[name]
        yield opened
