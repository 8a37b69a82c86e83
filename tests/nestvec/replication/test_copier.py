"""A copier keeps one collection in line with another, whatever it missed and however it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from nestvec.adapters.memory_store import MemoryStore
from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Floats
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_from_bytes, payload_to_bytes
from nestvec.core.errors import InvalidRequest, SpaceMismatch, StoreUnavailable, WorkerUnavailable
from nestvec.core.placement import partition_of
from nestvec.core.ports import StoreDeletion, StoreRecord
from nestvec.core.space import Role, Space
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.replication.copier import Copier
from nestvec.replication.copy_ends import End, SinkEnd
from nestvec.replication.pace import Pace
from nestvec.replication.transform import CopyVectors, EncodeTexts
from tests.nestvec.core.synthetic import mrl_like
from tests.support.prefix_copies import Positions

PARTITIONS = 4
OLD = Space("old", 16, weights="1", trained_dims=(8, 16))


class BrittleEncoder:
    """The fake model in another space. refusing: texts that it will not encode. down: while set,
    it does not answer. encoded: how many texts it was given and took.
    """

    def __init__(self) -> None:
        self._app = EncoderApp(HashModel(32))
        self.space = self._app.space
        self.refusing: set[str] = set()
        self.down = False
        self.encoded = 0

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        assert role is Role.DOCUMENT
        if self.down:
            raise WorkerUnavailable("the encoder is gone")
        if self.refusing & set(texts):
            raise InvalidRequest("text", "it will not have it")
        self.encoded += len(texts)
        return await self._app.encode(texts, role, timeout_s)


@dataclass
class Pair:
    """Two collections of one name, in one store."""

    store: MemoryStore
    source: Collection
    sink: Collection
    encoder: BrittleEncoder
    keeper: Positions = field(default_factory=Positions)
    back: Positions = field(default_factory=Positions)
    version: int = 100

    async def write(self, *names: str, text: str = "", version: int = 0) -> None:
        await self.write_to(self.source, *names, text=text, version=version)

    async def write_to(
        self, collection: Collection, *names: str, text: str = "", version: int = 0
    ) -> None:
        records = []
        for name in names:
            self.version += 1
            payload = payload_to_bytes(Document(name, text or f"text of {name}"))
            records.append(StoreRecord(name, b"a vector", payload, version or self.version))
        await self.store.put(collection, records)

    async def delete(self, collection: Collection, *names: str) -> None:
        for name in names:
            self.version += 1
            await self.store.delete(collection, [StoreDeletion(name, self.version)])

    def copier(
        self,
        alone: bool = True,
        backward: bool = False,
        batch: int = 8,
        holds: Callable[[], bool] = lambda: True,
    ) -> Copier:
        ends = (self.sink, self.source) if backward else (self.source, self.sink)
        return Copier(
            End(ends[0], self.store),
            SinkEnd(ends[1], self.store),
            EncodeTexts(FixedEncoders(self.encoder), replace(ends[1], space=self.encoder.space)),
            self.back if backward else self.keeper,
            Pace(),
            alone=alone,
            batch=batch,
            holds=holds,
        )

    async def of(self, collection: Collection) -> dict[str, tuple[str, int]]:
        """Live documents: id -> text and version."""
        found = {}
        for partition in range(PARTITIONS):
            async for batch in self.store.documents(collection, partition):
                for one in batch:
                    text = payload_from_bytes(one.payload or b"", "").text
                    found[one.external_id] = text, one.version
        return found

    async def same(self) -> bool:
        return await self.of(self.source) == await self.of(self.sink)


async def until_still(*copiers: Copier) -> int:
    """Looks until none of them finds anything. Returns how many looks that took."""
    looks = 0
    async with asyncio.timeout(20):
        while True:
            moved = [await one.look() for one in copiers]
            looks += 1
            if not any(moved):
                return looks


@pytest.fixture
async def pair() -> Pair:
    store, encoder = MemoryStore(), BrittleEncoder()
    source = await store.create_collection(
        Collection("docs", OLD, 16, (8,), partitions=PARTITIONS), {}
    )
    sink = await store.add_generation(
        Collection("docs", encoder.space, 32, (32,), partitions=PARTITIONS), {}
    )
    return Pair(store, source, sink, encoder)


NAMES = [f"d{number}" for number in range(40)]


async def test_filling_copies_all_with_their_versions_and_new_vectors(pair: Pair) -> None:
    await pair.write(*NAMES)
    copier = pair.copier()
    await until_still(copier)
    assert await pair.same()
    assert await copier.lag() == 0
    assert pair.encoder.encoded == len(NAMES)
    found = await pair.store.find(pair.sink, NAMES)
    vectors = await pair.store.vectors(pair.sink, found)
    expected = await pair.encoder.encode([f"text of {one}" for one in NAMES], Role.DOCUMENT, 1)
    decoded = [pair.sink.codec.decode_one(one or b"", "") for one in vectors]
    np.testing.assert_allclose(np.stack(decoded), expected, atol=1e-3)


async def test_what_is_written_and_deleted_later_follows(pair: Pair) -> None:
    await pair.write(*NAMES)
    copier = pair.copier()
    await until_still(copier)
    await pair.write("d1", "new", text="another text")
    await pair.delete(pair.source, "d2", "d3")
    await pair.write("d3", text="back again")
    assert await copier.lag() > 0
    await until_still(copier)
    assert await pair.same()
    # Only what changed: two written, and one that came back.
    assert pair.encoder.encoded == len(NAMES) + 3


async def test_a_copier_that_is_killed_goes_on_where_it_stood(pair: Pair) -> None:
    await pair.write(*NAMES)
    first = pair.copier(batch=2)
    await first.look()
    await pair.write("late")
    again = pair.copier(batch=2)
    await until_still(again)
    assert await pair.same()
    # What was saved is not encoded again.
    assert pair.encoder.encoded <= len(NAMES) + 1


@pytest.mark.parametrize("fails_at", [1, 2, 3, 5, 8])
async def test_an_encoder_that_dies_half_way_loses_nothing(pair: Pair, fails_at: int) -> None:
    await pair.write(*NAMES)
    copier = pair.copier(batch=4)
    encode, calls = pair.encoder.encode, 0

    async def counted(texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        nonlocal calls
        calls += 1
        pair.encoder.down = calls >= fails_at
        return await encode(texts, role, timeout_s)

    pair.encoder.encode = counted  # type: ignore[method-assign]
    with pytest.raises(WorkerUnavailable):
        await until_still(copier)
    pair.encoder.encode = encode  # type: ignore[method-assign]
    pair.encoder.down = False
    await pair.delete(pair.source, "d7")
    await until_still(copier)
    assert await pair.same()


async def test_a_trimmed_log_is_mended_by_comparing(pair: Pair) -> None:
    await pair.write(*NAMES)
    copier = pair.copier()
    await until_still(copier)
    await pair.write("d1", text="newer")
    await pair.delete(pair.source, "d2")
    await pair.write("d5", "added")
    there = await pair.store.positions(pair.source, range(PARTITIONS))
    await pair.store.tidy(pair.source, there, 0)
    # Not even remembered any more.
    await pair.store.expire_tombstones(pair.source, 1 << 62)
    before = pair.encoder.encoded
    await until_still(copier)
    assert await pair.same()
    assert pair.encoder.encoded == before + 3


async def test_a_document_written_again_at_its_version_is_copied_again(pair: Pair) -> None:
    await pair.write("d1", text="first", version=7)
    copier = pair.copier()
    await until_still(copier)
    await pair.write("d1", text="second", version=7)
    await until_still(copier)
    assert await pair.of(pair.sink) == {"d1": ("second", 7)}


async def test_deletions_keep_older_writes_out_of_the_sink_too(pair: Pair) -> None:
    await pair.write("d1", version=5)
    await pair.store.delete(pair.source, [StoreDeletion("d1", 9), StoreDeletion("x", 9, True)])
    await until_still(pair.copier())
    late = [StoreRecord(name, b"v", b"p", 8) for name in ("d1", "x")]
    assert [one.newest for one in await pair.store.put(pair.sink, late)] == [9, 9]


async def test_both_ways_no_write_is_lost_and_none_goes_round(pair: Pair) -> None:
    await pair.write(*NAMES[:20])
    await until_still(pair.copier())
    there = await pair.store.positions(pair.sink, range(PARTITIONS))
    forward, backward = pair.copier(alone=False), pair.copier(alone=False, backward=True)
    await backward.start_from(there)
    encoded = pair.encoder.encoded
    await pair.write("d1", "old-1", text="of a writer that has not heard")
    await pair.write_to(pair.sink, "d2", "new-1", text="of one that has")
    await pair.delete(pair.sink, "d3")
    await pair.delete(pair.source, "d4")
    await until_still(forward, backward)
    assert await pair.same()
    found = await pair.of(pair.source)
    assert found["d2"][0] == "of one that has"
    assert "old-1" in await pair.of(pair.sink)
    assert {"d3", "d4"} & found.keys() == set()
    assert pair.encoder.encoded == encoded + 4
    positions = [
        await pair.store.positions(one, range(PARTITIONS)) for one in (pair.source, pair.sink)
    ]
    await until_still(forward, backward)
    assert positions == [
        await pair.store.positions(one, range(PARTITIONS)) for one in (pair.source, pair.sink)
    ]


async def test_of_two_writes_of_an_id_the_newer_stands_in_both(pair: Pair) -> None:
    await until_still(pair.copier())
    forward, backward = pair.copier(alone=False), pair.copier(alone=False, backward=True)
    await pair.write("d1", text="older", version=10)
    await pair.write_to(pair.sink, "d1", text="newer", version=11)
    await pair.write("d2", text="newer", version=21)
    await pair.write_to(pair.sink, "d2", text="older", version=20)
    await until_still(forward, backward)
    assert await pair.of(pair.source) == {"d1": ("newer", 11), "d2": ("newer", 21)}
    assert await pair.same()


async def test_both_ways_a_gap_takes_nothing_from_the_sink(pair: Pair) -> None:
    """What only the sink has may be a write of its own that is not carried back yet."""
    await pair.write(*NAMES[:8])
    await until_still(pair.copier())
    forward = pair.copier(alone=False)
    await pair.write_to(pair.sink, "own")
    await pair.write("d1", text="newer")
    await pair.delete(pair.source, "d2")
    there = await pair.store.positions(pair.source, range(PARTITIONS))
    await pair.store.tidy(pair.source, there, 0)
    await until_still(forward)
    found = await pair.of(pair.sink)
    assert "own" in found
    assert found["d1"][0] == "newer"
    assert "d2" not in found


async def test_what_cannot_be_carried_over_is_named_and_mended_later(pair: Pair) -> None:
    await pair.write(*NAMES[:12])
    await pair.write("silent", text=" ")
    await pair.write("bad", text="not this")
    pair.encoder.refusing = {"not this"}
    copier = pair.copier()
    await until_still(copier)
    assert copier.figures.refused.keys() == {"silent", "bad"}
    assert "will not have it" in copier.figures.refused["bad"]
    assert (await pair.of(pair.sink)).keys() == set(NAMES[:12])
    await pair.write("silent", text="something now")
    await pair.delete(pair.source, "bad")
    await until_still(copier)
    assert copier.figures.refused == {}
    assert await pair.same()


async def test_a_payload_that_is_gone_is_named(pair: Pair) -> None:
    await pair.write("whole", "broken")
    partition = partition_of("broken", PARTITIONS)
    place = await pair.store.find(pair.source, ["broken"])
    memory = pair.store._of(pair.source).of(partition)
    memory.values[int(place[0]) & ((1 << 48) - 1)] = (b"a vector", None)
    copier = pair.copier()
    await until_still(copier)
    assert copier.figures.refused == {"broken": "its payload is missing or damaged"}


async def test_a_sink_that_lost_its_last_writes_is_compared_again(pair: Pair) -> None:
    await pair.write(*NAMES)
    copier = pair.copier()
    await until_still(copier)
    partition = partition_of("d1", PARTITIONS)
    mine = [name for name in NAMES if partition_of(name, PARTITIONS) == partition]
    memory = pair.store._of(pair.sink).of(partition)
    # As after a failover: the tail is gone, and the next write is of another epoch.
    for name in mine[1:3]:
        memory.values.pop(memory.ids.pop(name)[0])
    pair.store._epoch += 1
    again = pair.copier()
    await pair.write(mine[0], text="wakes it up")
    await until_still(again)
    assert await pair.same()


async def test_a_source_that_lost_its_last_writes_is_compared_again(pair: Pair) -> None:
    await pair.write(*NAMES)
    copier = pair.copier()
    await until_still(copier)
    memory = pair.store._of(pair.source).of(partition_of("d1", PARTITIONS))
    memory.values.pop(memory.ids.pop("d1")[0])
    memory.sequence -= 1
    await until_still(copier)
    assert "d1" not in await pair.of(pair.sink)
    assert await pair.same()


async def test_vectors_are_copied_as_they_are_within_a_space() -> None:
    ours, theirs = MemoryStore(), MemoryStore()
    design = Collection("docs", OLD, 16, (8,), partitions=PARTITIONS)
    source = await ours.create_collection(design, {})
    sink = await theirs.create_collection(replace(design, store_dtype=VectorDtype.FP32), {})
    vectors = mrl_like(20, 16, seed=3)
    encoded = source.codec.encode(vectors)
    payload = payload_to_bytes(Document("any", ""))
    records = [
        StoreRecord(f"d{n}", one, payload_to_bytes(Document(f"d{n}", "")), n + 1)
        for n, one in enumerate(encoded)
    ]
    records.append(StoreRecord("damaged", b"no vector", payload.replace(b"any", b"damaged"), 50))
    await ours.put(source, records)
    copier = Copier(
        End(source, ours),
        SinkEnd(sink, theirs),
        CopyVectors(source, sink),
        Positions(),
        Pace(),
        alone=False,
    )
    await until_still(copier)
    names = [f"d{n}" for n in range(20)]
    found = await theirs.vectors(sink, await theirs.find(sink, names))
    decoded = np.stack([sink.codec.decode_one(one or b"", "") for one in found])
    np.testing.assert_allclose(decoded, vectors, atol=2e-3)
    assert copier.figures.refused.keys() == {"damaged"}


def test_vectors_of_another_space_or_length_are_not_copied() -> None:
    one = Collection("docs", OLD, 16, (8,))
    with pytest.raises(SpaceMismatch):
        CopyVectors(one, Collection("docs", replace(OLD, weights="2"), 16, (8,)))
    with pytest.raises(InvalidRequest, match="store_dim"):
        CopyVectors(one, Collection("docs", OLD, 8, (8,)))


async def test_a_pace_spreads_documents_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    now = 100.0
    pace = Pace(10.0, lambda: now)
    await pace.take(20)
    assert slept == []
    await pace.take(5)
    assert slept == [2.0]
    now = 102.6
    await pace.take(1)
    assert slept == [2.0]
    pace.rate = 0.0
    await pace.take(10_000)
    assert slept == [2.0]


async def test_a_later_copier_knows_again_what_was_refused(pair: Pair) -> None:
    await pair.write(*(f"d{n}" for n in range(9)))
    await pair.write("bad", text="nobody takes it")
    pair.encoder.refusing = {"nobody takes it"}
    await until_still(pair.copier())
    later = pair.copier()
    await later.lag()
    assert (later.refused, later.figures.refused) == (1, {})
    await until_still(later)
    assert (later.refused, list(later.figures.refused)) == (1, ["bad"])
    # One that was mended meanwhile is none any more.
    pair.encoder.refusing = set()
    last = pair.copier()
    await until_still(last)
    assert last.refused == 0
    assert await pair.same()


async def test_without_its_claim_a_copier_takes_nothing_for_surplus(pair: Pair) -> None:
    await pair.write("a")
    await until_still(pair.copier())
    await pair.write_to(pair.sink, "of a client")
    copier = pair.copier(holds=lambda: False)
    with pytest.raises(StoreUnavailable, match="claim"):
        await copier.compare(copier.partitions)
    assert set(await pair.of(pair.sink)) == {"a", "of a client"}
