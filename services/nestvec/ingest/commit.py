"""The second step of ingest: into the store, whose log tells every shard.

A batch goes in parts of one transaction each. Which of two writes of an id stands is decided by
their versions in the store itself, so nothing here needs to know what else is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from nestvec.core.clock import MAX_VERSION, HybridClock
from nestvec.core.collection import Collection
from nestvec.core.document import payload_to_bytes
from nestvec.core.errors import MigrationRefused, NestvecError, NotFound, StoreUnavailable
from nestvec.core.ports import (
    Carrying,
    Deleted,
    Placed,
    StoreDeletion,
    StoreRecord,
    VectorStore,
)
from nestvec.core.watermark import Watermark
from nestvec.ingest.batch import Deletion, Prepared, Refusal, Stored, Taken
from nestvec.ingest.finishing import Finishing
from nestvec.ingest.visibility import Visibility

# One transaction of the store, so that a batch is written whole or not at all: bytes and records.
_BATCH_BYTES = 2 << 20
_BATCH_RECORDS = 1024
# A version of this server's clock is behind when another clock ran ahead of it: once it has seen
# the other one it is not, unless writes of the same id keep coming.
_TRIES = 8

# What a write holds while it is under way, and what may forbid it.
Turn = AbstractAsyncContextManager[object]
Wrote = Callable[[Collection, Watermark], None]


@dataclass(slots=True)
class _Values:
    """One part, as the store takes it."""

    part: Prepared
    vectors: Sequence[bytes]
    payloads: Sequence[bytes]

    def record(self, number: int, version: int) -> StoreRecord:
        external_id = self.part.items[number].document.id
        return StoreRecord(external_id, self.vectors[number], self.payloads[number], version)


class Committer:
    """Writes prepared batches and deletions.

    new_clock: makes the clock of one collection; a caller's version that is far in the future then
    pushes no other collection's. wrote: is told of every change. carrying: says which generation
    is about to be dropped, and which may still take older writes from another one.
    """

    def __init__(
        self,
        store: VectorStore,
        visibility: Visibility,
        finishing: Finishing,
        new_clock: Callable[[], HybridClock],
        wrote: Wrote,
        carrying: Carrying | None = None,
    ) -> None:
        self._store = store
        self._visibility = visibility
        self._finishing = finishing
        self._new_clock = new_clock
        self._wrote = wrote
        self._carrying = carrying
        self._clocks: dict[tuple[str, int], HybridClock] = {}

    async def store(
        self, prepared: Prepared, patience_s: float, turn: Turn | None = None
    ) -> Stored:
        """Write a batch. Once begun, a part is finished, even when the caller goes away.

        Waits for up to `patience_s` while too much is stored that shards do not find yet. turn: is
        entered for each part, and may raise. Raises NotFound where the collection was dropped.
        """
        stored = Stored(prepared.collection, failures=prepared.failures)
        for part in _parts(prepared):
            try:
                await self._visibility.make_room(prepared.collection, patience_s)
            except NestvecError as error:
                _refuse(part, range(len(part.items)), error)
            else:
                await self._finishing.run(self._put(part, stored, turn or nullcontext()))
            stored.failures.extend(part.failures)
        return stored

    async def delete(
        self, collection: Collection, external_ids: Sequence[str], version: int
    ) -> Deletion:
        """version: of the caller's making, or 0 for this server's clock. Raises NotFound where the
        collection was dropped.
        """
        deletion = Deletion(Watermark(collection.generation))
        for start in range(0, len(external_ids), _BATCH_RECORDS):
            some = external_ids[start : start + _BATCH_RECORDS]
            await self._finishing.run(self._delete(collection, some, version, deletion))
        return deletion

    # --- writing --------------------------------------------------------------------------------

    async def _put(self, part: Prepared, stored: Stored, turn: Turn) -> None:
        values = _Values(
            part,
            part.collection.codec.encode(part.vectors),
            [payload_to_bytes(item.document) for item in part.items],
        )
        async with turn:
            left: list[int] = list(range(len(part.items)))
            for _ in range(_TRIES):
                try:
                    left = await self._try(values, left, stored)
                except (NotFound, MigrationRefused):
                    raise
                except NestvecError as error:
                    _refuse(part, left, error)
                    return
                if not left:
                    return
        _refuse(part, left, StoreUnavailable("newer versions of the document keep coming"))

    async def _try(self, values: _Values, numbers: list[int], stored: Stored) -> list[int]:
        """Write some items. Returns those whose version, of this server's making, was behind."""
        part, collection = values.part, values.part.collection
        await self._require_open(collection)
        clock = self._clock(collection)
        records = [
            values.record(number, part.items[number].version or clock.tick()) for number in numbers
        ]
        placed = await self._written(collection, records, part, numbers)
        self._note(collection, [place.internal_id for place in placed])
        await self._require_listed(collection)
        await self._require_open(collection)
        behind = []
        for number, record, place in zip(numbers, records, placed, strict=True):
            if place.internal_id >= 0:
                stored.taken.append(
                    Taken(part.positions[number], record.external_id, place.internal_id)
                )
            elif part.items[number].version:
                part.refuse(number, Refusal.STALE, _stale(record, place))
            else:
                clock.observe(place.newest)
                behind.append(number)
        return behind

    async def _written(
        self,
        collection: Collection,
        records: Sequence[StoreRecord],
        part: Prepared,
        numbers: Sequence[int],
    ) -> list[Placed]:
        """A caller may send again what stands already, at its own version. No two writes get the
        same one from this server's clock, also where another process has made it too: whoever
        copies by versions would miss the second one. There is none after the last version.
        """
        own, given = list[int](), list[int]()
        for at, (number, record) in enumerate(zip(numbers, records, strict=True)):
            from_caller = part.items[number].version or record.version == MAX_VERSION
            (given if from_caller else own).append(at)
        placed: dict[int, Placed] = {}
        for put, chosen in ((self._store.put_newer, own), (self._store.put, given)):
            if chosen:
                answers = await put(collection, [records[at] for at in chosen])
                placed.update(zip(chosen, answers, strict=True))
        return [placed[at] for at in range(len(records))]

    async def _delete(
        self, collection: Collection, external_ids: Sequence[str], version: int, deletion: Deletion
    ) -> None:
        await self._require_open(collection)
        # Only a caller's own version can be older than a write that is still to come; or, while it
        # is carried over from another generation, any.
        remember = version > 0 or await self._expects(collection)
        clock = self._clock(collection)
        left = list(external_ids)
        for _ in range(_TRIES):
            asked = [
                StoreDeletion(name, version or clock.tick(), remember=remember) for name in left
            ]
            answers = await self._store.delete(collection, asked)
            mark = self._note(collection, [one.position for one in answers])
            await self._require_listed(collection)
            await self._require_open(collection)
            deletion.watermark = deletion.watermark.joined(mark)
            behind = _count(deletion, asked, answers)
            if version:
                await self._sort_out(collection, behind, deletion)
                return
            for one in answers:
                clock.observe(one.newest)
            left = behind
            if not left:
                return
        raise StoreUnavailable(f"newer versions of {left[0]!r} keep coming; delete it again")

    async def _require_listed(self, collection: Collection) -> None:
        """After each write. What came after a drop is in no collection: it is freed, and never
        acknowledged. Where the collection is still listed, a drop to come finds what was written.
        """
        if await self._store.lists(collection):
            return
        await self._store.drop_collection(collection)
        raise NotFound(
            "collection",
            f"{collection.name}/{collection.generation}",
            "it was dropped while it was written to; where it was made anew, begin again",
        )

    async def _require_open(self, collection: Collection) -> None:
        """Before each write, and after it as `_require_listed`: what came when its generation had
        been drained already is dropped with it, and never acknowledged.
        """
        if self._carrying is not None:
            await self._carrying.require_open(collection)

    async def _expects(self, collection: Collection) -> bool:
        return self._carrying is not None and await self._carrying.expects(collection)

    async def _sort_out(
        self, collection: Collection, behind: list[str], deletion: Deletion
    ) -> None:
        """Of ids with a newer version, tell documents from what was deleted at that version."""
        if not behind:
            return
        found = await self._store.find(collection, behind)
        for name, internal in zip(behind, found.tolist(), strict=True):
            (deletion.stale if internal >= 0 else deletion.missing).append(name)

    # --- what others must know ------------------------------------------------------------------

    def _note(self, collection: Collection, ids: list[int]) -> Watermark:
        mark = Watermark.of_ids(collection.generation, ids)
        if mark.sequences:
            self._visibility.wrote(collection, mark, sum(one >= 0 for one in ids))
            self._wrote(collection, mark)
        return mark

    def _clock(self, collection: Collection) -> HybridClock:
        key = collection.name, collection.generation
        clock = self._clocks.get(key)
        if clock is None:
            clock = self._clocks[key] = self._new_clock()
        return clock


def _count(
    deletion: Deletion, asked: Sequence[StoreDeletion], answers: Sequence[Deleted]
) -> list[str]:
    """Count what was settled. Returns the ids that have a newer version."""
    behind = []
    for one, answer in zip(asked, answers, strict=True):
        if answer.internal_id >= 0:
            deletion.deleted += 1
        elif answer.newest > one.version:
            behind.append(one.external_id)
        else:
            deletion.missing.append(one.external_id)
    return behind


def _refuse(part: Prepared, numbers: Sequence[int], error: NestvecError) -> None:
    for number in numbers:
        part.refuse(number, Refusal.UNAVAILABLE, str(error), error)


def _stale(record: StoreRecord, place: Placed) -> str:
    return (
        f"version {record.version} is older than {place.newest}, at which the document was written "
        f"or deleted; nothing was written: send a greater version to replace it"
    )


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
