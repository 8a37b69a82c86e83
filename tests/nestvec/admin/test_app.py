"""Collections are made whole, described as they are over all shards, and gone when dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nestvec.admin.app import CollectionWish, StoredCatalogue
from nestvec.core.codec import VectorDtype
from nestvec.core.document import Document
from nestvec.core.errors import AlreadyExists, InvalidRequest, NotFound, TierNotTrained
from tests.support.rooms import FaultyStore, Rooms, a_collection, created, open_rooms


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def rooms(store: FaultyStore) -> AsyncIterator[Rooms]:
    """Three shards and nothing in them."""
    async with open_rooms(store, shards=3) as opened:
        yield opened


async def make(rooms: Rooms, exist_ok: bool = False, **wish: object) -> tuple[object, bool]:
    return await rooms.admin.create(CollectionWish("docs", **wish), exist_ok)  # type: ignore[arg-type]


# --- creating -------------------------------------------------------------------------------------


async def test_a_wish_without_wishes_takes_the_servers_defaults(rooms: Rooms) -> None:
    docs, new = await rooms.admin.create(CollectionWish("docs"), False)
    assert new
    assert docs.tiers == (16, 32), "what the classes need"
    assert (docs.store_dim, docs.store_dtype, docs.generation) == (64, VectorDtype.FP16, 1)
    assert docs == await rooms.catalogue.get("docs")


async def test_every_wish_is_granted(rooms: Rooms) -> None:
    wish = CollectionWish("docs", (8, 32), 32, VectorDtype.INT8)
    docs, _ = await rooms.admin.create(wish, False)
    assert (docs.tiers, docs.store_dim, docs.store_dtype) == ((8, 32), 32, VectorDtype.INT8)


async def test_default_tiers_longer_than_what_is_stored_shrink_to_it(rooms: Rooms) -> None:
    docs, _ = await rooms.admin.create(CollectionWish("docs", store_dim=16), False)
    assert docs.tiers == (16,)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (CollectionWish("Docs"), "name"),
        (CollectionWish("docs", store_dim=60), "store_dim"),
        (CollectionWish("docs", store_dim=-1), "store_dim"),
        (CollectionWish("docs", tiers=(20,)), "tiers"),
        (CollectionWish("docs", tiers=(32,), store_dim=16), "tiers"),
    ],
)
async def test_a_design_that_cannot_be_served_is_refused_and_nothing_made(
    rooms: Rooms, wish: CollectionWish, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await rooms.admin.create(wish, False)
    assert caught.value.field == field
    assert await rooms.admin.collections() == []


async def test_an_untrained_dimension_is_refused_as_such(rooms: Rooms) -> None:
    with pytest.raises(TierNotTrained):
        await make(rooms, tiers=(20,))


async def test_a_name_that_is_taken_is_refused_unless_that_is_well(rooms: Rooms) -> None:
    first, new = await make(rooms, tiers=(8,))
    assert new
    with pytest.raises(AlreadyExists):
        await make(rooms, tiers=(8,))
    assert await make(rooms, exist_ok=True, tiers=(8,)) == (first, False)
    with pytest.raises(AlreadyExists, match=r"tiers is \[8\], asked \[16\].*choose another name"):
        await make(rooms, exist_ok=True, tiers=(16,))
    with pytest.raises(AlreadyExists, match="store_dtype is fp16, asked fp32"):
        await make(rooms, exist_ok=True, tiers=(8,), store_dtype=VectorDtype.FP32)


async def test_of_many_that_create_one_name_at_once_one_makes_it(rooms: Rooms) -> None:
    results = await asyncio.gather(*(make(rooms, exist_ok=True) for _ in range(8)))
    assert [new for _, new in results].count(True) == 1
    assert len({id(one) if one is None else str(one) for one, _ in results}) == 1


# --- describing -----------------------------------------------------------------------------------


async def test_a_description_sums_over_all_shards(rooms: Rooms) -> None:
    await make(rooms, tiers=(8, 16))
    await rooms.add(*(Document(f"d{number}", f"text {number}") for number in range(50)))
    await rooms.ingest.delete("docs", [f"d{number}" for number in range(10)])
    report = await rooms.admin.describe("docs")
    assert report.shards == 3
    assert [tier.dim for tier in report.tiers] == [8, 16]
    for tier in report.tiers:
        assert tier.documents == 40
        sizes = sum(int(label.partition(":")[2]) for label in tier.segments)
        assert sizes == tier.documents + tier.deleted
        assert tier.nbytes > 0
    assert report.store.documents == 40


async def test_collections_are_listed_by_name(rooms: Rooms) -> None:
    for name in ("b", "a", "c"):
        await rooms.create(name)
    assert [one.name for one in await rooms.admin.collections()] == ["a", "b", "c"]


@pytest.mark.parametrize("call", ["describe", "drop"])
async def test_an_unknown_name_is_not_found(rooms: Rooms, call: str) -> None:
    await rooms.create("docs")
    with pytest.raises(NotFound, match="'dox' does not exist; collections here: docs"):
        await getattr(rooms.admin, call)("dox")


# --- dropping and opening -------------------------------------------------------------------------


async def test_what_is_dropped_is_gone_everywhere_and_its_name_is_free(
    rooms: Rooms, store: FaultyStore
) -> None:
    docs = await rooms.create()
    await rooms.add(Document("a", "text"))
    await rooms.admin.drop("docs")
    for shard in rooms.shards:
        with pytest.raises(NotFound):
            await shard.status(docs)
    with pytest.raises(NotFound):
        await rooms.ask("text")
    assert await store.collections() == []
    again = await rooms.create()
    assert again.generation == 2
    assert await rooms.found("text") == []


async def test_opening_all_serves_what_the_store_holds(store: FaultyStore) -> None:
    async with open_rooms(store) as first:
        await first.create("a")
        await first.create("b")
        await first.add(Document("x", "text"), name="b")
    async with open_rooms(store, shards=2) as rooms:
        with pytest.raises(NotFound):
            await rooms.ask("text", name="b")
        opened = await rooms.admin.open_all()
        assert [one.name for one in opened] == ["a", "b"]
        answer = await rooms.ask("text", name="b")
        assert [hit.document.id for hit in answer.hits] == ["x"]


# --- the catalogue --------------------------------------------------------------------------------


async def test_a_catalogue_finds_what_others_create_and_keeps_what_it_knows(
    store: FaultyStore,
) -> None:
    catalogue = StoredCatalogue(store)
    with pytest.raises(NotFound, match="collections here: none"):
        await catalogue.get("docs")
    docs = await created(store, a_collection())
    assert await catalogue.get("docs") == docs
    await store.drop_collection(docs)
    assert await catalogue.get("docs") == docs, "kept at hand"
    catalogue.forget("docs")
    catalogue.forget("never there")
    with pytest.raises(NotFound):
        await catalogue.get("docs")


async def test_a_refusal_names_some_of_very_many_collections(store: FaultyStore) -> None:
    for number in range(60):
        await created(store, a_collection(f"c{number:02}"))
    with pytest.raises(NotFound, match=r"c00, c01, .* and \d+ more; create it first"):
        await StoredCatalogue(store).get("dox")
