"""What every VectorStore keeps to about generations beside the one that a name stands for, and
about the record of the migration between them.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nestvec.core.collection import Collection
from nestvec.core.errors import NotFound
from nestvec.core.migration import Gate, GateKind, Migration, MigrationWish, Phase, ShadowTerms
from nestvec.core.model_spec import ModelSpec, SpecCard
from nestvec.core.ports import VectorStore
from tests.support.stores import a_collection, a_record, created, ids_of

WISH = MigrationWish(
    model=ModelSpec("a-model", card=SpecCard("a-model", (16, 64), query_prompt="query: ")),
    tiers=(16,),
    shadow=ShadowTerms(queries=7, share=0.5),
    override="because",
)


async def two_generations(store: VectorStore) -> tuple[Collection, Collection]:
    """The one that serves, and one beside it."""
    docs = await created(store, assets={"rotation": b"old"})
    return docs, await store.add_generation(a_collection(), {"rotation": b"new"})


def a_migration(docs: Collection, beside: Collection, phase: Phase = Phase.READY) -> Migration:
    return Migration(
        docs.name,
        docs.generation,
        WISH,
        target=beside.generation,
        serving=docs.generation,
        phase=phase,
        gates=(Gate(GateKind.GOLDEN, True, "well"),),
    )


async def test_a_generation_beside_is_listed_as_such_and_has_its_own_values(
    store: VectorStore,
) -> None:
    docs, beside = await two_generations(store)
    assert beside.generation > docs.generation
    listing = await store.listing()
    assert (listing.current, listing.beside) == ((docs,), (beside,))
    assert await store.collections() == [docs]
    assert await store.lists(docs)
    assert await store.lists(beside)
    assert await store.asset(docs, "rotation") == b"old"
    assert await store.asset(beside, "rotation") == b"new"
    old = ids_of(await store.put(docs, [a_record("a", "old")]))
    new = ids_of(await store.put(beside, [a_record("a", "new")]))
    assert await store.vectors(docs, old) == [b"vector a old"]
    assert await store.vectors(beside, new) == [b"vector a new"]


async def test_beside_a_name_that_stands_for_nothing_there_is_no_generation(
    store: VectorStore,
) -> None:
    with pytest.raises(NotFound, match="'docs'"):
        await store.add_generation(a_collection(), {})
    assert (await store.listing()).generations == ()


async def test_a_generation_beside_is_changed_and_dropped_by_itself(store: VectorStore) -> None:
    docs, beside = await two_generations(store)
    wider = replace(beside, tiers=(16, 32))
    await store.update_collection(wider, {"more": b"m"}, ["rotation"])
    listing = await store.listing()
    assert (listing.current, listing.beside) == ((docs,), (wider,))
    assert await store.asset(beside, "more") == b"m"
    placed = ids_of(await store.put(docs, [a_record("a")]))
    gone = ids_of(await store.put(beside, [a_record("a")]))
    await store.drop_collection(beside)
    assert (await store.listing()).generations == (docs,)
    assert not await store.lists(beside)
    assert await store.vectors(docs, placed) == [b"vector a "]
    assert await store.vectors(beside, gone) == [None]


async def test_the_revision_is_another_one_after_every_change(store: VectorStore) -> None:
    seen = [await store.catalogue_revision()]

    async def changed() -> None:
        revision = await store.catalogue_revision()
        assert revision not in seen
        assert (await store.listing()).revision == revision
        seen.append(revision)

    docs, beside = await two_generations(store)
    await changed()
    await store.update_collection(replace(docs, tiers=(32,)), {})
    await changed()
    before = await store.change_migration(None, a_migration(docs, beside))
    assert before is not None
    await changed()
    after = replace(before, phase=Phase.SWITCHED, serving=beside.generation)
    assert await store.switch_generation(before, after) is not None
    await changed()
    await store.drop_collection(docs)
    await changed()


async def test_a_switch_moves_name_and_record_in_one_step(store: VectorStore) -> None:
    docs, beside = await two_generations(store)
    before = await store.change_migration(None, a_migration(docs, beside))
    assert before is not None
    after = replace(before, phase=Phase.SWITCHED, serving=beside.generation)
    switched = await store.switch_generation(before, after)
    assert switched == replace(after, revision=before.revision + 1)
    listing = await store.listing()
    assert (listing.current, listing.beside) == ((beside,), (docs,))
    assert listing.migrations == (switched,)
    back = replace(switched, phase=Phase.ROLLED_BACK, serving=docs.generation)
    assert await store.switch_generation(switched, back) is not None
    listing = await store.listing()
    assert (listing.current, listing.beside) == ((docs,), (beside,))


async def test_of_many_switches_at_once_one_is_done(store: VectorStore) -> None:
    docs, beside = await two_generations(store)
    before = await store.change_migration(None, a_migration(docs, beside))
    assert before is not None
    after = replace(before, phase=Phase.SWITCHED, serving=beside.generation)
    done = await asyncio.gather(*(store.switch_generation(before, after) for _ in range(8)))
    assert sum(one is not None for one in done) == 1
    assert (await store.listing()).current == (beside,)


async def test_a_switch_to_what_is_not_there_changes_nothing(store: VectorStore) -> None:
    docs, beside = await two_generations(store)
    before = await store.change_migration(None, a_migration(docs, beside))
    assert before is not None
    await store.drop_collection(beside)
    after = replace(before, phase=Phase.SWITCHED, serving=beside.generation)
    assert await store.switch_generation(before, after) is None
    assert (await store.listing()).current == (docs,)
    assert await store.migration("docs") == before


async def test_a_record_is_changed_only_from_the_state_that_was_read(store: VectorStore) -> None:
    docs, beside = await two_generations(store)
    assert await store.migration("docs") is None
    first = await store.change_migration(None, a_migration(docs, beside))
    assert first is not None
    assert await store.migration("docs") == first
    assert await store.change_migration(None, a_migration(docs, beside)) is None
    second = await store.change_migration(first, replace(first, paused=True))
    assert second is not None
    assert await store.change_migration(first, replace(first, said="late")) is None
    assert await store.migration("docs") == second


async def test_who_has_lost_the_claim_changes_nothing(store: VectorStore) -> None:
    docs, beside = await two_generations(store)
    first = await store.change_migration(None, a_migration(docs, beside))
    assert first is not None
    assert await store.claim_migration("docs", "one", 0.05)
    assert not await store.claim_migration("docs", "two", 30)
    assert await store.claim_migration("other", "two", 30)
    await asyncio.sleep(0.1)
    assert await store.claim_migration("docs", "two", 30)
    assert await store.change_migration(first, replace(first, said="one"), "one") is None
    switched = replace(first, phase=Phase.SWITCHED, serving=beside.generation)
    assert await store.switch_generation(first, switched, "one") is None
    await store.release_migration("docs", "one")
    assert not await store.claim_migration("docs", "one", 30)
    assert await store.change_migration(first, replace(first, said="two"), "two") is not None
    await store.release_migration("docs", "two")
    assert await store.claim_migration("docs", "one", 30)


async def test_tallies_are_written_added_to_and_dropped_by_heading(store: VectorStore) -> None:
    await store.set_tally("docs", "positions", {"3": 1 << 47, "5": 9})
    await store.set_tally("docs", "positions", {"5": 10})
    await store.set_tally("docs", "positions", {})
    await asyncio.gather(
        *(store.add_to_tally("docs", "counts", {"queries": 1, "shift": -3}) for _ in range(10))
    )
    assert await store.tally("docs", "positions") == {"3": 1 << 47, "5": 10}
    assert await store.tally("docs", "counts") == {"queries": 10, "shift": -30}
    assert await store.tally("other", "counts") == {}
    await store.drop_tally("docs", "counts")
    await store.drop_tally("docs", "counts")
    assert await store.tally("docs", "counts") == {}
    assert await store.tally("docs", "positions") != {}
