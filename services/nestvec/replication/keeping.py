"""Looking after every migration of the store: who does the work of each, and what it leaves behind.

Several processes may look. A claim that expires decides which of them works on one, so that a
process that dies is followed by another.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.migration import Listing, Phase
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
        self._owner = secrets.token_hex(8)
        self._runners: dict[str, asyncio.Task[None]] = {}
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
            if await self._claim(name):
                self._runners[name] = asyncio.create_task(self._work(name))
        for name in orphans - self._runners.keys():
            await self.clean_up(name)

    async def _work(self, name: str) -> None:
        """Run while the claim holds."""
        runner = asyncio.create_task(Runner(self._rooms, name, self._owner).run())
        try:
            while not runner.done():
                await asyncio.wait((runner,), timeout=self._rooms.pauses.claim / 3)
                if not runner.done() and not await self._renewed(name):
                    _log.warning("migration.claim_lost", collection=name)
                    return
            await runner
            await self._rooms.store.release_migration(name, self._owner)
        except NestvecError as error:
            _log.warning("migration.interrupted", collection=name, reason=str(error))
        except Exception as error:  # noqa: BLE001  shown, and begun again
            _log.error("migration.bug", collection=name, error=repr(error), exc_info=True)
        finally:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)

    async def _claim(self, name: str) -> bool:
        ttl_s = self._rooms.pauses.claim
        return await self._rooms.store.claim_migration(name, self._owner, ttl_s)

    async def _renewed(self, name: str) -> bool:
        """A store that does not answer keeps nobody from anything: its claims do not change."""
        try:
            return await self._claim(name)
        except NestvecError:
            return True

    async def clean_up(self, name: str) -> None:
        """Drop generations that belong to no migration any more, and its numbers. Also what a
        process that was killed left.
        """
        if not await self._claimed(name):
            return
        try:
            listing = await self._rooms.store.listing()
            for one in listing.beside:
                if one.name == name and not _belongs(listing, one):
                    _log.info("generation.dropped", collection=name, generation=one.generation)
                    await self._rooms.generations.drop_generation(one)
            migration = await self._rooms.store.migration(name)
            if migration is not None and migration.ended:
                for heading in passing_headings(migration.source, migration.target):
                    await self._rooms.store.drop_tally(name, heading)
        finally:
            await self._rooms.store.release_migration(name, self._owner)

    async def _claimed(self, name: str) -> bool:
        """Waits for a runner that sees by itself that there is nothing left to do."""
        deadline_s = time.monotonic() + 2 * self._rooms.pauses.claim
        runner = self._runners.get(name)
        if runner is not None:
            await asyncio.wait((runner,), timeout=self._rooms.pauses.claim)
        while not await self._rooms.store.claim_migration(name, self._owner, _CLEANING_S):
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
