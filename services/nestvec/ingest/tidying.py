"""Behind the writers: freeing what was replaced or deleted, trimming the log, forgetting deletions.

All of it works from the log in the store, so what a crash left is freed by the next process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError, NotFound
from nestvec.core.ports import VectorStore
from nestvec.core.watermark import Watermark
from nestvec.ingest.options import IngestOptions
from nestvec.ingest.visibility import Visibility
from nestvec.telemetry.logs import logger

_HOUR_S = 3600.0
_log = logger()

# None: nobody needs them.
NeededSince = Callable[[Collection], Awaitable[int | None]]


@dataclass(slots=True)
class _Debt:
    """One collection in which something is to be freed.

    written: up to where. seen: (seconds on the monotonic clock, what shards had passed by then),
    oldest first. freed: up to where that was done.
    """

    collection: Collection
    written: Watermark
    seen: deque[tuple[float, Watermark]] = field(default_factory=deque)
    freed: Watermark | None = None


class Tidier:
    """One task for all collections; it begins with those that it finds in the store."""

    def __init__(
        self,
        store: VectorStore,
        visibility: Visibility,
        options: IngestOptions,
        now_ms: Callable[[], int],
        needed_since: NeededSince | None = None,
    ) -> None:
        """needed_since: since when (milliseconds since 1970) deletions in a collection may be news
        to another region, whatever their age.
        """
        self._store = store
        self._visibility = visibility
        self._options = options
        self._now_ms = now_ms
        self._needed_since = needed_since
        self._debts: dict[tuple[str, int], _Debt] = {}
        self._begun = False
        self._expire_at = 0.0
        self._failing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop. Safe to repeat."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_tidy())

    async def close(self) -> None:
        """Stop. What is left to free is freed by the next process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wrote(self, collection: Collection, watermark: Watermark) -> None:
        """Something up to there may have replaced or deleted something. Before `start` too."""
        key = collection.name, collection.generation
        debt = self._debts.get(key)
        if debt is None:
            self._debts[key] = _Debt(collection, watermark)
            self._wake.set()
        else:
            debt.collection = collection
            debt.written = debt.written.joined(watermark)

    async def _keep_tidy(self) -> None:
        while True:
            try:
                await self.round()
                self._failing = False
            except NestvecError as error:
                self._complain(error)
            except Exception as error:  # noqa: BLE001  a bug must not end it unseen
                _log.error("tidying.bug", error=repr(error), exc_info=True)
            await self._rest()

    async def _rest(self) -> None:
        """Until the next round: soon while there is something to do."""
        if self._debts or not self._begun:
            await asyncio.sleep(self._options.tidy_every_s)
            return
        self._wake.clear()
        left = max(self._expire_at - time.monotonic(), self._options.tidy_every_s)
        # Not wait_for: in Python 3.11 it swallows a cancellation that meets what it waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._wake.wait()

    def _complain(self, error: NestvecError) -> None:
        """Once for each time that it begins to fail."""
        if not self._failing:
            _log.warning("tidying.failed", error=str(error), hint="it is tried again every second")
        self._failing = True

    # --- one round ------------------------------------------------------------------------------

    async def round(self) -> None:
        """Do what can be done now. Raises the last error, after having tried everything."""
        failed: NestvecError | None = None
        if not self._begun:
            await self._begin()
        for debt in list(self._debts.values()):
            try:
                await self._pay(debt)
            except NotFound:
                # Dropped; or its shards have not opened it yet.
                if not await self._store.lists(debt.collection):
                    self._settle(debt)
            except NestvecError as error:
                failed = error
        if time.monotonic() >= self._expire_at:
            await self._expire()
        if failed is not None:
            raise failed

    async def _begin(self) -> None:
        """What an earlier process left behind stands in the log."""
        for collection in (await self._store.listing()).generations:
            there = await self._store.positions(collection, range(collection.partitions))
            self.wrote(collection, Watermark(collection.generation, there))
        self._begun = True

    async def _pay(self, debt: _Debt) -> None:
        collection, written, now = debt.collection, debt.written, time.monotonic()
        debt.seen.append((now, await self._visibility.progress(collection)))
        oldest_allowed = now - self._options.purge_after_s
        while len(debt.seen) > 1 and debt.seen[1][0] <= oldest_allowed:
            debt.seen.popleft()
        seen_at, upto = debt.seen[0]
        if seen_at > oldest_allowed:
            return
        if upto != debt.freed:
            await self._store.tidy(collection, upto.sequences, self._options.log_entries)
            debt.freed = upto
        if written.reached_by(upto.sequences) and written is debt.written:
            self._settle(debt)

    def _settle(self, debt: _Debt) -> None:
        self._debts.pop((debt.collection.name, debt.collection.generation), None)

    async def _expire(self) -> None:
        """Forget old deletions: a write older than these could now bring its document back."""
        before_ms = self._now_ms() - round(self._options.tombstone_hours * 3600e3)
        for collection in (await self._store.listing()).generations:
            needed_ms = None
            if self._needed_since is not None:
                needed_ms = await self._needed_since(collection)
            upto_ms = before_ms if needed_ms is None else min(before_ms, needed_ms)
            if upto_ms < before_ms:
                _log.info(
                    "tombstones.kept",
                    collection=collection.name,
                    hint="a region may not have been told of them; see `nestvec regions`",
                )
            await self._store.expire_tombstones(collection, upto_ms)
        self._expire_at = time.monotonic() + _HOUR_S
