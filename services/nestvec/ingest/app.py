"""The ingest application: check, encode once, store in full, wait for the shards, acknowledge.

prepare (concurrent: check, encode, cut)  ->  store (in order)  ->  settle (wait for the shards)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from nestvec.core.clock import HybridClock
from nestvec.core.collection import Collection
from nestvec.core.document import check_id
from nestvec.core.errors import (
    InvalidRequest,
    NestvecError,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.placement import partition_of, split_id
from nestvec.core.ports import Carrying, Catalogue, Encoders, Shards, VectorStore
from nestvec.core.watermark import Watermark
from nestvec.ingest.batch import Ack, Deletion, Failure, Item, Outcome, Prepared, Refusal, Stored
from nestvec.ingest.commit import Committer, Turn
from nestvec.ingest.finishing import Finishing
from nestvec.ingest.options import IngestOptions
from nestvec.ingest.prepare import Preparer
from nestvec.ingest.streams import ResumableStream, Streams
from nestvec.ingest.tidying import NeededSince, Tidier
from nestvec.ingest.visibility import Visibility
from nestvec.telemetry.tracing import part
from nestvec.wall_clock import wall_clock_ms


class IngestApp:
    """Writing and deleting. Several processes may write a collection: versions decide."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoders: Encoders,
        shards: Shards,
        store: VectorStore,
        max_text_bytes: int,
        options: IngestOptions | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
        carrying: Carrying | None = None,
        needed_since: NeededSince | None = None,
    ) -> None:
        """carrying: what becomes of writes while a collection moves to another model; without it
        none does. needed_since: see Tidier.
        """
        self.options = options or IngestOptions()
        self._catalogue = catalogue
        self._store = store
        self._preparer = Preparer(encoders, max_text_bytes)
        self._finishing = Finishing()
        self._visibility = Visibility(shards, store, self.options.max_lag_documents)
        self._carrying = carrying
        self._tidier = Tidier(store, self._visibility, self.options, now_ms, needed_since)
        self._committer = Committer(
            store,
            self._visibility,
            self._finishing,
            lambda: HybridClock(now_ms, self.options.region),
            self._tidier.wrote,
            carrying,
        )
        self._streams = Streams(store, self._finishing)

    def start(self) -> None:
        """Begin to free what is replaced and deleted, and what an earlier process left of it, in
        the running loop.
        """
        self._tidier.start()

    def copied(self, collection: Collection, watermark: Watermark) -> None:
        """Somebody else wrote a generation up to there: what was replaced there is to be freed."""
        self._tidier.wrote(collection, watermark)

    async def found(self, collection: Collection, watermark: Watermark, patience_s: float) -> bool:
        """Whether all up to there is found by every shard, or is before that time has passed."""
        return not await self._visibility.reach(collection, watermark, patience_s)

    async def open(self, collection_name: str, vector_fingerprint: str | None) -> Collection:
        """The collection that a stream writes to. Raises NotFound, or SpaceMismatch: also where the
        stream brings texts alone and this server has no encoder of the collection's space; as
        Encoders.of where its model cannot be opened.
        """
        collection = await self._current(collection_name)
        if vector_fingerprint is None:
            await self._preparer.encoder_of(collection, self.options.patience_s)
        else:
            collection.space.require_same(vector_fingerprint, "the stream's vector_space")
        return collection

    async def _current(self, name: str) -> Collection:
        """What is at hand may have been dropped, or made anew, by another process."""
        collection = await self._catalogue.get(name)
        if collection.name != name:
            raise InvalidRequest(
                "collection", f"{name!r} names one generation; write to {collection.name!r}"
            )
        try:
            if await self._store.lists(collection):
                return collection
        except StoreUnavailable:
            # Each write says so, and asks again.
            return collection
        self._catalogue.forget(name)
        return await self._catalogue.get(name)

    async def resume(
        self,
        collection: Collection,
        stream_id: str,
        first_offset: int,
        on_end: Callable[[], None],
    ) -> ResumableStream:
        """Go on with a resumable stream, or begin one; see Streams.open. Close it in the end."""
        return await self._streams.open(collection, stream_id, first_offset, on_end)

    async def written(self, collection: Collection) -> Watermark:
        """Stands for everything that was ever written to a collection."""
        positions = await self._store.positions(collection, range(collection.partitions))
        begun = {p: sequence for p, sequence in positions.items() if sequence}
        return Watermark(collection.generation, begun)

    # --- documents ------------------------------------------------------------------------------

    async def prepare(
        self, collection: Collection, items: Sequence[Item], has_space: bool
    ) -> Prepared:
        """Check and encode. Several batches may be prepared at once."""
        return await self._preparer.prepare(collection, items, has_space)

    async def store(
        self, prepared: Prepared, patience_s: float | None = None, turn: Turn | None = None
    ) -> Stored:
        """Write what was prepared. A later call for the same id stands, whatever becomes of the
        earlier one's `settle`. turn: see Committer.store.
        """
        with part("store", {"nestvec.documents": len(prepared.items)}):
            return await self._committer.store(prepared, self._patience(patience_s), turn)

    async def settle(self, stored: Stored, ack: Ack, patience_s: float | None = None) -> Outcome:
        """Wait until what was stored is as far as `ack` asks. What is not in time is UNAVAILABLE:
        it is stored, will be found later, and may be sent again.
        """
        watermark = stored.watermark
        if ack is Ack.STORED or not watermark.sequences:
            return Outcome(len(stored.taken), stored.failures, watermark)
        patience_s = self._patience(patience_s)
        with part("searchable", {"nestvec.documents": len(stored.taken)}):
            late = await self._reach(stored.collection, watermark, patience_s)
        unfound = self._unfound(stored, late, patience_s)
        return Outcome(len(stored.taken) - len(unfound), stored.failures + unfound, watermark)

    async def commit(self, prepared: Prepared, ack: Ack = Ack.SEARCHABLE) -> Outcome:
        """`store`, then `settle`."""
        return await self.settle(await self.store(prepared), ack)

    async def _reach(
        self, collection: Collection, watermark: Watermark, patience_s: float
    ) -> dict[int, NestvecError]:
        """Why it is not searchable, by partition; nothing when it is. While the collection moves to
        another model, also where the next search may ask.
        """
        began_s = time.monotonic()
        late = await self._visibility.reach(collection, watermark, patience_s)
        if late or self._carrying is None:
            return late
        beyond = await self._carrying.beyond(collection)
        if beyond is None:
            return late
        left_s = max(patience_s - (time.monotonic() - began_s), 0.0)
        try:
            there = await self._carrying.carried(watermark, collection, beyond, left_s)
        except NestvecError as error:
            return dict.fromkeys(watermark.sequences, error)
        left_s = max(patience_s - (time.monotonic() - began_s), 0.0)
        return await self._visibility.reach(beyond, there, left_s)

    def _unfound(
        self, stored: Stored, late: dict[int, NestvecError], patience_s: float
    ) -> list[Failure]:
        """The documents of shards that did not get there."""
        failures = []
        for one in stored.taken:
            error = late.get(split_id(one.internal_id)[0])
            if error is not None:
                message = (
                    f"stored, and not searchable within {patience_s:.3g} s ({error}); it "
                    f"will be once its shard catches up, and may be sent again"
                )
                failures.append(Failure(one.position, one.id, Refusal.UNAVAILABLE, message, error))
        return failures

    # --- deleting -------------------------------------------------------------------------------

    async def delete(
        self,
        collection_name: str,
        ids: Sequence[str],
        version: int = 0,
        ack: Ack = Ack.SEARCHABLE,
        patience_s: float | None = None,
    ) -> Deletion:
        """Delete documents; with SEARCHABLE nothing finds them any more when this returns.

        Raises InvalidRequest, and with SEARCHABLE the error of a shard that did not get there: the
        documents are then deleted, and not found by others.
        """
        if not ids:
            raise InvalidRequest("ids", "none given; name at least one document")
        for external_id in ids:
            check_id(external_id, "ids")
        if version < 0:
            raise InvalidRequest("version", f"{version}, expected 0 (the server's clock) or more")
        collection = await self._current(collection_name)
        deletion = await self._committer.delete(collection, list(dict.fromkeys(ids)), version)
        if ack is Ack.SEARCHABLE:
            await self._until_gone(collection, deletion, self._patience(patience_s))
        return deletion

    async def _until_gone(
        self, collection: Collection, deletion: Deletion, patience_s: float
    ) -> None:
        watermark = deletion.watermark
        if deletion.missing:
            # One that an earlier call deleted may still be found: its answer was not waited for.
            watermark = watermark.joined(await self._ends_of(collection, deletion.missing))
        late = await self._reach(collection, watermark, patience_s)
        if late:
            partition, error = next(iter(late.items()))
            raise WorkerUnavailable(
                f"deleted from the store, and may still be found by the shard of partition "
                f"{partition} until it catches up ({error}); delete again to wait for it"
            ) from error

    async def _ends_of(self, collection: Collection, external_ids: Sequence[str]) -> Watermark:
        """Where the logs of some documents' partitions end."""
        partitions = {partition_of(name, collection.partitions) for name in external_ids}
        spanned = range(min(partitions), max(partitions) + 1)
        positions = await self._store.positions(collection, spanned)
        return Watermark(
            collection.generation,
            {p: sequence for p, sequence in positions.items() if sequence and p in partitions},
        )

    async def close(self) -> None:
        """Finish what was begun."""
        await self._finishing.close()
        await self._tidier.close()

    def _patience(self, patience_s: float | None) -> float:
        mine = self.options.patience_s
        return mine if patience_s is None else min(mine, patience_s)
