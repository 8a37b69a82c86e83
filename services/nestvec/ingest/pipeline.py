"""One stream of documents, without the wire: messages in, acknowledgements out.

    read (check offsets, compare replays, begin to prepare)
    -> write (one message after another, in order)
    -> acknowledge (wait for the shards while the next message is written)

Each step has room for a few messages and waits when that is full, so a slow shard or store slows
the client, by gRPC's own flow control.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NestvecError, StreamTakenOver, WorkerUnavailable
from nestvec.core.stream_digest import DIGEST_BYTES
from nestvec.core.watermark import Watermark
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Ack, Failure, Item, Outcome, Prepared, Refusal
from nestvec.ingest.streams import ResumableStream
from nestvec.telemetry import metrics

# Messages that may be in preparation while an earlier one is written, and those that are written
# and wait for the shards.
_AHEAD = 3
_BEHIND = 2

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StreamWish:
    """What the first message asks for. stream_id: empty for a stream that cannot be resumed."""

    collection: str
    fingerprint: str | None
    stream_id: str
    ack: Ack


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a document cannot even be read."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class Message:
    """Some documents of a stream. digests: DIGEST_BYTES each, in a resumable stream."""

    first_offset: int
    items: Sequence[Item | Unreadable]
    digests: bytes = b""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Every offset up to and including `offset` is settled. failures: their positions are offsets.
    indexed: documents taken since the last one. watermark: of all that the stream has written.
    """

    offset: int
    failures: Sequence[Failure]
    indexed: int
    watermark: Watermark


@dataclass(frozen=True, slots=True)
class _Batch:
    """A message under way, without what was replayed. offsets: of what is prepared. failures: with
    offsets as positions.
    """

    start: int
    stop: int
    offsets: list[int]
    failures: list[Failure]
    digests: bytes
    prepared: asyncio.Task[Prepared]


@dataclass(frozen=True, slots=True)
class _Written:
    """A batch that waits for the shards."""

    batch: _Batch
    outcome: asyncio.Task[Outcome]


class IngestStream:
    """One connection. patience_s: how long a document may wait, given the caller's deadline."""

    def __init__(self, app: IngestApp, wish: StreamWish, patience_s: Callable[[], float]) -> None:
        self._app = app
        self._wish = wish
        self._patience_s = patience_s
        self._read: asyncio.Queue[_Batch | Acknowledgement | Exception | None] = asyncio.Queue(
            _AHEAD
        )
        self._written: asyncio.Queue[_Written | Acknowledgement | Exception | None] = asyncio.Queue(
            _BEHIND
        )
        read, written = self._read, self._written
        metrics.INGEST_WAITING.watch(self, lambda _: [((), read.qsize() + written.qsize())])
        self._tasks: set[asyncio.Task[Any]] = set()
        self._resumed: ResumableStream | None = None
        self._watermark = Watermark(0)

    async def acknowledgements(
        self, messages: AsyncIterator[Message]
    ) -> AsyncIterator[Acknowledgement]:
        """One a message, and one before all others in a resumable stream. Raises what ends it."""
        steps = [
            asyncio.create_task(self._read_all(messages)),
            asyncio.create_task(self._write_all()),
        ]
        try:
            while (one := await self._written.get()) is not None:
                if isinstance(one, Exception):
                    raise one
                if isinstance(one, Acknowledgement):
                    yield one
                    continue
                async for acknowledgement in self._acknowledge(one.batch, await one.outcome):
                    yield acknowledgement
        finally:
            # What was prepared and not written is dropped, unacknowledged.
            for task in (*steps, *self._tasks):
                task.cancel()
            await asyncio.gather(*steps, *self._tasks, return_exceptions=True)
            if self._resumed is not None:
                self._resumed.close()

    # --- reading --------------------------------------------------------------------------------

    async def _read_all(self, messages: AsyncIterator[Message]) -> None:
        try:
            collection: Collection | None = None
            expected = 0
            async for message in messages:
                if collection is None:
                    collection = await self._open(message)
                    expected = message.first_offset
                    replayed = await self._replayed(message)
                    if await self._greeted() and not message.items:
                        continue
                else:
                    self._require_next(message, expected)
                    replayed = await self._replayed(message)
                expected = max(expected, message.first_offset + len(message.items))
                await self._read.put(self._begin(collection, message, replayed))
        except Exception as error:  # noqa: BLE001  raised where the stream is answered
            await self._read.put(error)
        else:
            await self._read.put(None)

    async def _open(self, message: Message) -> Collection:
        wish = self._wish
        collection = await self._app.open(wish.collection, wish.fingerprint)
        self._watermark = Watermark(collection.generation)
        if wish.stream_id:
            self._resumed = await self._app.resume(
                collection, wish.stream_id, message.first_offset, self._taken_over
            )
            if not self._resumed.is_new:
                # What earlier connections wrote is part of this stream.
                self._watermark = await self._app.written(collection)
        return collection

    async def _greeted(self) -> bool:
        """Tell the client of a resumable stream where to go on."""
        if self._resumed is None:
            return False
        await self._read.put(Acknowledgement(self._resumed.next - 1, (), 0, self._watermark))
        return True

    def _require_next(self, message: Message, expected: int) -> None:
        """Offsets count up without gaps, but for what is acknowledged already."""
        furthest = expected if self._resumed is None else max(expected, self._resumed.next)
        if expected <= message.first_offset <= furthest:
            return
        raise InvalidRequest(
            "first_offset",
            f"{message.first_offset}, expected {expected}: offsets count up without gaps; open a "
            f"new stream to start elsewhere",
        )

    async def _replayed(self, message: Message) -> int:
        """How many of the documents, from the first one on, are acknowledged and not written again.
        Raises StreamConflict when they are others than were acknowledged.
        """
        if self._resumed is None:
            return 0
        count = min(max(self._resumed.next - message.first_offset, 0), len(message.items))
        await self._resumed.compare(message.first_offset, message.digests[: count * DIGEST_BYTES])
        return count

    def _begin(self, collection: Collection, message: Message, replayed: int) -> _Batch:
        start = message.first_offset + replayed
        items, offsets, failures = [], [], []
        for offset, item in enumerate(message.items[replayed:], start):
            if isinstance(item, Item):
                items.append(item)
                offsets.append(offset)
            else:
                failures.append(Failure(offset, item.id, Refusal.INVALID, item.message))
        has_space = self._wish.fingerprint is not None
        return _Batch(
            start,
            message.first_offset + len(message.items),
            offsets,
            failures,
            message.digests[replayed * DIGEST_BYTES :],
            self._begun(self._app.prepare(collection, items, has_space)),
        )

    # --- writing and acknowledging --------------------------------------------------------------

    async def _write_all(self) -> None:
        try:
            while (one := await self._read.get()) is not None:
                await self._written.put(await self._write(one) if isinstance(one, _Batch) else one)
        except Exception as error:  # noqa: BLE001  raised where the stream is answered
            await self._written.put(error)
        else:
            await self._written.put(None)

    async def _write(self, batch: _Batch) -> _Written:
        prepared = await batch.prepared
        stored = await self._app.store(prepared, self._patience_s(), self._resumed)
        settle = self._app.settle(stored, self._wish.ack, self._patience_s())
        return _Written(batch, self._begun(settle))

    async def _acknowledge(self, batch: _Batch, outcome: Outcome) -> AsyncIterator[Acknowledgement]:
        self._watermark = self._watermark.joined(outcome.watermark)
        failures = batch.failures + [
            Failure(batch.offsets[one.position], one.id, one.refusal, one.message, one.cause)
            for one in outcome.failures
        ]
        failures.sort(key=lambda failure: failure.position)
        if self._resumed is None:
            yield Acknowledgement(batch.stop - 1, failures, outcome.indexed, self._watermark)
            return
        # Only up to the first document that must be sent again: what is acknowledged never is.
        again = next((one for one in failures if one.refusal is Refusal.UNAVAILABLE), None)
        stop = max(batch.stop, self._resumed.next) if again is None else again.position
        count = max(stop - batch.start, 0)
        await self._resumed.advance(batch.start, batch.digests[: count * DIGEST_BYTES])
        if count or again is None:
            settled = [one for one in failures if one.position < stop]
            taken = min(stop, batch.stop) - batch.start - len(settled)
            yield Acknowledgement(stop - 1, settled, taken, self._watermark)
        if again is not None:
            raise _must_resend(again)

    # --- the end --------------------------------------------------------------------------------

    def _taken_over(self) -> None:
        """Wake up a stream that is idle; one that is not will notice at its next write."""
        if not self._written.full():
            self._written.put_nowait(StreamTakenOver(self._wish.stream_id))

    def _begun(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _must_resend(failure: Failure) -> NestvecError:
    return failure.cause or WorkerUnavailable(
        f"offset {failure.position}, {failure.id!r}: {failure.message}"
    )
