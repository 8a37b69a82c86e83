"""The second step of ingest: store, index, then free what was replaced. One change at a time.

Store before indexing, unindex before deleting: nothing searchable ever lacks its full vector.
A change that failed half-way, or whose answer was lost, leaves its documents *suspect*: before the
next change the store is asked what became of them, and the coarse tier is brought in line.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import payload_to_bytes
from nestvec.core.errors import CorruptVector, NestvecError, NotFound
from nestvec.core.placement import shard_of, split_id
from nestvec.core.ports import CoarseRows, CoarseSearcher, StoreRecord, VectorStore
from nestvec.ingest.batch import Outcome, Prepared, Refusal

# One transaction of the store, so that a batch is written whole or not at all: bytes and records.
_BATCH_BYTES = 2 << 20
_BATCH_RECORDS = 1024
_RECONCILE_EVERY_S = 1.0
_NONE = np.empty(0, np.int64)
Result = TypeVar("Result")


@dataclass(slots=True)
class _Turn:
    """Who may change a collection now, and what its last failed change left behind.

    suspects: external ids to the internal ids (or -1) that they had before that change.
    reconciler: what looks after them while no further change comes.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    suspects: dict[str, int] = field(default_factory=dict)
    reconciler: asyncio.Future[None] | None = None


class Committer:
    """Writes prepared batches and deletes. A collection has one of these, in one process."""

    def __init__(
        self, shards: Sequence[CoarseSearcher], store: VectorStore, purge_after_s: float
    ) -> None:
        self._shards = shards
        self._store = store
        self._purge_after_s = purge_after_s
        self._turns: defaultdict[tuple[str, int], _Turn] = defaultdict(_Turn)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing = asyncio.Event()

    async def commit(self, prepared: Prepared) -> Outcome:
        """Make a batch searchable. Once begun it is finished, even when the caller goes away."""
        indexed = 0
        for part in _parts(prepared):
            indexed += await self._finish(self._commit(part))
            prepared.failures.extend(part.failures)
        return Outcome(indexed, prepared.failures)

    async def delete(self, collection: Collection, ids: list[str]) -> tuple[int, list[str]]:
        """How many were deleted, and the ids that named nothing."""
        return await self._finish(self._delete(collection, ids))

    async def close(self) -> None:
        """Finish what was begun, and free what waits to be freed."""
        self._closing.set()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- changes --------------------------------------------------------------------------------

    async def _commit(self, part: Prepared) -> int:
        collection = part.collection
        values = collection.codec.encode(part.vectors)
        records = [
            StoreRecord(item.document.id, value, payload_to_bytes(item.document))
            for item, value in zip(part.items, values, strict=True)
        ]
        names = [record.external_id for record in records]
        turn = self._turn(collection)
        try:
            async with turn.lock:
                await self._reconcile(collection, turn)
                before = await self._find(collection, names)
                turn.suspects = dict(zip(names, map(int, before), strict=True))
                placed = await self._store.put(collection, records)
                ids = np.array([place.internal_id for place in placed], np.int64)
                stored = collection.codec.decode(values)
                await self._apply(collection, CoarseRows(ids, stored, before[before >= 0]))
                turn.suspects = {}
        except NestvecError as error:
            for number in range(len(part.items)):
                part.refuse(number, Refusal.UNAVAILABLE, str(error))
            return 0
        finally:
            self._reconcile_later(collection)
        self._purge_later(collection, before[before >= 0])
        return len(placed)

    async def _delete(self, collection: Collection, names: list[str]) -> tuple[int, list[str]]:
        turn = self._turn(collection)
        try:
            async with turn.lock:
                await self._reconcile(collection, turn)
                before = await self._store.find(collection, names)
                live = before[before >= 0]
                if len(live):
                    named = [names[number] for number in np.flatnonzero(before >= 0)]
                    turn.suspects = dict(zip(named, map(int, live), strict=True))
                    await self._apply(collection, _only_removed(collection, live))
                    await self._store.unmap(collection, named)
                    turn.suspects = {}
        finally:
            self._reconcile_later(collection)
        self._purge_later(collection, live)
        return len(live), [names[number] for number in np.flatnonzero(before < 0)]

    async def _find(self, collection: Collection, names: Sequence[str]) -> Ids:
        """As the store's own, but -1 where the id map has a damaged entry: writing the document
        again is what heals it. Its old row may be found beside the new one until the next start.
        """
        try:
            return await self._store.find(collection, names)
        except CorruptVector:
            if len(names) == 1:
                return np.full(1, -1, np.int64)
            half = len(names) // 2
            parts = (names[:half], names[half:])
            return np.concatenate([await self._find(collection, part) for part in parts])

    async def _finish(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Run a change to its end whatever becomes of the caller."""
        return await asyncio.shield(self._keep(change))

    def _keep(self, work: Coroutine[Any, Any, Result]) -> asyncio.Future[Result]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _turn(self, collection: Collection) -> _Turn:
        return self._turns[collection.name, collection.generation]

    # --- after a failure ------------------------------------------------------------------------

    async def _reconcile(self, collection: Collection, turn: _Turn) -> None:
        """Bring the coarse tier in line with the store for the documents of a failed change.

        Whichever of its steps were done, this ends in the same state: what the store's id map
        names is indexed once, and what it does not name is not.
        """
        if not turn.suspects:
            return
        names, before = list(turn.suspects), np.array(list(turn.suspects.values()), np.int64)
        now = await self._find(collection, names)
        live = now[now >= 0]
        positions, vectors = collection.codec.decode_sound(
            await self._store.vectors(collection, live)
        )
        ids = live[positions]
        removed = np.concatenate([before[before >= 0], ids])
        await self._apply(collection, CoarseRows(ids, vectors, removed))
        stale = (before >= 0) & (before != now)
        turn.suspects = {}
        self._purge_later(collection, before[stale])

    def _reconcile_later(self, collection: Collection) -> None:
        """Where a change failed: one task a collection, however many changes fail."""
        turn = self._turn(collection)
        if turn.suspects and (turn.reconciler is None or turn.reconciler.done()):
            turn.reconciler = self._keep(self._keep_reconciling(collection, turn))

    async def _keep_reconciling(self, collection: Collection, turn: _Turn) -> None:
        """Without waiting for the next change: until then a search may find an old version."""
        while turn.suspects and not self._closing.is_set():
            await self._pause(_RECONCILE_EVERY_S)
            try:
                async with turn.lock:
                    await self._reconcile(collection, turn)
            except NotFound:
                # Dropped meanwhile, and its documents with it.
                turn.suspects = {}
            except NestvecError:
                continue

    # --- the coarse tier and the store's leftovers ------------------------------------------------

    async def _apply(self, collection: Collection, rows: CoarseRows) -> None:
        """Hand each shard its rows."""
        if len(self._shards) == 1:
            await self._shards[0].apply(collection, rows)
            return
        homes = self._homes(collection, rows.ids)
        old_homes = self._homes(collection, rows.removed)
        changes = []
        for number, shard in enumerate(self._shards):
            mine, old = homes == number, old_homes == number
            if mine.any() or old.any():
                part = CoarseRows(rows.ids[mine], rows.vectors[mine], rows.removed[old])
                changes.append(shard.apply(collection, part))
        for result in await asyncio.gather(*changes, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _homes(self, collection: Collection, ids: Ids) -> Ids:
        count = len(self._shards)
        homes = [shard_of(split_id(int(i))[0], collection.partitions, count) for i in ids]
        return np.array(homes, np.int64)

    def _purge_later(self, collection: Collection, ids: Ids) -> None:
        if len(ids):
            self._keep(self._purge(collection, ids))

    async def _purge(self, collection: Collection, ids: Ids) -> None:
        """A search that began before the change may still fetch these vectors for a while."""
        await self._pause(self._purge_after_s)
        # Where it fails, unreachable rows cost memory until the collection is dropped, and
        # nothing else: no id map names them.
        with contextlib.suppress(NestvecError):
            await self._store.purge(collection, ids)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def _only_removed(collection: Collection, ids: Ids) -> CoarseRows:
    return CoarseRows(_NONE, np.empty((0, collection.store_dim), np.float32), ids)


def _parts(prepared: Prepared) -> list[Prepared]:
    """The batch in pieces of one transaction each."""
    parts: list[Prepared] = []
    start = size = 0
    vector_bytes = prepared.collection.codec.nbytes
    for number, item in enumerate(prepared.items):
        weight = vector_bytes + 4 * len(item.document.text)
        if number > start and (size + weight > _BATCH_BYTES or number - start >= _BATCH_RECORDS):
            parts.append(prepared.part(start, number))
            start, size = number, 0
        size += weight
    if start < len(prepared.items):
        parts.append(prepared.part(start, len(prepared.items)))
    return parts
