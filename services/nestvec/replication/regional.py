"""Everything that comes from other regions, and what an operator asks of it.

A way is worked by one process at a time: by whoever has its claim, so that one that dies is
followed by another. Any process can tell how far all of them are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nestvec.core.errors import InvalidRequest, NestvecError, NotFound
from nestvec.core.ports import Catalogue, VectorStore
from nestvec.core.region_reports import RegionDifference, RegionStatus, ReplicationStatus
from nestvec.core.regions import HeldCollection, RegionMap
from nestvec.replication import headings
from nestvec.replication.claiming import Claims
from nestvec.replication.comparing import compare
from nestvec.replication.neighbours import Neighbour
from nestvec.replication.staleness import staleness
from nestvec.replication.way import Way, require_reachable, require_well
from nestvec.telemetry.logs import logger

_CLAIM_S = 3.0
_log = logger()


class RegionalApp:
    """ways: none where this deployment is no region."""

    def __init__(
        self,
        regions: RegionMap | None,
        neighbours: Mapping[str, Neighbour],
        ways: Sequence[Way],
        store: VectorStore,
        catalogue: Catalogue,
        max_clock_skew_s: float,
        now_ms: Callable[[], int],
        claim_s: float = _CLAIM_S,
    ) -> None:
        self._regions = regions
        self._neighbours = neighbours
        self._ways = ways
        self._store = store
        self._catalogue = catalogue
        self._max_clock_skew_s = max_clock_skew_s
        self._now_ms = now_ms
        self._claims = Claims(store, claim_s)
        self._rest_s = claim_s / 3
        self._tasks: list[asyncio.Task[None]] = []

    # --- the work -------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow other regions from now on, in the running loop."""
        assert not self._tasks, "started already"
        self._tasks = [asyncio.create_task(self._keep(way)) for way in self._ways]

    async def close(self) -> None:
        """Stop; another process goes on where this one was."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, way: Way) -> None:
        """Work on it whenever nobody else does."""
        named = {"collection": way.collection, "region": way.neighbour.name}
        failing = False
        while True:
            try:
                if await self._claims.take(way.claim):
                    try:
                        await self._claims.work(way.claim, way.run())
                        _log.warning("region.claim_lost", **named)
                    finally:
                        await self._give_up(way)
                failing = False
            except NestvecError as error:
                if not failing:
                    _log.warning("region.not_claimed", **named, reason=str(error))
                failing = True
            except Exception as error:  # noqa: BLE001  shown, and begun again
                _log.error("region.bug", **named, error=repr(error), exc_info=True)
            await asyncio.sleep(self._rest_s)

    async def _give_up(self, way: Way) -> None:
        """The claim, so that another process need not wait for its end."""
        try:
            await self._claims.release(way.claim)
        except NestvecError as error:
            _log.info("region.not_released", collection=way.collection, reason=str(error))

    # --- what is told ---------------------------------------------------------------------------

    async def status(self) -> list[RegionStatus]:
        """Every region of the map, this one first. Raises StoreUnavailable."""
        regions = self._regions
        if regions is None:
            return []
        here = regions.own
        found = [
            RegionStatus(here.name, True, here.endpoints, True, collections=await self._held())
        ]
        tallies = {
            name: await self._store.tally(name, headings.REGIONS)
            for name in {way.collection for way in self._ways}
        }
        for place in regions.others:
            neighbour = self._neighbours[place.name]
            described = neighbour.described
            found.append(
                RegionStatus(
                    name=place.name,
                    here=False,
                    endpoints=place.endpoints,
                    reachable=neighbour.reachable,
                    said=self._said_of(neighbour),
                    round_trip_s=neighbour.round_trip_s,
                    clock_skew_s=neighbour.skew_s or 0.0,
                    collections=() if described is None else tuple(described.collections.values()),
                    replication=[
                        await self._status_of(way, tallies[way.collection])
                        for way in self._ways
                        if way.neighbour.name == place.name
                    ],
                )
            )
        return found

    async def _held(self) -> list[HeldCollection]:
        """What this region shares."""
        assert self._regions is not None
        held = []
        for name in sorted(self._regions.collections):
            try:
                one = await self._catalogue.get(name)
                documents = await self._store.count(one)
            except NestvecError:
                continue
            held.append(HeldCollection.of(one, documents))
        return held

    def _said_of(self, neighbour: Neighbour) -> str:
        try:
            require_well(neighbour, self._max_clock_skew_s)
        except NestvecError as error:
            return str(error)
        return ""

    async def _status_of(self, way: Way, tally: Mapping[str, int]) -> ReplicationStatus:
        """By its figures in the store; whoever works on it knows best what it waits for."""
        name = way.neighbour.name
        said = self._said_of(way.neighbour)
        if self._claims.holds(way.claim):
            said = way.said or said
        if not said and tally.get(headings.waiting_of(name)):
            said = "it waits; the log of the process that copies it says for what (region.waits)"
        documents, stored_bytes = await self._stored(way)
        return ReplicationStatus(
            collection=way.collection,
            lag=tally.get(headings.lag_of(name), 0),
            staleness_s=staleness(tally.get(headings.whole_at(name), 0), self._now_ms),
            refused=tally.get(headings.refused_of(name), 0),
            said=said,
            prefix_dim=way.kind.prefix_dim,
            nbytes=tally.get(headings.bytes_of(name), 0),
            documents=documents,
            stored_bytes=stored_bytes,
        )

    async def _stored(self, way: Way) -> tuple[int, int]:
        """Documents and bytes in the store of a copy of prefixes, which no client can name."""
        if not way.kind.prefix_dim:
            return 0, 0
        try:
            usage = await self._store.usage(await way.kind.standing(way.collection))
        except NotFound:
            return 0, 0
        each = usage.vector_bytes_per_document + usage.payload_bytes_per_document
        return usage.documents, round(usage.documents * each)

    async def verify(self, name: str) -> list[RegionDifference]:
        """A replicated collection against every other region, or the copies of prefixes of one
        against their homes; one that cannot be compared says why. Raises NotFound, or
        InvalidRequest for a collection of which nothing is copied.
        """
        ways = [way for way in self._ways if way.collection == name]
        if not ways:
            raise InvalidRequest(
                "collection",
                f"{name!r} is not replicated between regions, and no prefixes of it are copied; "
                f"replicated here: {self._named(prefixes=False)}; prefixes here: "
                f"{self._named(prefixes=True)} (regions.collections)",
            )
        if not all(way.kind.prefix_dim for way in ways):
            self._catalogue.forget(name)
            await self._catalogue.get(name)
        return [await self._difference(way) for way in ways]

    async def _difference(self, way: Way) -> RegionDifference:
        region, dim = way.neighbour.name, way.kind.prefix_dim
        try:
            require_reachable(way.neighbour)
            collection = await way.kind.standing(way.collection)
            found = await compare(self._store, collection, region, way.neighbour.source())
        except NestvecError as error:
            return RegionDifference(region, said=str(error), prefix_dim=dim)
        return replace(found, prefix_dim=dim)

    def _named(self, *, prefixes: bool) -> str:
        names = {way.collection for way in self._ways if bool(way.kind.prefix_dim) == prefixes}
        return ", ".join(sorted(names)) or "none"
