"""The calls of one search to other regions: made, waited for, and sorted by what came of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from nestvec.core.arrays import Floats
from nestvec.core.errors import NestvecError, SpaceMismatch, told
from nestvec.core.ports import PrefixAnswer, RegionQuery
from nestvec.query.gathered import Gathered, Reply, question, unmergeable
from nestvec.query.other_regions import OtherRegions
from nestvec.query.plan import SearchOptions
from nestvec.telemetry.logs import logger
from nestvec.telemetry.tracing import part

# What calls of other regions end earlier than they are cut off, so that whoever keeps their
# breakers sees one that hangs.
_KEEP_FOR_VERDICT_S = 0.002
# Turns of the loop until gRPC has a call: its task begins, then one that gRPC makes of it, and that
# one's first step.
_TURNS_TO_LEAVE = 3
_log = logger()


class RegionCalls:
    """vectors: (n, store_dim) float32, unit. end_s: monotonic. wake: called when one has ended.
    What comes of them goes into `gathered`.
    """

    def __init__(
        self,
        regions: OtherRegions,
        gathered: Gathered,
        vectors: Floats,
        options: SearchOptions,
        end_s: float,
        wake: Callable[[], None],
    ) -> None:
        self.gathered = gathered
        self._regions = regions
        self._vectors = vectors
        self._options = options
        self._end_s = end_s
        self._wake = wake
        self._query: RegionQuery | None = None
        self._tasks: dict[str, asyncio.Task[Reply]] = {}

    @property
    def asked(self) -> set[str]:
        """Also those that could not be."""
        return {*self._tasks, *self.gathered.missing}

    @property
    def waiting(self) -> list[str]:
        """Those that may still answer."""
        return [name for name, task in self._tasks.items() if not task.done()]

    def ask(self, names: Sequence[str]) -> None:
        """Those that were not asked yet. One that would not answer in time is missing at once."""
        for name in names:
            if name not in self._tasks and name not in self.gathered.missing:
                self._ask(name, self._question())

    async def leave(self) -> None:
        """Return when the calls that were made are on their way: what follows may hold up the loop
        for longer than a scan takes.
        """
        if self._tasks:
            for _ in range(_TURNS_TO_LEAVE):
                await asyncio.sleep(0)

    def _question(self) -> RegionQuery:
        """Made when it is first needed: most searches stay here."""
        if self._query is None:
            inline_bytes = self._regions.rules.inline_bytes
            self._query = question(self.gathered, self._vectors, self._options, inline_bytes)
        return self._query

    def _ask(self, name: str, query: RegionQuery) -> None:
        left_s = self._end_s - time.monotonic()
        prefixes = self._regions.prefixes
        copy = prefixes is not None and prefixes.holds(query.collection, name)
        said = None if copy else self._regions.others[name].unfit(left_s)
        if said is None and left_s <= 0.0:
            said = "no time was left to ask it"
        if said is not None:
            self.gathered.missing[name] = said
            return
        timeout_s = max(left_s - _KEEP_FOR_VERDICT_S, left_s / 2)
        task = asyncio.create_task(self._call(name, query, copy, timeout_s))
        task.add_done_callback(lambda _: self._wake())
        self._tasks[name] = task

    async def _call(self, name: str, query: RegionQuery, copy: bool, timeout_s: float) -> Reply:
        began_s = time.monotonic()
        with part("region", {"nestvec.region": name, "nestvec.prefixes": copy}) as span:
            if copy and self._regions.prefixes is not None:
                found = await self._regions.prefixes.search(name, query, timeout_s)
            else:
                found = PrefixAnswer(await self._regions.others[name].search(query, timeout_s))
            if span is not None:
                span.set({"nestvec.coverage": round(found.answer.coverage.fraction, 6)})
        return Reply(found.answer, time.monotonic() - began_s, found.said)

    def take(self) -> None:
        """Sort in what has come."""
        gathered = self.gathered
        for name, task in self._tasks.items():
            known = (
                name in gathered.replies or name in gathered.missing or name in gathered.excluded
            )
            if task.done() and not task.cancelled() and not known:
                self._sort_in(gathered, name, task)

    def _sort_in(self, gathered: Gathered, name: str, task: asyncio.Task[Reply]) -> None:
        error = task.exception()
        if error is None:
            reply = task.result()
            said = unmergeable(reply.answer, gathered)
            if said:
                gathered.excluded[name] = said
                return
            if reply.prefixes and not gathered.plan.search_class.degrade:
                # Estimates are no answer of such a class.
                gathered.missing[name] = reply.prefixes
                return
            gathered.replies[name] = reply
            self._regions.learn(gathered.collection.name, name, reply.answer.coverage)
        elif isinstance(error, SpaceMismatch):
            gathered.excluded[name] = str(error)
        else:
            if not isinstance(error, NestvecError):
                # A bug in this process: the others still answer, and the log says where to look.
                _log.error("regions.call_failed", region=name, exc_info=error)
            gathered.missing[name] = told(error)

    def close(self, enough: bool) -> None:
        """Say what became of those of which nothing was heard. enough: nobody need be."""
        gathered = self.gathered
        for name in self._regions.others:
            if name in gathered.replies or name in gathered.missing or name in gathered.excluded:
                continue
            if name in self._tasks and not enough:
                gathered.missing[name] = "it did not answer in time"
            elif name in self._tasks:
                gathered.not_asked[name] = "what the others said was enough before it answered"
            elif enough:
                gathered.not_asked[name] = "what the others said is enough"
            else:
                gathered.not_asked[name] = "its turn did not come in time"

    def cancel(self) -> list[asyncio.Task[Reply]]:
        """Those that are under way; returns all, for whoever waits for their ends."""
        for task in self._tasks.values():
            task.cancel()
        return list(self._tasks.values())
