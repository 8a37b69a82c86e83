"""The ingest application: check, encode once, store in full, index every tier, acknowledge.

    prepare (concurrent: check, encode, cut)  ->  commit (in order: store, index, free the old)

Store before indexing, unindex before deleting: nothing searchable ever lacks its full vector.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document, check_id, check_text, payload_to_bytes
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.placement import shard_of, split_id
from nestvec.core.ports import (
    Catalogue,
    CoarseRows,
    CoarseSearcher,
    Encoder,
    StoreRecord,
    VectorStore,
)
from nestvec.core.space import Role
from nestvec.core.tiers import accept_vectors, truncate

# A search that began before an upsert may still hold the old row's id; its vector stays readable
# this long, in seconds.
_PURGE_AFTER_S = 2.0
_ENCODE_TIMEOUT_S = 120.0
_NONE = np.empty(0, np.int64)


class Refusal(enum.StrEnum):
    """Whether sending a refused document again can help."""

    INVALID = "invalid"
    SUPERSEDED = "superseded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Item:
    """A document to write. vector: (dim,) float32 that the caller encoded, or None."""

    document: Document
    vector: Floats | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one item of a batch was not taken. position: in the batch, from 0."""

    position: int
    id: str
    refusal: Refusal
    message: str


@dataclass(slots=True)
class Prepared:
    """A checked and encoded batch. vectors: (n, store_dim) float32, unit, rows as `items`."""

    collection: Collection
    positions: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """indexed: how many documents can now be found."""

    indexed: int
    failures: list[Failure]


class IngestApp:
    """Writing and deleting. One process writes a collection: commits take turns."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoder: Encoder,
        shards: Sequence[CoarseSearcher],
        store: VectorStore,
        max_text_bytes: int,
        purge_after_s: float = _PURGE_AFTER_S,
    ) -> None:
        self._catalogue = catalogue
        self._encoder = encoder
        self._shards = shards
        self._store = store
        self._max_text_bytes = max_text_bytes
        self._purge_after_s = purge_after_s
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._purges: set[asyncio.Task[None]] = set()

    async def open(self, collection_name: str, vector_fingerprint: str | None) -> Collection:
        """The collection that a stream writes to. Raises NotFound or SpaceMismatch."""
        collection = await self._catalogue.get(collection_name)
        if vector_fingerprint is not None:
            collection.space.require_same(vector_fingerprint, "the stream's vector_space")
        return collection

    # --- prepare --------------------------------------------------------------------------------

    async def prepare(
        self, collection: Collection, items: Sequence[Item], has_space: bool
    ) -> Prepared:
        """Check and encode. Bad items become failures; none of them stops the others."""
        prepared = Prepared(collection)
        last = {item.document.id: position for position, item in enumerate(items)}
        for position, item in enumerate(items):
            try:
                self._check(item, has_space)
            except InvalidRequest as error:
                _fail(prepared, position, item, Refusal.INVALID, str(error))
                continue
            if last[item.document.id] != position:
                _fail(
                    prepared,
                    position,
                    item,
                    Refusal.SUPERSEDED,
                    f"id {item.document.id!r} stands again {last[item.document.id] - position} "
                    f"documents later in the same message; the later one is taken",
                )
                continue
            prepared.positions.append(position)
            prepared.items.append(item)
        await self._encode(prepared)
        return prepared

    def _check(self, item: Item, has_space: bool) -> None:
        check_id(item.document.id, "document.id")
        check_text(item.document.text, self._max_text_bytes, "document.text")
        if item.vector is not None and not has_space:
            raise InvalidRequest(
                "vector_space", "a document brings a vector; the stream's first message names none"
            )

    async def _encode(self, prepared: Prepared) -> None:
        rows: list[Floats | None] = [None] * len(prepared.items)
        texts = [number for number, item in enumerate(prepared.items) if item.vector is None]
        await self._encode_texts(prepared, texts, rows)
        for number, item in enumerate(prepared.items):
            if item.vector is not None:
                self._take(prepared, number, item.vector, rows)
        kept = [number for number, row in enumerate(rows) if row is not None]
        prepared.positions = [prepared.positions[number] for number in kept]
        prepared.items = [prepared.items[number] for number in kept]
        vectors = [row for row in rows if row is not None]
        prepared.vectors = (
            np.stack(vectors)
            if vectors
            else np.empty((0, prepared.collection.store_dim), np.float32)
        )

    async def _encode_texts(
        self, prepared: Prepared, numbers: list[int], rows: list[Floats | None]
    ) -> None:
        """Encode some items' texts in one call; where one is bad, halve until it stands alone."""
        if not numbers:
            return
        texts = [prepared.items[number].document.text for number in numbers]
        try:
            prepared.collection.space.require_same(
                self._encoder.space.fingerprint, "this server's encoder"
            )
            vectors = await self._encoder.encode(texts, Role.DOCUMENT, _ENCODE_TIMEOUT_S)
        except InvalidRequest as error:
            if len(numbers) == 1:
                self._refuse(prepared, numbers[0], Refusal.INVALID, str(error))
                return
            half = len(numbers) // 2
            await self._encode_texts(prepared, numbers[:half], rows)
            await self._encode_texts(prepared, numbers[half:], rows)
            return
        except NestvecError as error:
            again = isinstance(error, Overloaded | WorkerUnavailable | BudgetSpent)
            for number in numbers:
                refusal = Refusal.UNAVAILABLE if again else Refusal.INVALID
                self._refuse(prepared, number, refusal, str(error))
            return
        try:
            projected = self._cut(prepared.collection, vectors)
        except InvalidRequest:
            for number, vector in zip(numbers, vectors, strict=True):
                self._take(prepared, number, vector, rows)
            return
        for number, vector in zip(numbers, projected, strict=True):
            rows[number] = vector

    def _take(
        self, prepared: Prepared, number: int, vector: Floats, rows: list[Floats | None]
    ) -> None:
        space = prepared.collection.space
        try:
            one = accept_vectors(vector[None, :], space, "document.vector")
            rows[number] = self._cut(prepared.collection, one)[0]
        except InvalidRequest as error:
            self._refuse(prepared, number, Refusal.INVALID, str(error))

    def _cut(self, collection: Collection, vectors: Floats) -> Floats:
        """What is stored, after making sure that every tier can be cut from it."""
        for dim in collection.tiers:
            truncate(vectors, dim, collection.space)
        return collection.project(vectors)

    def _refuse(self, prepared: Prepared, number: int, refusal: Refusal, message: str) -> None:
        _fail(prepared, prepared.positions[number], prepared.items[number], refusal, message)

    # --- commit ---------------------------------------------------------------------------------

    async def commit(self, prepared: Prepared) -> Outcome:
        """Store, index, then free what was replaced. Failures leave nothing half-applied: a
        document is either found by its new vector or reported, and may be sent again.
        """
        if not prepared.items:
            return Outcome(0, prepared.failures)
        collection = prepared.collection
        values = collection.codec.encode(prepared.vectors)
        records = [
            StoreRecord(item.document.id, value, payload_to_bytes(item.document))
            for item, value in zip(prepared.items, values, strict=True)
        ]
        try:
            async with self._turns[collection.name]:
                placed = await self._store.put(collection, records)
                ids = np.array([place.internal_id for place in placed], np.int64)
                replaced = np.array([p.replaced for p in placed if p.replaced >= 0], np.int64)
                stored = collection.codec.decode(values)
                await self._apply(collection, CoarseRows(ids, stored, replaced))
        except (StoreUnavailable, Overloaded, WorkerUnavailable) as error:
            for position, item in zip(prepared.positions, prepared.items, strict=True):
                _fail(prepared, position, item, Refusal.UNAVAILABLE, str(error))
            return Outcome(0, prepared.failures)
        self._purge_later(collection, replaced)
        return Outcome(len(placed), prepared.failures)

    async def _apply(self, collection: Collection, rows: CoarseRows) -> None:
        """Hand each shard its rows."""
        if len(self._shards) == 1:
            await self._shards[0].apply(collection, rows)
            return
        homes = self._homes(collection, rows.ids)
        old_homes = self._homes(collection, rows.removed)
        async with asyncio.TaskGroup() as tasks:
            for number, shard in enumerate(self._shards):
                mine, old = homes == number, old_homes == number
                if mine.any() or old.any():
                    part = CoarseRows(rows.ids[mine], rows.vectors[mine], rows.removed[old])
                    tasks.create_task(shard.apply(collection, part))

    def _homes(self, collection: Collection, ids: Ids) -> np.ndarray:
        count = len(self._shards)
        return np.array(
            [shard_of(split_id(int(i))[0], collection.partitions, count) for i in ids], np.int64
        )

    # --- delete ---------------------------------------------------------------------------------

    async def delete(self, collection_name: str, ids: Sequence[str]) -> tuple[int, list[str]]:
        """Returns how many were deleted, and the ids that named nothing."""
        if not ids:
            raise InvalidRequest("ids", "none given; name at least one document")
        for external_id in ids:
            check_id(external_id, "ids")
        collection = await self._catalogue.get(collection_name)
        wanted = list(dict.fromkeys(ids))
        async with self._turns[collection.name]:
            internal = await self._store.find(collection, wanted)
            live = internal[internal >= 0]
            if len(live):
                rows = CoarseRows(_NONE, np.empty((0, collection.store_dim), np.float32), live)
                await self._apply(collection, rows)
                named = [wanted[number] for number in np.flatnonzero(internal >= 0)]
                await self._store.unmap(collection, named)
        self._purge_later(collection, live)
        missing = [wanted[number] for number in np.flatnonzero(internal < 0)]
        return len(live), missing

    # --- freeing --------------------------------------------------------------------------------

    def _purge_later(self, collection: Collection, ids: Ids) -> None:
        if not len(ids):
            return
        task = asyncio.create_task(self._purge(collection, ids))
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    async def _purge(self, collection: Collection, ids: Ids) -> None:
        try:
            await asyncio.sleep(self._purge_after_s)
        finally:
            # Also on close, which cancels the wait: what is left behind would never be freed.
            # Where it fails, unreachable rows cost memory until the collection is dropped, and
            # nothing else: no id map names them.
            with contextlib.suppress(NestvecError):
                await self._store.purge(collection, ids)

    async def close(self) -> None:
        """Free what waits to be freed."""
        for task in self._purges:
            task.cancel()
        await asyncio.gather(*self._purges, return_exceptions=True)


def _fail(prepared: Prepared, position: int, item: Item, refusal: Refusal, message: str) -> None:
    prepared.failures.append(Failure(position, item.document.id, refusal, message))
