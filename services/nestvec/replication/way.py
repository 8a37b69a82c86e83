"""One collection's way from another region to this one.

It is copied along the log of that region (see `copier`), each document with its version: the
greatest one stands in every region, whatever the order in which writes meet. A version is a hybrid
logical clock's and ends in its region's number, so the last writer wins, and no two regions make
the same one. What came from here and comes back is known by its version: nothing is written, and
nothing more travels than its name.

Where it stands is kept in the store. All of it may be done again, and by another process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError, NotFound, WorkerUnavailable
from nestvec.core.ports import VectorStore
from nestvec.core.watermark import Watermark
from nestvec.replication import headings
from nestvec.replication.copier import Copier
from nestvec.replication.copy_ends import End, SinkEnd
from nestvec.replication.neighbours import Neighbour
from nestvec.replication.pace import Pace
from nestvec.replication.transform import Transform
from nestvec.replication.way_store import ListedSink, WayPositions
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger

# How long the shards may take to find what was copied before it is looked at again.
_FOUND_S = 0.5
_log = logger()


@dataclass(frozen=True, slots=True)
class Terms:
    """here: this region. max_clock_skew_s: nothing is copied from a region whose clock is further
    off. look_s: between two looks that found nothing. retry_s: after a failure. record_s: between
    two looks at the collection's record there. figures_s: between two counts. rate: documents a
    second; 0: no bound. batch, ahead: see Copier.
    """

    here: str
    max_clock_skew_s: float = 60.0
    look_s: float = 0.2
    retry_s: float = 0.5
    record_s: float = 2.0
    figures_s: float = 1.0
    rate: float = 0.0
    batch: int = 256
    ahead: int = 8


@dataclass(frozen=True, slots=True)
class Rooms:
    """What it needs of the others. found: whether all shards find what was written up to a point,
    or do within some seconds. wrote: is told how far a collection was written. now_ms: wall clock,
    milliseconds since 1970.
    """

    store: VectorStore
    found: Callable[[Collection, Watermark, float], Awaitable[bool]]
    wrote: Callable[[Collection, Watermark], None]
    now_ms: Callable[[], int]


# What the tiers of a collection drew there, by name: megabytes.
Assets = Callable[[], Awaitable[Mapping[str, bytes]]]


class Kind(Protocol):
    """What is made of a collection of another region here."""

    @property
    def prefix_dim(self) -> int:
        """Of a copy of prefixes; 0: whole documents."""
        ...

    @property
    def alone(self) -> bool:
        """Whether nobody else writes to it here: see Copier."""
        ...

    async def sink(self, record: Collection, assets: Assets) -> Collection:
        """What is filled here; made where there is none. record: as it stands there. Raises what
        keeps it from being filled.
        """
        ...

    async def standing(self, collection: str) -> Collection:
        """What is filled here, as the store has it. Raises NotFound while there is none."""
        ...

    def transform(self, source: Collection, sink: Collection) -> Transform:
        """From one to the other. Raises where there is no way."""
        ...

    async def gone(self, collection: str) -> None:
        """Told, now and then, that there is no such collection there. Nothing is copied then."""
        ...


class Way:
    """By whoever has the claim. said: what it waits for; empty while it is well."""

    def __init__(
        self, rooms: Rooms, terms: Terms, collection: str, neighbour: Neighbour, kind: Kind
    ) -> None:
        self.collection = collection
        self.neighbour = neighbour
        self.kind = kind
        self.said = ""
        self._rooms = rooms
        self._terms = terms
        self._source = neighbour.source(kind.prefix_dim)
        self._pace = Pace(terms.rate)
        self._forget()

    def _forget(self) -> None:
        """What this process knew of how far it is: another one may have gone on."""
        self._copier: Copier | None = None
        self._ends: tuple[Collection, Collection] | None = None
        self._read_again_s = self._count_again_s = 0.0
        self._told_bytes = self._source.received_bytes
        # A moment, and where the source stood after it.
        self._mark: tuple[int, Mapping[int, int]] | None = None
        self._unfound: Watermark | None = None

    @property
    def claim(self) -> str:
        """The name of the right to do this."""
        return f"{self.collection}:{self.neighbour.name}"

    @property
    def _labels(self) -> tuple[str, str]:
        return self.collection, self.neighbour.name

    async def run(self) -> None:
        """Until it is cancelled. A failure is told, and tried again."""
        self._forget()
        try:
            while True:
                try:
                    rest_s = await self._step()
                except NestvecError as error:
                    rest_s = self._terms.retry_s
                    # Either end may be another one by now.
                    self._read_again_s = 0.0
                    await self._tell(str(error))
                await asyncio.sleep(rest_s)
        finally:
            metrics.forget_region(*self._labels)

    # --- one step -------------------------------------------------------------------------------

    async def _step(self) -> float:
        """Copy some of what is new there. Returns how long to rest before the next one."""
        require_well(self.neighbour, self._terms.max_clock_skew_s)
        # Before anything is read there: what it says of then, it says for sure.
        began_ms = self._rooms.now_ms()
        if time.monotonic() >= self._read_again_s:
            await self._prepare()
            self._read_again_s = time.monotonic() + self._terms.record_s
        if self._copier is None:
            # It has no such collection: nothing of it is missing here.
            await self._note({headings.whole_at(self.neighbour.name): began_ms})
            await self._tell("")
            return self._terms.record_s
        moved = await self._copier.look()
        await self._see_progress(self._copier, began_ms, moved)
        await self._tell("")
        return 0.0 if moved else self._terms.look_s

    async def _prepare(self) -> None:
        """Look at the records of both ends; where one is another one, go on with that."""
        try:
            record, _ = await self._source.record(self.collection)
        except NotFound:
            self._copier = self._ends = None
            await self.kind.gone(self.collection)
            return
        sink = await self.kind.sink(record, self._assets)
        if self._ends == (record, sink):
            return
        rooms, name = self._rooms, self.neighbour.name
        self._copier = Copier(
            End(record, self._source),
            SinkEnd(sink, ListedSink(rooms.store)),
            self.kind.transform(record, sink),
            WayPositions(rooms.store, self.collection, name, record, sink),
            self._pace,
            alone=self.kind.alone,
            batch=self._terms.batch,
            ahead=self._terms.ahead,
            # Where nobody else writes nothing comes back.
            peek=None if self.kind.alone else self._source.names,
        )
        self._ends = record, sink
        self._mark = None
        # What was copied before this process began may not be found yet.
        there = await rooms.store.positions(sink, range(sink.partitions))
        self._unfound = Watermark(sink.generation, {p: s for p, s in there.items() if s})
        _log.info("region.following", collection=self.collection, region=name)

    async def _assets(self) -> Mapping[str, bytes]:
        return (await self._source.record(self.collection, with_assets=True))[1]

    # --- how far it is --------------------------------------------------------------------------

    async def _see_progress(self, copier: Copier, began_ms: int, moved: bool) -> None:
        assert self._ends is not None
        sink = self._ends[1]
        written = copier.take_written()
        if written.sequences:
            self._rooms.wrote(sink, written)
            self._unfound = written if self._unfound is None else self._unfound.joined(written)
        if self._mark is None or not moved:
            self._mark = began_ms, copier.seen
        numbers = {}
        since_ms, there = self._mark
        here = not copier.doubtful and await copier.has_reached(there)
        if here and await self._all_found(sink):
            numbers[headings.whole_at(self.neighbour.name)] = since_ms
            self._mark = None
        if time.monotonic() >= self._count_again_s:
            numbers |= self._figures(copier)
            self._count_again_s = time.monotonic() + self._terms.figures_s
        await self._note(numbers)

    async def _all_found(self, sink: Collection) -> bool:
        """Whether searches here find what was copied."""
        if self._unfound is None:
            return True
        if not await self._rooms.found(sink, self._unfound, _FOUND_S):
            return False
        self._unfound = None
        return True

    def _figures(self, copier: Copier) -> dict[str, int]:
        name = self.neighbour.name
        lag = copier.behind(copier.seen)
        metrics.REGION_LAG.labels(*self._labels).set(lag)
        metrics.REGION_REFUSED.labels(*self._labels).set(copier.refused)
        numbers = {
            headings.lag_of(name): lag,
            headings.refused_of(name): copier.refused,
            headings.waiting_of(name): 0,
        }
        told_ms = self._told_ms()
        return numbers if told_ms is None else numbers | {headings.told_at(name): told_ms}

    def _told_ms(self) -> int | None:
        """Up to when that region has what was written here, as it says itself; by this clock, and
        rather too early.
        """
        described = self.neighbour.described
        held = None if described is None else described.collections.get(self.collection)
        staleness_s = None if held is None else held.staleness_s.get(self._terms.here)
        if described is None or staleness_s is None:
            return None
        return described.now_ms - round((staleness_s + self._terms.max_clock_skew_s) * 1e3)

    async def _note(self, numbers: Mapping[str, int]) -> None:
        """For every process of this region."""
        whole_ms = numbers.get(headings.whole_at(self.neighbour.name))
        await self._rooms.store.set_tally(self.collection, headings.REGIONS, numbers)
        if whole_ms is not None:
            metrics.REGION_WHOLE_AT.labels(*self._labels).set(whole_ms / 1e3)
        more = self._source.received_bytes - self._told_bytes
        if more:
            counted = {headings.bytes_of(self.neighbour.name): more}
            await self._rooms.store.add_to_tally(self.collection, headings.REGIONS, counted)
            metrics.REGION_BYTES.labels(*self._labels).inc(more)
            self._told_bytes += more

    async def _tell(self, said: str) -> None:
        """What it waits for: in the log once for each reason."""
        metrics.REGION_WAITING.labels(*self._labels).set(bool(said))
        if said == self.said:
            return
        self.said = said
        named = {"collection": self.collection, "region": self.neighbour.name}
        if said:
            _log.warning("region.waits", **named, reason=said)
        else:
            _log.info("region.goes_on", **named)
        waiting = {headings.waiting_of(self.neighbour.name): int(bool(said))}
        with suppress(NestvecError):
            await self._rooms.store.set_tally(self.collection, headings.REGIONS, waiting)


def require_reachable(neighbour: Neighbour) -> None:
    """Raise WorkerUnavailable where a region did not answer last."""
    if not neighbour.reachable or neighbour.skew_s is None:
        raise WorkerUnavailable(
            neighbour.said or f"region {neighbour.name!r} has not answered yet; it is asked again"
        )


def require_well(neighbour: Neighbour, max_clock_skew_s: float) -> None:
    """As require_reachable, and where its clock is so far off that its writes may not be copied."""
    require_reachable(neighbour)
    skew_s = neighbour.skew_s or 0.0
    if abs(skew_s) > max_clock_skew_s:
        where = "ahead of" if skew_s > 0 else "behind"
        raise WorkerUnavailable(
            f"the clock of region {neighbour.name!r} is {abs(skew_s):.1f} s {where} this one, more "
            f"than regions.max_clock_skew_s ({max_clock_skew_s:g}): its writes would win, or lose, "
            f"wrongly; set both clocks right"
        )
