"""Resumable ingest streams on a Redis-protocol server: where each stands, and digests of offsets.

Digests stand in strings of 65,536 offsets: writing at an offset of a string fills all before it, so
one string a stream would be as long as the stream.
"""

from __future__ import annotations

from collections.abc import Iterator

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_scripts import ADVANCE
from nestvec.adapters.store_rules import STREAM_KEPT_S, require_whole_digests, stream_refusal
from nestvec.core.collection import Collection
from nestvec.core.ports import StreamState
from nestvec.core.stream_digest import DIGEST_BYTES

_OFFSETS_PER_CHUNK = 1 << 16


class RedisStreams:
    """A stream is kept for a week after its last call, and its digests for a week after the last
    one of their chunk.
    """

    def __init__(self, client: RedisClient, keys: Keyspace) -> None:
        self._client = client
        self._keys = keys

    async def state(self, collection: Collection, stream_id: str) -> StreamState | None:
        key = self._keys.stream(collection, stream_id)
        first, following = await self._client.call(b"HMGET", key, b"first", b"next")
        if first is None or following is None:
            return None
        return StreamState(int(first), int(following))

    async def digests(
        self, collection: Collection, stream_id: str, first: int, count: int
    ) -> bytes:
        pieces = list(_pieces(first, count))
        commands: list[Command] = [
            (
                b"GETRANGE",
                self._keys.digests(collection, stream_id, chunk),
                start * DIGEST_BYTES,
                stop * DIGEST_BYTES - 1,
            )
            for chunk, start, stop in pieces
        ]
        found = await self._client.batch(commands)
        return b"".join(
            value.ljust((stop - start) * DIGEST_BYTES, b"\0")
            for value, (_, start, stop) in zip(found, pieces, strict=True)
        )

    async def advance(
        self, collection: Collection, stream_id: str, first: int, digests: bytes
    ) -> None:
        require_whole_digests(digests)
        count = len(digests) // DIGEST_BYTES
        keys = [self._keys.stream(collection, stream_id)]
        arguments: list[bytes | str | int] = [first, first + count, STREAM_KEPT_S]
        at = 0
        for chunk, start, stop in _pieces(first, count):
            length = (stop - start) * DIGEST_BYTES
            keys.append(self._keys.digests(collection, stream_id, chunk))
            arguments += start * DIGEST_BYTES, digests[at : at + length]
            at += length
        (expected,) = await self._client.run(ADVANCE, [(len(keys), *keys, *arguments)])
        if expected:
            raise stream_refusal(stream_id, first, int(expected))


def _pieces(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(chunk, first offset in it, offset after the last in it) of a range of offsets."""
    at, end = first, first + count
    while at < end:
        chunk, start = divmod(at, _OFFSETS_PER_CHUNK)
        stop = min(_OFFSETS_PER_CHUNK, start + end - at)
        yield chunk, start, stop
        at += stop - start
