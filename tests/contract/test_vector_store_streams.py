"""What every VectorStore keeps to about resumable ingest streams."""

from __future__ import annotations

import asyncio
import random

import pytest

from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import StreamState, VectorStore
from tests.support.stores import created

CHUNK = 65_536


def digests_of(first: int, count: int) -> bytes:
    """Each tells its offset, and none is zero."""
    return b"".join(
        ((offset + 1) % (1 << 32)).to_bytes(4, "big") for offset in range(first, first + count)
    )


async def test_a_stream_that_was_never_seen_is_unknown(store: VectorStore) -> None:
    docs = await created(store)
    assert await store.stream(docs, "s") is None
    assert await store.stream_digests(docs, "s", 0, 3) == bytes(12)
    assert await store.stream_digests(docs, "s", 0, 0) == b""


async def test_a_stream_goes_on_where_it_stands(store: VectorStore) -> None:
    docs = await created(store)
    await store.advance_stream(docs, "s", 10, digests_of(10, 5))
    assert await store.stream(docs, "s") == StreamState(10, 15)
    await store.advance_stream(docs, "s", 15, digests_of(15, 1))
    assert await store.stream(docs, "s") == StreamState(10, 16)
    assert await store.stream_digests(docs, "s", 10, 6) == digests_of(10, 6)
    assert await store.stream_digests(docs, "s", 8, 10) == bytes(8) + digests_of(10, 6) + bytes(8)
    assert await store.stream_digests(docs, "s", 12, 2) == digests_of(12, 2)


@pytest.mark.parametrize("first", [0, 9, 14, 16, 1 << 40])
async def test_an_advance_from_elsewhere_is_refused_and_changes_nothing(
    store: VectorStore, first: int
) -> None:
    docs = await created(store)
    await store.advance_stream(docs, "s", 10, digests_of(10, 5))
    with pytest.raises(InvalidRequest, match="goes on at offset 15"):
        await store.advance_stream(docs, "s", first, digests_of(first, 5))
    assert await store.stream(docs, "s") == StreamState(10, 15)
    assert await store.stream_digests(docs, "s", 10, 6) == digests_of(10, 5) + bytes(4)


async def test_half_a_digest_is_refused(store: VectorStore) -> None:
    docs = await created(store)
    with pytest.raises(InvalidRequest, match="4 for each offset"):
        await store.advance_stream(docs, "s", 0, b"12345")
    assert await store.stream(docs, "s") is None


@pytest.mark.parametrize("first", [0, CHUNK - 3, CHUNK, 7 * CHUNK - 1, (1 << 40) - 2])
async def test_digests_are_kept_across_the_store_s_own_boundaries(
    store: VectorStore, first: int
) -> None:
    docs = await created(store)
    count = 2 * CHUNK + 5 if first == CHUNK - 3 else 10
    digests = b"".join(random.Random(first).randbytes(4) for _ in range(count))
    await store.advance_stream(docs, "s", first, digests)
    assert await store.stream(docs, "s") == StreamState(first, first + count)
    assert await store.stream_digests(docs, "s", first, count) == digests


async def test_advances_at_once_succeed_once(store: VectorStore) -> None:
    docs = await created(store)
    await store.advance_stream(docs, "s", 0, digests_of(0, 3))
    answers = await asyncio.gather(
        *(store.advance_stream(docs, "s", 3, digests_of(3, 2)) for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, InvalidRequest) for answer in answers) == 9
    assert await store.stream(docs, "s") == StreamState(0, 5)


async def test_streams_are_apart_and_go_with_their_collection(store: VectorStore) -> None:
    docs, other = await created(store), await created(store, "other")
    names = ["s", "s:1", "1:s", "s}v:1", "{other:1:streams}", "s:0", "*", "é" * 100]
    for at, name in enumerate(names):
        await store.advance_stream(docs, name, at, digests_of(at, at + 1))
    await store.advance_stream(other, "s", 50, digests_of(50, 1))
    for at, name in enumerate(names):
        assert await store.stream(docs, name) == StreamState(at, 2 * at + 1)
        assert await store.stream_digests(docs, name, at, at + 1) == digests_of(at, at + 1)
    await store.drop_collection(docs)
    for at, name in enumerate(names):
        assert await store.stream(docs, name) is None
        assert await store.stream_digests(docs, name, at, 1) == bytes(4)
    assert await store.stream(other, "s") == StreamState(50, 51)
