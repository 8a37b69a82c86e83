"""Resumable streams: what they have acknowledged, and which connection goes on with each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, StreamConflict, StreamTakenOver
from nestvec.core.ports import VectorStore
from nestvec.core.stream_digest import DIGEST_BYTES, first_difference
from nestvec.ingest.finishing import Finishing

_MAX_ID_BYTES = 128


def check_stream_id(stream_id: str, field_name: str = "stream_id") -> str:
    """`stream_id` when it can name a stream."""
    length = len(stream_id.encode())
    if not 1 <= length <= _MAX_ID_BYTES or not stream_id.isprintable():
        raise InvalidRequest(
            field_name,
            f"{length} bytes, expected 1 to {_MAX_ID_BYTES} of printable text",
        )
    return stream_id


class ResumableStream:
    """One connection's hold on a stream.

    Entered (`async with`) around each write, of which there is one at a time: it raises
    StreamTakenOver once another connection has the stream, and that one waits until a write under
    way is done.
    """

    def __init__(
        self, streams: Streams, collection: Collection, stream_id: str, on_end: Callable[[], None]
    ) -> None:
        self.stream_id = stream_id
        # The first offset ever, and the first that is not acknowledged.
        self.first = 0
        self.next = 0
        self.is_new = True
        self._streams = streams
        self._collection = collection
        self._on_end = on_end
        self._lock = asyncio.Lock()
        self._ended = False

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        if self._ended:
            self._lock.release()
            raise StreamTakenOver(self.stream_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    async def compare(self, first: int, digests: bytes) -> None:
        """Raise StreamConflict where acknowledged documents, from offset `first` on, are others.
        digests: DIGEST_BYTES each.
        """
        if not digests:
            return
        if first < self.first:
            raise InvalidRequest(
                "first_offset",
                f"{first}: stream {self.stream_id!r} began at offset {self.first}; begin there "
                f"again, or take another stream id",
            )
        count = len(digests) // DIGEST_BYTES
        kept = await self._streams.store.stream_digests(
            self._collection, self.stream_id, first, count
        )
        different = first_difference(kept, digests)
        if different is not None:
            raise StreamConflict(self.stream_id, first + different)

    async def advance(self, first: int, digests: bytes) -> None:
        """Acknowledge the next offsets, from `first` on. Raises StreamTakenOver, or what the store
        raises.
        """
        if digests:
            await self._streams.finishing.run(self._advance(first, digests))

    async def _advance(self, first: int, digests: bytes) -> None:
        async with self:
            await self._streams.store.advance_stream(
                self._collection, self.stream_id, first, digests
            )
            self.next = first + len(digests) // DIGEST_BYTES

    async def begin(self, first_offset: int, previous: ResumableStream | None) -> None:
        """Read what is acknowledged, once the connection before this one has let go."""
        # Also where this one has been ended by now: the next one waits for it alone.
        async with self._lock:
            if previous is not None:
                await previous.end()
            state = await self._streams.store.stream(self._collection, self.stream_id)
            if self._ended:
                raise StreamTakenOver(self.stream_id)
        self.is_new = state is None
        self.first = first_offset if state is None else state.first
        self.next = first_offset if state is None else state.next
        if first_offset > self.next:
            raise InvalidRequest(
                "first_offset",
                f"{first_offset}, expected {self.next} or less: stream {self.stream_id!r} has "
                f"acknowledged everything before {self.next}, and offsets count up without gaps",
            )

    async def end(self) -> None:
        """Another connection goes on: nothing more is written, what is under way is awaited."""
        self._ended = True
        self._on_end()
        async with self._lock:
            pass

    def close(self) -> None:
        """The connection is gone. What it was writing is still waited for by the next one."""
        self._ended = True
        self._streams.finishing.begin(self._leave())

    async def _leave(self) -> None:
        async with self._lock:
            self._streams.forget(self._collection, self)


class Streams:
    """Which connection has which stream, among those of this process."""

    def __init__(self, store: VectorStore, finishing: Finishing) -> None:
        self.store = store
        self.finishing = finishing
        self._open: dict[tuple[str, int, str], ResumableStream] = {}

    async def open(
        self,
        collection: Collection,
        stream_id: str,
        first_offset: int,
        on_end: Callable[[], None],
    ) -> ResumableStream:
        """Take a stream over, or begin one. on_end: called when another connection takes over.

        Raises InvalidRequest where `first_offset` leaves a gap, and StreamTakenOver when yet
        another connection came meanwhile.
        """
        key = collection.name, collection.generation, check_stream_id(stream_id)
        previous = self._open.get(key)
        stream = self._open[key] = ResumableStream(self, collection, stream_id, on_end)
        try:
            await self.finishing.run(stream.begin(first_offset, previous))
        except BaseException:
            stream.close()
            raise
        return stream

    def forget(self, collection: Collection, stream: ResumableStream) -> None:
        """A connection is gone and writes no more; another one may have its place already."""
        key = collection.name, collection.generation, stream.stream_id
        if self._open.get(key) is stream:
            del self._open[key]
