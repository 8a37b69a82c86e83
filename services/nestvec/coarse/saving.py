"""When a shard's snapshots are made: when asked, now and then where something changed, and at the
end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from nestvec.coarse.served import Served
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.concurrency import BoundedExecutor
from nestvec.core.errors import SnapshotFailed
from nestvec.core.ports import SnapshotInfo
from nestvec.telemetry.logs import logger

_log = logger()


class Saver:
    """threads: one, so that the calls for a collection do not overlap. snapshots: None where there
    is no place for them. turn: whether it is for this replica to save by itself; when asked, it
    saves in any case.
    """

    def __init__(
        self,
        snapshots: ShardSnapshots | None,
        threads: BoundedExecutor,
        every_s: float,
        turn: Callable[[], bool] = lambda: True,
    ) -> None:
        self._snapshots = snapshots
        self._threads = threads
        self._every_s = every_s
        self._turn = turn

    async def save(self, served: Served) -> SnapshotInfo:
        """Write one now. Raises SnapshotFailed."""
        if self._snapshots is None:
            raise SnapshotFailed(
                "there is no place for snapshots; name a folder or a URL in coarse.snapshots"
            )
        # In this order: what is applied meanwhile is applied once more after a start, and that
        # changes nothing. Keywords only ever come to be more, and names are there before what
        # they name can be found.
        positions = dict(served.progress.positions)
        states = {dim: tier.state for dim, tier in served.tiers.items()}
        keywords = served.table.keywords()
        names = None if served.names is None else served.names.chunks
        collection = served.collection
        save = partial(self._snapshots.save, collection, states, positions, keywords, names)
        info = await self._threads.run("snapshot", None, save)
        if served.collection is collection:
            # Otherwise tiers came or went meanwhile, and this snapshot is not the newest state.
            served.saved = positions
        return info

    async def save_if_changed(self, served: Served) -> None:
        """A failure is logged: the shard can always start from the store."""
        if self._snapshots is None or not served.unsaved or not self._turn():
            return
        try:
            info = await self.save(served)
        except Exception as error:  # noqa: BLE001  see above
            _log.error(
                "snapshot.failed",
                collection=served.collection.name,
                snapshots=self._snapshots.location,
                reason=str(error),
                exc_info=None if isinstance(error, SnapshotFailed) else error,
            )
        else:
            _log.info(
                "snapshot.saved",
                collection=served.collection.name,
                snapshot=info.location,
                documents=info.documents,
                nbytes=info.nbytes,
            )

    async def keep_saving(self, served: Served) -> None:
        """Until cancelled. Preferably when merges are done, so that the next one rewrites less."""
        if self._snapshots is None or not self._every_s:
            return
        while True:
            await asyncio.sleep(self._every_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await served.settled.wait()
            await self.save_if_changed(served)

    async def forget(self, name: str, generation: int) -> None:
        """Delete the snapshots of what was dropped."""
        if self._snapshots is None:
            return
        try:
            forget = partial(self._snapshots.forget, name, generation)
            await self._threads.run("snapshot", None, forget)
        except SnapshotFailed as error:
            _log.warning("snapshot.not_deleted", collection=name, reason=str(error))
