"""Following the ingest log: a shard pulls what was written, in bounded batches, and indexes it.

It looks at the positions of its partitions every now and then, and at once when somebody waits.
Where the log does not continue from where the shard stands, the partition is compared with the
store: entries were trimmed before this shard read them, or the store lost its last writes and the
shard knows documents that no longer exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import numpy as np

from nestvec.coarse.served import Served, indexed_ids, to_its_end
from nestvec.coarse.stored_rows import RowSource
from nestvec.core.arrays import Ids
from nestvec.core.errors import NestvecError
from nestvec.core.ports import VectorStore
from nestvec.core.watermark import follows, split_sequence
from nestvec.telemetry.logs import logger
from nestvec.telemetry.metrics import LOG_GAPS

# After this many looks that found nothing, looks are further apart.
_IDLE_LOOKS = 50
_IDLE_FACTOR = 2.5
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_NONE = np.empty(0, np.int64)
_log = logger()


class Follower:
    """Keeps one collection of a shard in line with the store.

    batch: about how many documents are read at once. poll_s: how often to look.
    """

    def __init__(
        self, served: Served, store: VectorStore, rows: RowSource, batch: int, poll_s: float
    ) -> None:
        self._served = served
        self._store = store
        self._rows = rows
        self._batch = batch
        self._poll_s = poll_s
        self._only_wanted = False

    async def run(self) -> None:
        """Until cancelled. A store that does not answer is asked again, and searches go on."""
        failures = idle_looks = 0
        while True:
            self._served.progress.poked.clear()
            try:
                moved = await self.look()
            except Exception as error:  # noqa: BLE001  whatever it was, this must not end
                failures += 1
                if failures == 1:
                    self._complain(error)
                # A poke is the sign of a write, and so of a store that works again; still not at
                # once, since whoever waits may also be why it does not.
                await asyncio.sleep(_FIRST_RETRY_S)
                await self._pause(min(_FIRST_RETRY_S * 2 ** min(failures, 8), _LAST_RETRY_S))
                continue
            if failures:
                _log.info("coarse.follow_resumed", **self._named(), failures=failures)
                failures = 0
            if moved:
                idle_looks = 0
                continue
            idle_looks += 1
            slower = _IDLE_FACTOR if idle_looks > _IDLE_LOOKS else 1.0
            await self._pause(self._poll_s * slower)

    def _complain(self, error: Exception) -> None:
        """Once an outage. What is none of our errors is a bug, and shown whole."""
        bug = None if isinstance(error, NestvecError) else error
        _log.error("coarse.follow_failed", **self._named(), reason=str(error), exc_info=bug)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._served.progress.poked.wait()
        except TimeoutError:
            pass

    def _named(self) -> dict[str, object]:
        collection = self._served.collection
        return {"collection": collection.name, "generation": collection.generation}

    # --- one look -------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """All that was written before this call, before `run` has begun."""
        lap = self._served.progress.lap()
        while not lap.done():
            await self.look()

    async def look(self) -> bool:
        """Index what is new, one batch of it. Returns whether there was anything.

        What somebody waits for is read without asking where the log ends, but only every other
        time: the other partitions must not fall behind.
        """
        progress = self._served.progress
        wanted = progress.wanted()
        self._only_wanted = bool(wanted) and not self._only_wanted
        if self._only_wanted and await self._follow(wanted):
            return True
        laps = progress.looking()
        there = await self._store.positions(self._served.collection, self._served.mine)
        progress.looked(laps, there)
        lost = [p for p, sequence in there.items() if sequence < progress.position(p)]
        if lost:
            await self._mend_lost(lost)
        behind = [p for p, sequence in there.items() if sequence > progress.position(p)]
        return await self._follow(behind, behind=True) or bool(lost)

    async def _follow(self, partitions: Iterable[int], behind: bool = False) -> bool:
        """One batch of some partitions. behind: the store says that there is more of all of them,
        so that a log without any of it was trimmed to nothing.
        """
        served, progress = self._served, self._served.progress
        async with served.writing:
            after = {partition: progress.position(partition) for partition in partitions}
            if not after:
                return False
            batches = await self._store.read_log(served.collection, after, self._batch)
            sound = [one for one in batches if follows(after[one.partition], one.first)]
            if sound:
                added = np.concatenate([one.added for one in sound])
                removed = np.concatenate([one.removed for one in sound])
                await self._change(added, removed)
                progress.advance({one.partition: one.last for one in sound})
            for one in batches:
                position = after[one.partition]
                if not follows(position, one.first):
                    await self._mend(one.partition, _reason(position, one.first), one.first)
            if behind:
                # One by one: others of which more is written all the time must not hide it.
                for partition in after.keys() - {one.partition for one in batches}:
                    await self._mend(partition, "log_trimmed")
        return behind or bool(batches)

    async def _change(self, added: Ids, removed: Ids) -> None:
        """Where a vector is gone, its document was replaced or deleted by a later entry."""
        if not len(added) and not len(removed):
            return
        served = self._served
        rows = await self._rows.read(served.collection, added)
        left_out = await to_its_end(self._rows.index(served, rows, removed))
        if left_out.damaged:
            _log.warning("coarse.vectors_left_out", **self._named(), vectors=left_out.damaged)
        served.touch()

    # --- comparing with the store ---------------------------------------------------------------

    async def repair(self, partitions: Iterable[int]) -> None:
        """Compare partitions with the store, and bring every tier in line with it."""
        async with self._served.writing:
            for partition in partitions:
                indexed, unindexed, _ = await self._mend_one(partition)
                _log.warning(
                    "coarse.repaired",
                    **self._named(),
                    partition=partition,
                    indexed=indexed,
                    unindexed=unindexed,
                )

    async def _mend_lost(self, partitions: Iterable[int]) -> None:
        """Of partitions that seem to be ahead of the store: a repair may have moved them since."""
        served = self._served
        async with served.writing:
            for partition in partitions:
                one = range(partition, partition + 1)
                there = await self._store.positions(served.collection, one)
                if there[partition] < served.progress.position(partition):
                    await self._mend(partition, "store_lost_writes")

    async def _mend(self, partition: int, reason: str, first: int | None = None) -> None:
        """The lock is held. first: what the log goes on with."""
        before = self._served.progress.position(partition)
        missing, surplus, position = await self._mend_one(partition)
        LOG_GAPS.labels(reason=reason).inc()
        _log.warning(
            "coarse.log_gap",
            **self._named(),
            partition=partition,
            reason=reason,
            position=before,
            log_continues_at=first,
            store_position=position,
            indexed=missing,
            unindexed=surplus,
        )

    async def _mend_one(self, partition: int) -> tuple[int, int, int]:
        """How many were missing and how many surplus, and the position the partition has now.

        The position is read first: what changes during the scan is in the log after it, and
        applying it again does no harm.
        """
        served = self._served
        collection, one = served.collection, range(partition, partition + 1)
        there: Mapping[int, int] = await self._store.positions(collection, one)
        live = await self.live_ids(partition)
        indexed = [indexed_ids(tier.state, partition) for tier in served.all_tiers()]
        missing = _union(np.setdiff1d(live, ids, assume_unique=True) for ids in indexed)
        surplus = _union(np.setdiff1d(ids, live, assume_unique=True) for ids in indexed)
        # Together as far as they go: a replaced document has an id in both.
        await self._change(missing[: self._batch], surplus)
        for start in range(self._batch, len(missing), self._batch):
            await self._change(missing[start : start + self._batch], _NONE)
        served.progress.reset(partition, there[partition])
        return len(missing), len(surplus), there[partition]

    async def live_ids(self, partition: int) -> Ids:
        """(n,) int64, ascending: every live document of a partition as a scan finds them."""
        one = range(partition, partition + 1)
        batches = [ids async for ids in self._store.live_ids(self._served.collection, one)]
        return np.unique(np.concatenate(batches)) if batches else _NONE


def _reason(position: int, first: int) -> str:
    """Why the log goes on with `first` for a shard that stands at `position`."""
    lost = split_sequence(first)[1] <= split_sequence(position)[1]
    return "store_lost_writes" if lost else "log_trimmed"


def _union(parts: Iterable[Ids]) -> Ids:
    return np.unique(np.concatenate([_NONE, *parts]))
