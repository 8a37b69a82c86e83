"""Answers while the store is lost: coarse order, the right ids, and everything admitted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.query.answer import Answer
from tests.support.rooms import (
    FaultyShard,
    FaultyStore,
    Rooms,
    eventually,
    hanging,
    ids_of,
    open_rooms,
    raising,
)

WORDS = ["red", "green", "blue", "cyan", "teal", "gold", "grey", "pink"]
DOCUMENTS = [
    Document(f"d{number:02}", f"{a} {b} number {number}", {"rank": number})
    for number, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
]
DOWN = raising(StoreUnavailable("the store is down"))
READS = ("vectors", "payloads")
SKIPPED, MISSING = DegradationKind.RERANK_SKIPPED, DegradationKind.PAYLOAD_MISSING


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture(params=[1, 3])
async def rooms(store: FaultyStore, request: pytest.FixtureRequest) -> AsyncIterator[Rooms]:
    """64 documents, in one shard or three."""
    async with open_rooms(store, shards=request.param, wrap_shard=FaultyShard) as opened:
        await opened.create()
        assert (await opened.add(*DOCUMENTS)).indexed == 64
        for shard in opened.shards:
            await shard.settle(await opened.catalogue.get("docs"))
        yield opened


def kinds(answer: Answer) -> list[DegradationKind]:
    return [one.kind for one in answer.degradations]


def lose(store: FaultyStore) -> None:
    """Nothing that a query may ask is answered."""
    for read in (*READS, "external_ids", "find"):
        store.faults.always(read, DOWN)


async def test_hits_keep_their_ids_and_coarse_order_and_say_what_they_lack(
    rooms: Rooms, store: FaultyStore
) -> None:
    store.faults.always("vectors", DOWN)
    wanted = await rooms.ask("red green number 1", k=12)
    assert kinds(wanted) == [SKIPPED]
    lose(store)
    answer = await rooms.ask("red green number 1", k=12)
    assert [(hit.document.id, hit.score) for hit in answer.hits] == [
        (hit.document.id, hit.score) for hit in wanted.hits
    ]
    assert len(answer.hits) == 12
    assert {(hit.document.text, *hit.document.fields) for hit in answer.hits} == {("",)}
    assert kinds(answer) == [SKIPPED, MISSING]
    assert answer.degradations[1].detail == (
        "12 hits have their id and score only, no text and fields: the store is down"
    )
    assert answer.certificate is Certificate.NONE
    assert not answer.reranked
    assert answer.coverage.fraction == 1.0


async def test_a_class_without_rerank_loses_texts_alone(rooms: Rooms, store: FaultyStore) -> None:
    wanted = await rooms.ask("red green number 1", search_class="autocomplete")
    lose(store)
    answer = await rooms.ask("red green number 1", search_class="autocomplete")
    assert ids_of(answer) == ids_of(wanted)
    assert kinds(answer) == [MISSING]


async def test_a_class_that_may_not_degrade_fails_with_the_stores_error(
    rooms: Rooms, store: FaultyStore
) -> None:
    lose(store)
    with pytest.raises(StoreUnavailable, match="the store is down"):
        await rooms.ask("red", search_class="strict")


async def test_what_was_reranked_keeps_its_exact_order_where_only_texts_are_lost(
    rooms: Rooms, store: FaultyStore
) -> None:
    wanted = await rooms.ask("red green number 1")
    store.faults.always("payloads", raising(Overloaded("the store is full")))
    answer = await rooms.ask("red green number 1")
    assert ids_of(answer) == ids_of(wanted)
    assert answer.certificate is wanted.certificate is Certificate.COLLECTION
    assert kinds(answer) == [MISSING]


async def test_documents_at_hand_are_whole_and_the_others_have_ids(store: FaultyStore) -> None:
    async with open_rooms(store, cache_bytes=1 << 20) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        hot = set(await rooms.found("red green number 1", k=4))
        lose(store)
        answer = await rooms.ask("red green number 1", k=20)
    texts = {hit.document.id: hit.document.text for hit in answer.hits}
    assert {name for name, text in texts.items() if text} == hot & set(texts)
    assert hot
    assert answer.degradations[1].detail.startswith(f"{20 - len(hot & set(texts))} hits have")


async def test_ties_are_settled_by_external_id_without_the_store_too(store: FaultyStore) -> None:
    """Equal texts have equal estimates, and were written in the reverse order of their ids."""
    async with open_rooms(store) as rooms:
        await rooms.create()
        for number in reversed(range(12)):
            await rooms.add(Document(f"same-{number:02}", "exactly the same words"))
        lose(store)
        assert await rooms.found("exactly the same words", k=5) == [
            f"same-{number:02}" for number in range(5)
        ]


async def test_hits_of_which_nobody_knows_the_id_are_left_out_and_admitted(
    rooms: Rooms, store: FaultyStore
) -> None:
    lose(store)
    sick = rooms.shards[0]
    assert isinstance(sick, FaultyShard)
    sick.faults.always("names", raising(WorkerUnavailable("shard 0 has gone")))
    answer = await rooms.ask("red green number 1", k=64)
    held = (await rooms.shards[0].status(await rooms.catalogue.get("docs")))[0].documents
    assert len(answer.hits) == 64 - held
    assert answer.certificate is Certificate.NONE
    assert answer.degradations[-1].kind is MISSING
    assert answer.degradations[-1].detail.startswith(f"{held} hits were left out")


async def test_a_silent_shard_costs_its_ids_and_not_the_answer(
    rooms: Rooms, store: FaultyStore
) -> None:
    lose(store)
    for shard in rooms.shards:
        assert isinstance(shard, FaultyShard)
        shard.faults.always("names", hanging)
    answer = await rooms.ask("red", timeout_s=1.0)
    assert answer.hits == []
    assert answer.certificate is Certificate.NONE
    assert kinds(answer) == [SKIPPED, MISSING]


@pytest.mark.parametrize("rooms", [3], indirect=True)
async def test_a_silent_store_is_left_alone_after_a_few_queries_and_found_again(
    rooms: Rooms, store: FaultyStore
) -> None:
    wanted = await rooms.ask("red green number 1")
    for read in READS:
        store.faults.always(read, hanging)
    for _ in range(4):
        # Of which the names of the hits get what the store leaves: a sixteenth.
        answer = await rooms.ask("red green number 1", timeout_s=2.0)
        assert kinds(answer) == [SKIPPED, MISSING]
        assert len(answer.hits) == 10
    asked = len(store.faults.calls)
    answer = await rooms.ask("red green number 1", timeout_s=1.5)
    assert "did not answer the last reads" in answer.degradations[0].detail
    assert not set(store.faults.calls[asked:]) & set(READS)
    store.faults.heal()

    async def whole() -> bool:
        return (await rooms.ask("red green number 1")).hits == wanted.hits

    await eventually(whole)


async def test_a_store_that_refuses_at_once_is_asked_every_time(
    rooms: Rooms, store: FaultyStore
) -> None:
    lose(store)
    for _ in range(10):
        await rooms.ask("red")
    store.faults.heal()
    assert (await rooms.ask("red")).degradations == []


async def test_a_catalogue_that_cannot_be_read_fails_no_search_of_a_known_collection(
    rooms: Rooms, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(store)

    async def down() -> None:
        raise StoreUnavailable("the store is down")

    monkeypatch.setattr(store, "listing", down)
    # Each of these makes the catalogue look again.
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="coarse_dim"):
            await rooms.ask("red", coarse_dim=48)
        assert len((await rooms.ask("red")).hits) == 10
    with pytest.raises(StoreUnavailable):
        await rooms.ask("red", name="never seen")


async def test_a_shard_that_does_not_serve_it_is_admitted_while_the_catalogue_is_lost(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rooms(store, shards=2, wrap_shard=FaultyShard) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        sick = rooms.shards[1]
        assert isinstance(sick, FaultyShard)
        sick.faults.always("search", raising(NotFound("collection", "docs", "it forgot")))

        async def down() -> None:
            raise StoreUnavailable("the store is down")

        monkeypatch.setattr(store, "listing", down)
        lose(store)
        for _ in range(2):
            answer = await rooms.ask("red", min_coverage=0.0)
            assert kinds(answer) == [DegradationKind.SHARD_MISSING, SKIPPED, MISSING]
            assert len(answer.hits) == 10


async def test_deleted_and_replaced_documents_have_no_second_life(
    rooms: Rooms, store: FaultyStore
) -> None:
    docs = await rooms.catalogue.get("docs")
    await rooms.add(replace(DOCUMENTS[1], text="something else altogether"))
    await rooms.ingest.delete("docs", ["d08"])
    for shard in rooms.shards:
        await shard.settle(docs)
    lose(store)
    found = await rooms.found("red green number 1", k=64)
    assert len(found) == len(set(found)) == 63
    assert "d08" not in found
