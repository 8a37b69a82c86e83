"""What every VectorStore keeps to about collections: created, listed, dropped, created again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nestvec.core.collection import Collection
from nestvec.core.errors import AlreadyExists, NotFound
from nestvec.core.ports import VectorStore
from tests.support.stores import (
    a_record,
    created,
    ids_of,
    live_ids,
    some_records,
)

NAMES = [f"document {i}" for i in range(50)]


async def test_collections_are_listed_by_name_as_they_were_created(store: VectorStore) -> None:
    made = [await created(store, name) for name in ("zebra", "ant", "docs.v2-a_b")]
    assert await store.collections() == sorted(made, key=lambda one: one.name)


async def test_a_name_is_taken_once(store: VectorStore) -> None:
    await created(store)
    with pytest.raises(AlreadyExists, match="'docs'"):
        await created(store)
    assert len(await store.collections()) == 1


async def test_creating_one_name_at_once_succeeds_once(store: VectorStore) -> None:
    answers = await asyncio.gather(*(created(store) for _ in range(20)), return_exceptions=True)
    made = [answer for answer in answers if isinstance(answer, Collection)]
    assert len(made) == 1
    assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 19
    assert await store.collections() == made


async def test_assets_live_and_go_with_their_collection(store: VectorStore) -> None:
    rotation = bytes(range(256)) * 4000
    docs = await created(store, assets={"rotation": rotation, "empty": b""})
    other = await created(store, "other", {"rotation": b"another"})
    assert await store.asset(docs, "rotation") == rotation
    assert await store.asset(docs, "empty") == b""
    assert await store.asset(other, "rotation") == b"another"
    with pytest.raises(NotFound, match="no such"):
        await store.asset(docs, "no such")
    await store.drop_collection(docs)
    with pytest.raises(NotFound):
        await store.asset(docs, "rotation")
    assert await store.asset(other, "rotation") == b"another"


async def test_a_dropped_collection_is_gone_and_others_stay(store: VectorStore) -> None:
    docs = await created(store)
    near = await created(store, "docs-1")  # their keys begin alike
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    kept = ids_of(await store.put(near, some_records(NAMES)))
    await store.drop_collection(docs)
    await store.drop_collection(docs)  # safe to repeat
    assert await store.collections() == [near]
    assert await store.vectors(docs, placed) == [None] * len(NAMES)
    assert await live_ids(store, docs) == set()
    assert await store.vectors(near, kept) == [f"vector {name} ".encode() for name in NAMES]
    assert await live_ids(store, near) == set(kept.tolist())


async def test_a_name_created_again_sees_nothing_of_its_past(store: VectorStore) -> None:
    first = await created(store)
    placed = ids_of(await store.put(first, some_records(NAMES)))
    await store.drop_collection(first)
    second = await created(store)
    assert second.generation > first.generation
    assert (await store.find(second, NAMES)).tolist() == [-1] * len(NAMES)
    assert await store.vectors(second, placed) == [None] * len(NAMES)

    await store.put(second, [a_record("a")])
    await store.drop_collection(first)  # repeated late: it must not touch the second
    assert await store.collections() == [second]
    assert (await store.usage(second)).documents == 1


async def test_two_generations_of_one_name_never_meet(store: VectorStore) -> None:
    first = await created(store)
    await store.put(first, [a_record("a", "first")])
    await store.drop_collection(first)
    second = await created(store)
    # A writer that has not yet heard of the drop.
    await store.put(first, some_records(["a", "late"], "first"))
    assert (await store.find(second, ["a", "late"])).tolist() == [-1, -1]
    placed = await store.put(second, [a_record("a", "second")])
    assert placed[0].replaced == -1
    assert await store.vectors(second, ids_of(placed)) == [b"vector a second"]


async def test_a_record_is_replaced_with_its_assets(store: VectorStore) -> None:
    docs = await created(store, assets={"rotation": b"r", "old": b"o"})
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    wider = replace(docs, tiers=(16, 32))
    await store.update_collection(wider, {"new": b"n", "rotation": b"R"}, ["old", "never there"])
    assert await store.collections() == [wider]
    assert await store.asset(wider, "rotation") == b"R"
    assert await store.asset(wider, "new") == b"n"
    with pytest.raises(NotFound, match="old"):
        await store.asset(wider, "old")
    assert (await store.find(wider, NAMES)).tolist() == placed.tolist()
    await store.update_collection(docs, {}, ["new"])
    assert await store.collections() == [docs]


async def test_a_record_of_another_generation_is_not_replaced(store: VectorStore) -> None:
    first = await created(store, assets={"rotation": b"r"})
    await store.drop_collection(first)
    with pytest.raises(NotFound, match="docs/1"):
        await store.update_collection(first, {"rotation": b"x"})
    second = await created(store, assets={"rotation": b"second"})
    with pytest.raises(NotFound, match="docs/1"):
        await store.update_collection(replace(first, tiers=(32,)), {"rotation": b"x"}, ["rotation"])
    assert await store.collections() == [second]
    assert await store.asset(second, "rotation") == b"second"
    with pytest.raises(NotFound):
        await store.asset(first, "rotation")


async def test_only_the_generation_in_the_catalogue_is_listed(store: VectorStore) -> None:
    docs = await created(store)
    assert await store.lists(docs)
    await store.drop_collection(docs)
    assert not await store.lists(docs)
    new = await created(store)
    assert await store.lists(new)
    assert not await store.lists(docs)


async def test_what_is_written_after_a_drop_is_freed_by_another(store: VectorStore) -> None:
    docs = await created(store)
    await store.drop_collection(docs)
    new = await created(store)
    late = await store.put(docs, some_records(["late"]))
    await store.drop_collection(docs)
    assert await store.vectors(docs, ids_of(late)) == [None]
    assert await store.lists(new)
