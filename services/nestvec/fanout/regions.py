"""Another region, by all of its endpoints: the way there, whether it answers, what it holds.

It is asked who it is every two seconds, also while nobody searches: so the way is measured, a clock
that is off is seen, and a region that comes back is found without a caller paying for it. A region
that fails again and again is left alone; the question that it failed on last is asked again in the
background, and decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from nestvec.core.balance import FAILURES, CircuitBreaker
from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    NestvecError,
    Overloaded,
    WorkerUnavailable,
    told,
)
from nestvec.core.hedging import RecentDelays
from nestvec.core.ports import Region, RegionAnswer, RegionHits, RegionQuery, RegionRerank
from nestvec.core.regions import RegionDescription, RegionPlace
from nestvec.core.round_trip import RoundTrip
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger

_EVERY_S = 2.0
# What a region may take to say who it is, and to answer the question that it failed on.
_PATIENCE_S = 2.0
# Between two probes of one that failed, first and at most: one in each round, for they cost little
# beside every search that does without a region that has come back.
_PAUSES_S = (0.5, 1.5)
# A call that had no more than this beside the way says nothing of a region when it comes too late;
# nor does one that had less than twice what most calls take.
_LEAST_FAIR_S = 0.05
_FAIR = 2.0
_log = logger()

Result = TypeVar("Result")
Source = TypeVar("Source")


class WatchedRegion(Generic[Source]):
    """Fills ports.KnownRegion, and what replication asks of another region.

    endpoints: each as ports.Region, at least one; a call is made at the one that answered last, and
    at the next where that cannot be reached. way: shared with them. open_source: makes a reader of
    its log: of rows of a tier, or of whole documents for 0. reachable, said: whether it answered
    last, and what is wrong with it. skew_s: its clock less this one's; None until it has answered.
    """

    def __init__(
        self,
        place: RegionPlace,
        endpoints: Sequence[Region],
        way: RoundTrip,
        open_source: Callable[[int], Source],
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        assert endpoints
        self.name = place.name
        self.endpoints = place.endpoints
        self.reachable = False
        self.said = f"region {place.name!r} has not answered yet"
        self.skew_s: float | None = None
        self.described: RegionDescription | None = None
        self._number = place.number
        self._peers = list(endpoints)
        self._current = 0
        self._way = way
        self._open_source = open_source
        self._now_s = now_s
        self._wall_s = wall_s
        self._breaker = CircuitBreaker(FAILURES, *_PAUSES_S)
        self._failing = ""
        # The question that it failed on last; None where it failed to say who it is, or has
        # answered since.
        self._suspect: RegionQuery | None = None
        self._delays = RecentDelays()
        self._documents: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch it from now on, in the running loop."""
        assert self._task is None, "started already"
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Watch it no more. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    # --- what is known of it --------------------------------------------------------------------

    @property
    def round_trip_s(self) -> float:
        """See ports.KnownRegion."""
        return self._way.seconds

    def unfit(self, timeout_s: float) -> str | None:
        """See ports.KnownRegion."""
        if not self._breaker.closed:
            return (
                f"region {self.name!r} failed its last calls and is left alone until it answers "
                f"again: {self._failing}"
            )
        if timeout_s <= self._way.seconds:
            return (
                f"a round trip to region {self.name!r} takes {self._way.seconds * 1e3:.0f} ms and "
                f"{max(timeout_s, 0.0) * 1e3:.0f} are left"
            )
        return None

    def known(self, collection: str) -> int | None:
        """See ports.KnownRegion. 0 for one that it says nothing of."""
        if self.described is None:
            return self._documents.get(collection)
        return self._documents.get(collection, 0)

    def source(self, prefix_dim: int = 0) -> Source:
        """A new reader of its log, with a count of its own. prefix_dim: of rows of that tier."""
        return self._open_source(prefix_dim)

    # --- ports.Region ---------------------------------------------------------------------------

    async def describe(self, timeout_s: float) -> RegionDescription:
        """See ports.Region."""
        return await self._call(self._describe_at, timeout_s, None)

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        """See ports.Region. Raises WorkerUnavailable at once where `unfit` says why."""
        answer = await self._call(
            lambda peer, left_s: self._search_at(peer, query, left_s), timeout_s, query
        )
        self._documents[query.collection] = answer.coverage.documents_total
        return answer

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        """As `search`."""
        return await self._call(lambda peer, left_s: peer.rerank(query, left_s), timeout_s, None)

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        """As `search`."""
        return await self._call(
            lambda peer, left_s: peer.documents(collection, ids, left_s), timeout_s, None
        )

    async def _call(
        self,
        ask: Callable[[Region, float], Awaitable[Result]],
        timeout_s: float,
        query: RegionQuery | None,
    ) -> Result:
        """One call that somebody waits for. query: what to ask again if it fails."""
        unfit = self.unfit(timeout_s)
        if unfit is not None:
            self._count("skipped")
            raise WorkerUnavailable(unfit)
        began_s = self._now_s()
        try:
            result = await self._somewhere(ask, timeout_s)
        except asyncio.CancelledError:
            # Whoever asked has stopped waiting: late, or answered by somebody else.
            self._late(self._now_s() - began_s, query)
            raise
        except BudgetSpent:
            self._count("late")
            self._late(self._now_s() - began_s, query)
            raise
        except WorkerUnavailable as error:
            self._count("failed")
            self._failed(str(error), query)
            raise
        except NestvecError:
            self._count("refused")
            self._answered()
            raise
        self._count("answered")
        self._answered()
        self._delays.add(self._now_s() - began_s)
        return result

    # --- endpoints ------------------------------------------------------------------------------

    async def _somewhere(
        self, ask: Callable[[Region, float], Awaitable[Result]], timeout_s: float
    ) -> Result:
        until_s = self._now_s() + timeout_s
        why = WorkerUnavailable(f"region {self.name!r} cannot be reached")
        for _ in self._peers:
            current = self._current
            left_s = until_s - self._now_s()
            if left_s <= 0.0:
                break
            try:
                return await ask(self._peers[current], left_s)
            except WorkerUnavailable as error:
                why = error
                self._leave(current)
            except BudgetSpent:
                self._leave(current)
                raise
        raise why

    def _leave(self, endpoint: int) -> None:
        """For the next one; where somebody else has done so already, nothing changes."""
        if self._current == endpoint:
            self._current = (endpoint + 1) % len(self._peers)

    async def _search_at(self, peer: Region, query: RegionQuery, left_s: float) -> RegionAnswer:
        began_s = self._now_s()
        answer = await peer.search(query, left_s)
        way_s = self._now_s() - began_s - answer.seconds
        # One that says it took longer than that cannot be measured by.
        if way_s >= 0.0:
            self._measured(way_s)
        return answer

    async def _describe_at(self, peer: Region, left_s: float) -> RegionDescription:
        began_s, sent_s = self._now_s(), self._wall_s()
        description = await peer.describe(left_s)
        elapsed_s = self._now_s() - began_s
        if description.number != self._number:
            raise WorkerUnavailable(
                f"region {self.name!r} says that its number is {description.number}, and "
                f"regions.map here says {self._number}; give it the same one everywhere"
            )
        self._measured(elapsed_s)
        # Half of the way before it was read, half after: off by no more than that.
        self.skew_s = description.now_ms / 1e3 - (sent_s + elapsed_s / 2.0)
        metrics.REGION_CLOCK_SKEW.labels(self.name).set(self.skew_s)
        return description

    def _measured(self, seconds: float) -> None:
        self._way.observe(seconds)
        metrics.REGION_ROUND_TRIP.labels(self.name).set(self._way.seconds)

    # --- whether it answers ---------------------------------------------------------------------

    def _answered(self) -> None:
        if not self._breaker.closed:
            _log.info("region.breaker_closed", region=self.name)
        self._breaker.succeeded()
        self._suspect, self._failing = None, ""

    def _failed(self, why: str, query: RegionQuery | None) -> None:
        self._failing = why
        if query is not None:
            # One of a batch is enough to see whether it answers.
            self._suspect = replace(query, queries=query.queries[:1])
        if self._breaker.failed(self._now_s()):
            _log.warning("region.breaker_opened", region=self.name, why=why)

    def _late(self, waited_s: float, query: RegionQuery | None) -> None:
        usual_s = self._delays.quantile_s()
        fair_s = self._way.seconds + _LEAST_FAIR_S
        if usual_s is not None:
            fair_s = max(fair_s, _FAIR * usual_s)
        if waited_s >= fair_s:
            self._failed(f"no answer within {waited_s * 1e3:.0f} ms", query)

    def _count(self, outcome: str) -> None:
        metrics.REGION_CALLS.labels(self.name, outcome).inc()

    # --- watching -------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  whatever it was, this must not end
                _log.error("region.bug", region=self.name, error=repr(error), exc_info=True)
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Ask once who it is; and where it has failed, whether it answers again."""
        probing = self._breaker.begin_probe(self._now_s())
        try:
            description = await self._somewhere(self._describe_at, _PATIENCE_S)
        except NestvecError as error:
            if self.reachable:
                _log.warning("region.lost", region=self.name, why=told(error))
            self.reachable, self.said = False, told(error)
            self._failed(told(error), None)
        else:
            if not self.reachable:
                _log.info("region.found", region=self.name)
            self.reachable, self.said = True, ""
            self.described = description
            self._documents = {
                name: held.documents for name, held in description.collections.items()
            }
            if probing:
                await self._probe()
            elif self._breaker.closed and self._suspect is None:
                # It failed to say who it is, and now has said it: that is over.
                self._breaker.succeeded()
        finally:
            self._breaker.abandon_probe(self._now_s())
            metrics.REGION_REACHABLE.labels(self.name).set(self.reachable)

    async def _probe(self) -> None:
        """With the question that it failed on, for which nobody waits any more."""
        query = self._suspect
        if query is None:
            self._answered()
            return
        try:
            await self._somewhere(
                lambda peer, left_s: self._search_at(peer, query, left_s),
                self._way.seconds + _PATIENCE_S,
            )
        except (WorkerUnavailable, BudgetSpent) as error:
            self.said = f"it says who it is, and does not answer searches: {error}"
            self._failed(str(error), None)
        except Overloaded as error:
            self.said = str(error)
        except NestvecError:
            self._answered()
        else:
            self._answered()
