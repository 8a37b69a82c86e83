"""Which collections a worker of a cluster serves: those that are assigned to its layout.

It compares what it serves with the catalogue and the assignments at every heartbeat, and at once
when the cluster changes. Nobody has to tell it anything: what is created, dropped or moved while it
runs is picked up, and so is what it missed. It is ready when all that is assigned is open and has
caught up with the log as it then was.

Where nothing at all is assigned (nobody has said so yet, or the registry lost it), what is served
stays: an empty registry must not empty the workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from nestvec.coarse.app import CoarseApp
from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.members import ClusterView, Facts, Place, documents_key
from nestvec.membership.measures import Load, resident_bytes
from nestvec.membership.watch import Watch
from nestvec.telemetry.logs import logger

_Key = tuple[str, int]
# Each reads snapshots or the store with several threads.
_OPENED_AT_ONCE = 2
_AFTER_FAILURE_S = 2.0
_log = logger()


class Holdings:
    """Of one worker. read: every generation of the catalogue, without what is being restored."""

    def __init__(
        self,
        app: CoarseApp,
        read: Callable[[], Awaitable[Sequence[Collection]]],
        watch: Watch,
        place: Place,
        heartbeat_s: float,
        load: Load,
    ) -> None:
        self._app = app
        self._read = read
        self._watch = watch
        self._place = place
        self._heartbeat_s = heartbeat_s
        self._load = load
        self._opening: dict[_Key, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_OPENED_AT_ONCE)
        self._poked = asyncio.Event()
        # Everything that was wanted at the last look is served.
        self._complete = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look. The watch has been started."""
        assert self._task is None, "started already"
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Look no more; what is served stays served. Safe to repeat."""
        tasks = [*self._opening.values(), *([self._task] if self._task else [])]
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until_ready(self) -> None:
        """Return once all that is assigned by now is open, and holds what the store holds now."""
        self._complete.clear()
        self._poked.set()
        await self._complete.wait()
        for served in self._app.held():
            # Where it was dropped meanwhile there is nothing to catch up with.
            with suppress(NestvecError):
                await served.progress.catch_up()

    async def facts(self) -> Facts:
        """For the next heartbeat."""
        held = self._app.held()
        return Facts(
            documents={
                documents_key(one.collection.name, one.collection.generation): one.documents
                for one in held
            },
            lag=sum(one.progress.lag for one in held),
            memory_bytes=resident_bytes(),
            p95_ms=self._load.p95_ms,
            queue=self._load.queue,
        )

    # --- looking --------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Until cancelled. A store that does not answer is asked again, and searches go on."""
        while True:
            self._poked.clear()
            view = self._watch.view
            try:
                await self._look(view)
            except Exception as error:  # noqa: BLE001  whatever it was, this must not end
                self._complain(error)
            else:
                self._failing = False
            await self._pause(view)

    async def _pause(self, view: ClusterView) -> None:
        waits = [
            asyncio.create_task(self._poked.wait()),
            asyncio.create_task(self._watch.changed(view)),
        ]
        try:
            await asyncio.wait(
                waits, timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _look(self, view: ClusterView) -> None:
        # Before the catalogue is read: what an administrator opens meanwhile is not in it yet.
        before = {_key(one.collection): one.collection for one in self._app.held()}
        listed = {_key(one): one for one in await self._read()}
        for name, generation in before:
            if (name, generation) not in listed:
                await self._app.drop(name, generation)
            elif self._assigned(view, name) is False:
                _log.info("collection.moved_away", collection=name, layout=str(self._place.layout))
                await self._app.release(name, generation)
        wanted = [one for one in listed.values() if self._assigned(view, one.name)]
        self._opening = {key: task for key, task in self._opening.items() if not task.done()}
        for collection in wanted:
            self._open(collection, before.get(_key(collection)))
        if not self._opening and not self._poked.is_set():
            self._complete.set()

    def _assigned(self, view: ClusterView, name: str) -> bool | None:
        """None where nobody has said."""
        assignment = view.assignment(name)
        return None if assignment is None else self._place.layout in assignment.layouts()

    def _open(self, collection: Collection, before: Collection | None) -> None:
        """Unless it is open. before: what was served of it before the catalogue was read."""
        key = _key(collection)
        now = next(
            (one.collection for one in self._app.held() if _key(one.collection) == key), None
        )
        # Where it has changed since, somebody else has opened a later one than was read.
        if key in self._opening or now == collection or (now is not None and now is not before):
            return
        self._opening[key] = asyncio.create_task(self._open_one(collection))

    async def _open_one(self, collection: Collection) -> None:
        named = {"collection": collection.name, "generation": collection.generation}
        try:
            async with self._places:
                documents = await self._app.open(collection)
        except Exception as error:  # noqa: BLE001  tried again, unless it is gone by then
            bug = None if isinstance(error, NestvecError) else error
            _log.error("collection.not_opened", **named, reason=str(error), exc_info=bug)
            await asyncio.sleep(_AFTER_FAILURE_S)
        else:
            _log.info("collection.opened", **named, documents=documents)
        self._poked.set()

    def _complain(self, error: Exception) -> None:
        """Once an outage. What is none of our errors is a bug, and shown whole."""
        if self._failing:
            return
        self._failing = True
        bug = None if isinstance(error, NestvecError) else error
        _log.error("holdings.not_compared", reason=str(error), exc_info=bug)


def _key(collection: Collection) -> _Key:
    return collection.name, collection.generation


def saves(view: ClusterView, place: Place, name: str) -> bool:
    """Whether this worker, `name`, saves its shard's snapshots by itself: one replica does, so that
    they are not written twice and each save does not delete what another has just written. It is
    the first by name of those that are ready; alone it is whoever is there.
    """
    ready = [one.name for one in view.workers(place.layout, place.shard) if one.is_ready]
    return min(ready, default=name) == name
