"""Documents are read as they were written; those kept at hand are never older than the store's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic

import numpy as np
import pytest

from nestvec.admin.app import StoredCatalogue
from nestvec.core.budget import Budget
from nestvec.core.document import Document
from nestvec.core.errors import BudgetSpent, CorruptVector, InvalidRequest, NotFound
from nestvec.query.documents import Documents
from nestvec.query.plan import Limits
from tests.nestvec.core.synthetic import unit
from tests.support.rooms import PATIENT_S, FaultyStore, Rooms, hanging, ids_of, open_rooms

DOCUMENTS = [Document(f"d{number}", f"text number {number}", {"n": number}) for number in range(9)]


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def rooms(store: FaultyStore) -> AsyncIterator[Rooms]:
    """Nine documents, and room to keep them all at hand."""
    async with open_rooms(store, cache_bytes=1 << 20) as opened:
        await opened.create()
        await opened.add(*DOCUMENTS)
        yield opened


async def internal(rooms: Rooms, name: str) -> int:
    docs = await rooms.catalogue.get("docs")
    return int((await rooms.store.find(docs, [name]))[0])


# --- by the caller's own id -----------------------------------------------------------------------


async def test_documents_are_read_in_the_order_asked_and_the_missing_are_named(
    rooms: Rooms,
) -> None:
    ids = ["d5", "nope", "d0", "d5", ""]
    collection, found, missing = await rooms.documents.get("docs", ids, True, PATIENT_S)
    assert collection == await rooms.catalogue.get("docs")
    assert [document for document, _ in found] == [DOCUMENTS[5], DOCUMENTS[0], DOCUMENTS[5]]
    assert missing == ["nope", ""]
    for document, vector in found:
        assert vector is not None
        assert (await rooms.ask(unit(vector), k=1)).hits[0].document == document
    _, found, _ = await rooms.documents.get("docs", ["d5"], False, PATIENT_S)
    assert found == [(DOCUMENTS[5], None)]


@pytest.mark.parametrize("count", [0, 17])
async def test_reading_takes_from_one_to_four_batches_of_ids(count: int) -> None:
    async with open_rooms(limits=Limits(max_batch=4)) as rooms:
        await rooms.create()
        with pytest.raises(InvalidRequest, match=f"{count}, expected 1 to 16") as caught:
            await rooms.documents.get("docs", ["a"] * count, False, PATIENT_S)
        assert caught.value.field == "ids"


async def test_reading_from_an_unknown_collection_is_not_found(rooms: Rooms) -> None:
    with pytest.raises(NotFound, match="dox"):
        await rooms.documents.get("dox", ["a"], False, PATIENT_S)


async def test_what_another_process_made_anew_is_read_from_the_new_generation(
    rooms: Rooms,
) -> None:
    """The catalogue at hand is old: a document that is there must not be called missing."""
    stale = StoredCatalogue(rooms.store)
    old = await stale.get("docs")
    reader = Documents(stale, rooms.store, 64, 0)
    await rooms.admin.drop("docs")
    await rooms.create()
    await rooms.add(Document("new", "red green"))
    collection, found, missing = await reader.get("docs", ["new"], False, PATIENT_S)
    assert collection.generation > old.generation
    assert [document.id for document, _ in found] == ["new"]
    assert missing == []
    await rooms.admin.drop("docs")
    with pytest.raises(NotFound, match="collection 'docs' does not exist"):
        await reader.get("docs", ["new"], False, PATIENT_S)


async def test_reading_a_damaged_document_names_it(rooms: Rooms, store: FaultyStore) -> None:
    docs = await rooms.catalogue.get("docs")
    number = await internal(rooms, "d5")
    store.spoil(docs, number, b"short")
    with pytest.raises(CorruptVector, match="d5"):
        await rooms.documents.get("docs", ["d5"], True, PATIENT_S)
    _, found, _ = await rooms.documents.get("docs", ["d5"], False, PATIENT_S)
    assert len(found) == 1, "its text is still there"
    store.spoil_payload(docs, number, b"{")
    with pytest.raises(CorruptVector, match="d5"):
        await rooms.documents.get("docs", ["d5"], False, PATIENT_S)


async def test_reading_keeps_to_its_deadline(rooms: Rooms, store: FaultyStore) -> None:
    store.faults.before["find"] = [hanging]
    with pytest.raises(BudgetSpent, match="get"):
        await rooms.documents.get("docs", ["d5"], False, 0.02)


# --- kept at hand ---------------------------------------------------------------------------------


def payload_reads(store: FaultyStore) -> int:
    return store.faults.calls.count("payloads")


async def test_a_document_read_once_is_not_asked_for_again(
    rooms: Rooms, store: FaultyStore
) -> None:
    first = await rooms.ask("text number", k=9)
    reads = payload_reads(store)
    assert reads > 0
    again = await rooms.ask("text number", k=9)
    assert again.hits == first.hits
    assert sorted(ids_of(again)) == sorted(document.id for document in DOCUMENTS)
    assert payload_reads(store) == reads


async def test_only_what_is_not_at_hand_is_asked_for(rooms: Rooms, store: FaultyStore) -> None:
    docs = await rooms.catalogue.get("docs")
    numbers = np.array([await internal(rooms, one.id) for one in DOCUMENTS])
    budget = Budget.of(PATIENT_S, monotonic)
    assert await rooms.documents.read(docs, numbers[3:6], budget) == DOCUMENTS[3:6]
    store.spoil_payload(docs, int(numbers[4]), None)
    store.spoil_payload(docs, int(numbers[7]), None)
    expected = [*DOCUMENTS[:7], None, DOCUMENTS[8]]
    assert await rooms.documents.read(docs, numbers, budget) == expected
    backwards = await rooms.documents.read(docs, numbers[::-1].copy(), budget)
    assert backwards == expected[::-1]


async def test_a_changed_document_is_read_anew_and_a_deleted_one_is_not_found(
    rooms: Rooms,
) -> None:
    await rooms.ask("text number", k=9)
    await rooms.add(Document("d3", "text number three"))
    await rooms.ingest.delete("docs", ["d4"])
    answer = await rooms.ask("text number", k=9)
    assert answer.degradations == []
    texts = {hit.document.id: hit.document.text for hit in answer.hits}
    assert texts["d3"] == "text number three"
    assert "d4" not in texts
    _, _, missing = await rooms.documents.get("docs", ["d4"], False, PATIENT_S)
    assert missing == ["d4"]


async def test_another_generation_or_collection_shares_nothing(rooms: Rooms) -> None:
    """Internal ids begin anew in each."""
    await rooms.ask("text number", k=9)
    await rooms.create("other")
    await rooms.add(*(Document(one.id, f"other {one.text}") for one in DOCUMENTS), name="other")
    answer = await rooms.ask("text number", name="other", k=9)
    assert all(hit.document.text.startswith("other") for hit in answer.hits)
    await rooms.admin.drop("docs")
    await rooms.create("docs")
    await rooms.add(*(Document(one.id, f"new {one.text}") for one in DOCUMENTS))
    answer = await rooms.ask("text number", k=9)
    assert len(answer.hits) == 9
    assert all(hit.document.text.startswith("new") for hit in answer.hits)


@pytest.mark.parametrize("cache_bytes", [0, 1, 2_000])
async def test_a_small_cache_or_none_answers_the_same(cache_bytes: int) -> None:
    async with open_rooms(cache_bytes=cache_bytes) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        for _ in range(3):
            answer = await rooms.ask("text number", k=9)
            assert sorted(ids_of(answer)) == sorted(document.id for document in DOCUMENTS)
        assert rooms.documents._cache.currsize <= cache_bytes


async def test_a_damaged_payload_is_not_kept(rooms: Rooms, store: FaultyStore) -> None:
    docs = await rooms.catalogue.get("docs")
    number = await internal(rooms, "d2")
    budget = Budget.of(PATIENT_S, monotonic)
    (sound,) = await store.payloads(docs, np.array([number]))
    store.spoil_payload(docs, number, b"{")
    assert await rooms.documents.read(docs, np.array([number]), budget) == [None]
    store.spoil_payload(docs, number, sound)
    assert await rooms.documents.read(docs, np.array([number]), budget) == [DOCUMENTS[2]]
