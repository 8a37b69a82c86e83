"""Looking after every migration of the store: who does the work of each, and what it leaves behind.

Several processes may look. A claim that expires decides which of them works on one, so that a
process that dies is followed by another.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.migration import Listing, Phase
from nestvec.replication.claiming import Claims
from nestvec.replication.headings import passing_headings
from nestvec.replication.running import Rooms, Runner
from nestvec.telemetry.logs import logger

# Cleaning up may take longer than the work's own claims last.
_CLEANING_S = 60.0
_LOOK_S = 0.25
_log = logger()


class Keeper:
    """One a process."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._listing = Listing(-1, ())
        self._claims = Claims(rooms.store, rooms.pauses.claim)
        self._runners: dict[str, asyncio.Task[None]] = {}
        # Of each collection: a runner is begun, or one's traces are cleaned up, not both.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def poke(self) -> None:
        """Look now: something has changed."""
        self._poked.set()

    def start(self) -> None:
        """Look after migrations from now on, in the running loop."""
        assert self._task is None, "started already"
        self._task = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Stop; what is under way goes on where another process, or the next one, takes it up."""
        tasks = [*self._runners.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    async def _keep_looking(self) -> None:
        failing = False
        while True:
            self._poked.clear()
            try:
                await self._look()
                failing = False
            except NestvecError as error:
                if not failing:
                    _log.warning("migrations.not_read", reason=str(error))
                failing = True
            except Exception as error:  # noqa: BLE001  a bug must not end it unseen
                _log.error("migrations.bug", error=repr(error), exc_info=True)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._poked.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        self._runners = {name: task for name, task in self._runners.items() if not task.done()}
        if await self._rooms.store.catalogue_revision() != self._listing.revision:
            self._listing = await self._rooms.store.listing()
        listing = self._listing
        wanted = {one.collection for one in listing.migrations if not one.ended}
        orphans = {one.name for one in listing.beside if not _belongs(listing, one)}
        for name in wanted - self._runners.keys():
            await self._begin(name)
        for name in orphans - self._runners.keys():
            if not self._turns[name].locked():
                await self.clean_up(name)

    async def _begin(self, name: str) -> None:
        """Where nobody works on it. What is being cleaned up waits for the next look."""
        if self._turns[name].locked():
            return
        async with self._turns[name]:
            if await self._claims.take(name):
                self._runners[name] = asyncio.create_task(self._work(name))

    async def _work(self, name: str) -> None:
        """Run while the claim holds."""
        runner = Runner(self._rooms, name, self._claims.owner, lambda: self._holds(name))
        try:
            while await self._interrupted(runner, name):
                pass
            await self._claims.release(name)
        except NestvecError as error:
            _log.warning("migration.interrupted", collection=name, reason=str(error))
        except Exception as error:  # noqa: BLE001  shown, and begun again
            _log.error("migration.bug", collection=name, error=repr(error), exc_info=True)

    async def _interrupted(self, runner: Runner, name: str) -> bool:
        """Run it until it has ended, or the claim is lost; or, returning True, until somebody
        wished otherwise: it may be run again at once. By itself it looks at the record between two
        steps, and a step may copy an eighth of the collection.
        """
        begun = await self._terms(name)
        running = asyncio.create_task(runner.run())
        try:
            while not (await asyncio.wait((running,), timeout=self._rooms.pauses.claim / 3))[0]:
                held, stands = await asyncio.gather(
                    self._claims.renewed(name), self._stands(name, begun)
                )
                if not held:
                    _log.warning("migration.claim_lost", collection=name)
                    return False
                if not stands:
                    return True
            await running
            return False
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _terms(self, name: str) -> tuple[bool, bool, float]:
        """What a runner must heed in the middle of a step."""
        migration = await self._rooms.store.migration(name)
        if migration is None:
            return True, False, 0.0
        return migration.ended, migration.paused, migration.wish.rate

    async def _stands(self, name: str, begun: tuple[bool, bool, float]) -> bool:
        """A store that does not answer, or not in time, has nothing else to say."""
        try:
            async with asyncio.timeout(self._rooms.pauses.claim / 3):
                return await self._terms(name) == begun
        except (NestvecError, TimeoutError):
            return True

    def _holds(self, name: str) -> bool:
        return self._claims.holds(name)

    # --- what it leaves behind ------------------------------------------------------------------

    async def clean_up(self, name: str) -> None:
        """Drop generations that belong to no migration any more, and its numbers. Also what a
        process that was killed left.
        """
        # No runner begins under the claim that is given up in the end.
        async with self._turns[name]:
            if not await self._claimed(name):
                return
            try:
                await self._clean(name)
            finally:
                await self._claims.release(name)

    async def _clean(self, name: str) -> None:
        listing = await self._rooms.store.listing()
        for one in listing.beside:
            if one.name == name and not _belongs(listing, one):
                _log.info("generation.dropped", collection=name, generation=one.generation)
                await self._rooms.generations.drop_generation(one)
        migration = await self._rooms.store.migration(name)
        if migration is not None and migration.ended:
            for heading in passing_headings(migration.source, migration.target):
                await self._rooms.store.drop_tally(name, heading)

    async def _claimed(self, name: str) -> bool:
        """Also from this process's own runner, which must not write to what is dropped; False where
        that works for another migration by now, and cleans up itself. One of another process sees
        that there is nothing left to do.
        """
        runner = self._runners.get(name)
        if runner is not None and not runner.done():
            if not (await self._terms(name))[0]:
                return False
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        deadline_s = time.monotonic() + 2 * self._rooms.pauses.claim
        while not await self._rooms.store.claim_migration(name, self._claims.owner, _CLEANING_S):
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(self._rooms.pauses.idle)
        return True


def _belongs(listing: Listing, collection: Collection) -> bool:
    """Whether a migration that is under way needs this generation. What it has made and not yet
    written down is its runner's own business.
    """
    for one in listing.migrations:
        if one.collection == collection.name and not one.ended:
            made = collection.generation in (one.source, one.target)
            return made or one.phase is Phase.CHECKING
    return False
