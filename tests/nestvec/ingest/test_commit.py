"""A change is applied whole or undone or reported, whatever fails, and whoever goes away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.coarse.app import CoarseApp
from nestvec.coarse.tier import ids_of as ids_of_state
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NotFound,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.placement import partition_of, shard_of
from nestvec.ingest import commit as commit_module
from nestvec.ingest.batch import Item, Outcome, Refusal
from tests.support.rooms import (
    PATIENT_S,
    FaultyShard,
    FaultyStore,
    Rooms,
    eventually,
    hanging,
    ids_of,
    open_rooms,
    raising,
    waiting_for,
)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "_RECONCILE_EVERY_S", 0.01)


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def rooms(store: FaultyStore) -> AsyncIterator[Rooms]:
    """An empty collection on one shard that can fail."""
    async with open_rooms(store, wrap_shard=FaultyShard) as opened:
        await opened.create(tiers=(8, 16))
        yield opened


def shard_of_rooms(rooms: Rooms, number: int = 0) -> FaultyShard:
    shard = rooms.shards[number]
    assert isinstance(shard, FaultyShard)
    return shard


async def docs_of(rooms: Rooms) -> Collection:
    return await rooms.catalogue.get("docs")


async def live(rooms: Rooms) -> set[int]:
    """Internal ids that the store's id map names."""
    docs = await docs_of(rooms)
    ids: set[int] = set()
    async for batch in rooms.store.live_ids(docs, range(docs.partitions)):
        ids |= set(batch.tolist())
    return ids


def indexed(rooms: Rooms) -> set[int]:
    """Internal ids that searches find: the same in every tier."""
    everywhere: set[int] = set()
    for shard in rooms.shards:
        assert isinstance(shard, FaultyShard)
        app = shard._shard
        assert isinstance(app, CoarseApp)
        tiers = app._served["docs"].tiers.values()
        ids, *others = [ids_of_state(tier._state).tolist() for tier in tiers]
        assert all(other == ids for other in others), "tiers differ"
        assert not everywhere & set(ids)
        everywhere |= set(ids)
    return everywhere


async def in_line(rooms: Rooms) -> bool:
    """Whether the coarse tier is exactly what the store says, and nothing else is kept."""
    assert isinstance(rooms.store, FaultyStore)
    named = await live(rooms)
    return indexed(rooms) == named == rooms.store.kept(await docs_of(rooms))


def refusals(outcome: Outcome) -> list[tuple[int, Refusal]]:
    return [(failure.position, failure.refusal) for failure in outcome.failures]


async def texts_of(rooms: Rooms, name: str) -> list[str]:
    """The texts under which `name` is found, by its own words and by those of its versions."""
    answer = await rooms.ask("version", k=1000, candidates=1000)
    return [hit.document.text for hit in answer.hits if hit.document.id == name]


# --- what goes well -------------------------------------------------------------------------------


async def test_what_is_committed_is_found_and_counted(rooms: Rooms) -> None:
    outcome = await rooms.add(Document("a", "red"), Document("b", "green"))
    assert (outcome.indexed, outcome.failures) == (2, [])
    assert await rooms.found("red", k=1) == ["a"]
    assert await in_line(rooms)


async def test_an_upsert_replaces_the_document_and_frees_the_old_one(rooms: Rooms) -> None:
    await rooms.add(Document("a", "version one"))
    (old,) = await live(rooms)
    outcome = await rooms.add(Document("a", "version two"), Document("b", "other"))
    assert outcome.indexed == 2
    assert await texts_of(rooms, "a") == ["version two"]
    await eventually(lambda: in_line(rooms))
    assert old not in await live(rooms)


async def test_a_replaced_vector_stays_readable_for_a_while() -> None:
    """A search that began before the upsert may still fetch it."""
    store = FaultyStore()
    async with open_rooms(store, wrap_shard=FaultyShard, purge_after_s=3600.0) as rooms:
        await rooms.create()
        await rooms.add(Document("a", "version one"))
        (old,) = await live(rooms)
        await rooms.add(Document("a", "version two"))
        await rooms.ingest.delete("docs", ["a"])
        assert old in store.kept(await docs_of(rooms))
        assert indexed(rooms) == set()
        docs = await docs_of(rooms)
    assert store.kept(docs) == set(), "closing frees what waited to be freed, at once"


async def test_a_large_batch_is_committed_in_parts_and_reported_as_one(rooms: Rooms) -> None:
    documents = [Document(f"d{number}", f"text {number}") for number in range(2500)]
    outcome = await rooms.add(*documents, Document("bad", ""))
    assert outcome.indexed == 2500
    assert refusals(outcome) == [(2500, Refusal.INVALID)]
    assert rooms.store.faults.calls.count("put") >= 3  # type: ignore[attr-defined]
    assert await in_line(rooms)


async def test_what_was_refused_before_stays_reported(rooms: Rooms) -> None:
    outcome = await rooms.add(Document("a", ""), Document("b", "good"), Document("b", "better"))
    assert outcome.indexed == 1
    assert sorted(refusals(outcome)) == [(0, Refusal.INVALID), (1, Refusal.SUPERSEDED)]


async def test_documents_go_to_the_shard_of_their_partition() -> None:
    async with open_rooms(shards=3, wrap_shard=FaultyShard) as rooms:
        await rooms.create()
        names = [f"d{number}" for number in range(60)]
        await rooms.add(*(Document(name, f"text {name}") for name in names))
        docs = await docs_of(rooms)
        for number, shard in enumerate(rooms.shards):
            mine = [
                name
                for name in names
                if shard_of(partition_of(name, docs.partitions), docs.partitions, 3) == number
            ]
            assert (await shard.status(docs))[0].documents == len(mine)
        await rooms.add(*(Document(name, f"new {name}") for name in names[:30]))
        deleted, _ = await rooms.ingest.delete("docs", names[20:40])
        assert deleted == 20
        await eventually(lambda: in_line(rooms))
        assert len(indexed(rooms)) == 40


# --- deleting -------------------------------------------------------------------------------------


async def test_deleting_tells_how_many_and_names_what_was_not_there(rooms: Rooms) -> None:
    await rooms.add(*(Document(name, f"text {name}") for name in "abc"))
    assert await rooms.ingest.delete("docs", ["b", "no", "a", "b", "nor"]) == (2, ["no", "nor"])
    assert await rooms.found("text") == ["c"]
    await eventually(lambda: in_line(rooms))
    assert await rooms.ingest.delete("docs", ["a"]) == (0, ["a"])
    assert (await rooms.add(Document("a", "text again"))).indexed == 1
    assert sorted(await rooms.found("text")) == ["a", "c"]


@pytest.mark.parametrize(
    ("ids", "message"), [([], "none given"), ([""], "0 bytes"), (["x" * 513], "513 bytes")]
)
async def test_deleting_nothing_or_an_impossible_id_is_refused(
    rooms: Rooms, ids: list[str], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        await rooms.ingest.delete("docs", ids)
    assert caught.value.field == "ids"


async def test_deleting_in_an_unknown_collection_is_not_found(rooms: Rooms) -> None:
    with pytest.raises(NotFound, match="dox"):
        await rooms.ingest.delete("dox", ["a"])


# --- what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["find", "put"])
@pytest.mark.parametrize(
    "error", [StoreUnavailable("the store is down"), Overloaded("the store is full")]
)
async def test_a_store_that_refuses_reports_every_document_and_changes_nothing(
    rooms: Rooms, store: FaultyStore, call: str, error: StoreUnavailable | Overloaded
) -> None:
    await rooms.add(Document("a", "version one"))
    before = await live(rooms)
    store.faults.before[call] = [raising(error)]
    outcome = await rooms.add(Document("a", "version two"), Document("b", "other"))
    assert outcome.indexed == 0
    assert refusals(outcome) == [(0, Refusal.UNAVAILABLE), (1, Refusal.UNAVAILABLE)]
    assert {failure.message for failure in outcome.failures} == {str(error)}
    assert await live(rooms) == before
    assert await texts_of(rooms, "a") == ["version one"]
    assert (await rooms.add(Document("a", "version two"))).indexed == 1, "the next is taken"
    assert await texts_of(rooms, "a") == ["version two"]
    await eventually(lambda: in_line(rooms))


async def test_a_full_store_takes_no_part_of_a_batch_and_takes_more_after_deletes() -> None:
    store = FaultyStore(max_bytes=6_000)
    async with open_rooms(store, wrap_shard=FaultyShard) as rooms:
        await rooms.create()
        first = [Document(f"d{number}", "text") for number in range(20)]
        assert (await rooms.add(*first)).indexed == 20
        outcome = await rooms.add(*(Document(f"e{number}", "text") for number in range(30)))
        assert outcome.indexed == 0
        assert {refusal for _, refusal in refusals(outcome)} == {Refusal.UNAVAILABLE}
        assert "full" in outcome.failures[0].message
        assert len(await live(rooms)) == 20
        await rooms.ingest.delete("docs", [one.id for one in first[:15]])
        await eventually(lambda: in_line(rooms))
        assert (await rooms.add(*(Document(f"e{n}", "text") for n in range(10)))).indexed == 10
        await eventually(lambda: in_line(rooms))


async def test_a_write_whose_answer_was_lost_leaves_no_old_version_behind(
    rooms: Rooms, store: FaultyStore
) -> None:
    """The store has the new version, nobody knows: it is sent again, and the first one goes."""
    await rooms.add(Document("a", "version one"))
    store.faults.after["put"] = [raising(StoreUnavailable("no answer in time"))]
    outcome = await rooms.add(Document("a", "version two"))
    assert refusals(outcome) == [(0, Refusal.UNAVAILABLE)]
    assert (await rooms.add(Document("a", "version three"))).indexed == 1
    assert await texts_of(rooms, "a") == ["version three"]
    await eventually(lambda: in_line(rooms))
    assert len(await live(rooms)) == 1


async def test_a_write_whose_answer_was_lost_heals_without_another_change(
    rooms: Rooms, store: FaultyStore
) -> None:
    await rooms.add(Document("a", "version one"))
    store.faults.after["put"] = [raising(StoreUnavailable("no answer in time"))]
    await rooms.add(Document("a", "version two"))
    await eventually(lambda: in_line(rooms))
    assert await texts_of(rooms, "a") == ["version two"]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    "error",
    [WorkerUnavailable("shard is down"), Overloaded("busy"), BudgetSpent("shard 0")],
    ids=lambda error: type(error).__name__,
)
async def test_a_coarse_worker_that_fails_reports_the_documents_and_heals(
    rooms: Rooms, side: str, error: Exception
) -> None:
    await rooms.add(Document("a", "version one"))
    getattr(shard_of_rooms(rooms).faults, side)["apply"] = [raising(error)]
    outcome = await rooms.add(Document("a", "version two"), Document("b", "other"))
    assert refusals(outcome) == [(0, Refusal.UNAVAILABLE), (1, Refusal.UNAVAILABLE)]
    assert len(await texts_of(rooms, "a")) == 1, "found throughout, once"
    await eventually(lambda: in_line(rooms))
    assert (await rooms.add(Document("a", "version three"))).indexed == 1
    assert await texts_of(rooms, "a") == ["version three"]
    await eventually(lambda: in_line(rooms))


async def test_one_of_several_shards_that_fails_reports_and_never_ends_the_stream() -> None:
    async with open_rooms(shards=3, wrap_shard=FaultyShard) as rooms:
        await rooms.create()
        await rooms.add(*(Document(f"d{number}", f"version 1 {number}") for number in range(30)))
        shard_of_rooms(rooms, 1).faults.before["apply"] = [raising(WorkerUnavailable("down"))]
        changed = [Document(f"d{number}", f"version 2 {number}") for number in range(30)]
        outcome = await rooms.add(*changed)
        assert outcome.indexed == 0
        assert [refusal for _, refusal in refusals(outcome)] == [Refusal.UNAVAILABLE] * 30
        await eventually(lambda: in_line(rooms))
        assert (await rooms.add(*changed)).indexed == 30
        await eventually(lambda: in_line(rooms))
        answer = await rooms.ask("version", k=100)
        assert sorted(ids_of(answer)) == sorted(document.id for document in changed)
        assert all(hit.document.text.startswith("version 2") for hit in answer.hits)


@pytest.mark.parametrize(
    ("room", "side", "call"),
    [
        ("store", "before", "find"),
        ("shard", "before", "apply"),
        ("shard", "after", "apply"),
        ("store", "before", "unmap"),
        ("store", "after", "unmap"),
    ],
)
async def test_a_delete_that_fails_is_raised_and_heals_and_may_be_repeated(
    rooms: Rooms, store: FaultyStore, room: str, side: str, call: str
) -> None:
    await rooms.add(Document("a", "version one"), Document("b", "other"))
    faults = store.faults if room == "store" else shard_of_rooms(rooms).faults
    getattr(faults, side)[call] = [raising(StoreUnavailable("gone"))]
    with pytest.raises(StoreUnavailable):
        await rooms.ingest.delete("docs", ["a", "no"])
    await eventually(lambda: in_line(rooms))
    await rooms.ingest.delete("docs", ["a"])
    assert await texts_of(rooms, "a") == []
    assert await rooms.found("other", k=5) == ["b"]
    await eventually(lambda: in_line(rooms))


async def test_many_failures_leave_one_reconciler_and_a_dropped_collection_none(
    rooms: Rooms, store: FaultyStore
) -> None:
    await rooms.add(Document("a", "version one"))
    store.faults.after["put"] = [raising(StoreUnavailable("lost"))]
    await rooms.add(Document("a", "version two"))
    store.faults.always("find", raising(StoreUnavailable("down")))
    for number in range(20):
        await rooms.add(Document(f"d{number}", "text"))
    assert len(rooms.ingest._committer._tasks) <= 1
    await rooms.admin.drop("docs")
    store.faults.heal()

    async def at_rest() -> bool:
        return not rooms.ingest._committer._tasks

    await eventually(at_rest)


# --- who goes away --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["find", "put", "apply"])
async def test_a_change_that_began_is_finished_though_its_caller_goes_away(
    rooms: Rooms, store: FaultyStore, call: str
) -> None:
    await rooms.add(Document("a", "version one"))
    go = asyncio.Event()
    faults = shard_of_rooms(rooms).faults if call == "apply" else store.faults
    seen = len(faults.calls)
    faults.before[call] = [waiting_for(go)]
    task = asyncio.create_task(rooms.add(Document("a", "version two")))

    async def there() -> bool:
        return call in faults.calls[seen:]

    await eventually(there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await rooms.ingest.close()
    assert await texts_of(rooms, "a") == ["version two"]
    assert await in_line(rooms)


async def test_a_delete_that_began_is_finished_though_its_caller_goes_away(
    rooms: Rooms, store: FaultyStore
) -> None:
    await rooms.add(Document("a", "version one"))
    go = asyncio.Event()
    store.faults.before["unmap"] = [waiting_for(go)]
    task = asyncio.create_task(rooms.ingest.delete("docs", ["a"]))

    async def there() -> bool:
        return "unmap" in store.faults.calls

    await eventually(there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await rooms.ingest.close()
    assert await live(rooms) == set()
    assert await in_line(rooms)


# --- several at once ------------------------------------------------------------------------------


async def test_two_upserts_of_one_id_in_flight_end_in_the_order_of_their_commits(
    rooms: Rooms, store: FaultyStore
) -> None:
    docs = await docs_of(rooms)
    first = await rooms.ingest.prepare(docs, [Item(Document("a", "version one"))], False)
    second = await rooms.ingest.prepare(docs, [Item(Document("a", "version two"))], False)
    third = await rooms.ingest.prepare(docs, [Item(Document("a", "version three"))], False)
    go = asyncio.Event()
    store.faults.before["put"] = [waiting_for(go)]
    tasks = []
    for prepared in (second, first, third):
        tasks.append(asyncio.create_task(rooms.ingest.commit(prepared)))
        await asyncio.sleep(0.005)
    go.set()
    outcomes = await asyncio.gather(*tasks)
    assert [outcome.indexed for outcome in outcomes] == [1, 1, 1]
    assert await texts_of(rooms, "a") == ["version three"]
    await eventually(lambda: in_line(rooms))
    assert len(await live(rooms)) == 1


async def test_a_change_of_one_collection_does_not_wait_for_another(
    rooms: Rooms, store: FaultyStore
) -> None:
    await rooms.create("other")
    store.faults.before["put"] = [hanging]
    stuck = asyncio.create_task(rooms.add(Document("a", "text")))
    await asyncio.sleep(0.01)
    outcome = await asyncio.wait_for(rooms.add(Document("b", "text"), name="other"), PATIENT_S)
    assert outcome.indexed == 1
    stuck.cancel()
    for task in list(rooms.ingest._committer._tasks):
        task.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


async def test_a_search_during_upserts_finds_the_document_every_time_and_once(
    store: FaultyStore,
) -> None:
    """With yields inside every call of the store, so that searches run between the steps."""

    async def pause() -> None:
        await asyncio.sleep(0.001)

    async with open_rooms(store, wrap_shard=FaultyShard, purge_after_s=PATIENT_S) as rooms:
        await rooms.create()
        await rooms.add(*(Document(f"d{number}", f"filler {number}") for number in range(20)))
        await rooms.add(Document("a", "version 0 constant words"))
        for call in ("put", "find", "vectors", "payloads", "purge"):
            store.faults.always(call, pause)
        shard_of_rooms(rooms).faults.always("apply", pause)
        done = asyncio.Event()
        seen: list[list[str]] = []

        async def search(search_class: str) -> None:
            while not done.is_set():
                seen.append(await rooms.found("constant words version", search_class=search_class))

        searches = [asyncio.create_task(search(one)) for one in ("search", "autocomplete") * 2]
        for number in range(1, 30):
            changed = Document("a", f"version {number} constant words")
            assert (await rooms.add(changed)).indexed == 1
        done.set()
        await asyncio.gather(*searches)
        assert len(seen) > 30
        assert all(found.count("a") == 1 for found in seen)


# --- anything may happen --------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d"]
FAULTS = [
    ("store", "before", "find"),
    ("store", "before", "put"),
    ("store", "after", "put"),
    ("store", "before", "vectors"),
    ("store", "before", "unmap"),
    ("store", "after", "unmap"),
    ("shard", "before", "apply"),
    ("shard", "after", "apply"),
]
steps = st.tuples(
    st.sampled_from(["upsert", "upsert", "delete"]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
    st.none() | st.sampled_from(FAULTS),
    st.integers(0, 2),
)


@settings(max_examples=40)
@given(st.lists(steps, max_size=10), st.sampled_from([1, 2]))
def test_whatever_fails_the_tier_ends_as_the_store_and_the_store_as_it_was_acknowledged(
    sequence: list[tuple[str, list[str], tuple[str, str, str] | None, int]], shards: int
) -> None:
    async def check() -> None:
        store = FaultyStore()
        async with open_rooms(store, shards=shards, wrap_shard=FaultyShard) as rooms:
            await rooms.create(tiers=(8,))
            # What may be there under each name: after an unacknowledged change, either.
            possible: dict[str, set[str | None]] = {name: {None} for name in NAMES}
            for number, (kind, names, fault, skip) in enumerate(sequence):
                if fault is not None:
                    room, side, call = fault
                    faults = store.faults if room == "store" else shard_of_rooms(rooms).faults
                    # Not necessarily the first such call of the change.
                    getattr(faults, side)[call] = [*[well] * skip, raising(StoreUnavailable("x"))]
                text = f"version {number}"
                if kind == "upsert":
                    documents = [Document(name, text) for name in names]
                    outcome = await rooms.add(*documents)
                    done = outcome.indexed == len(names)
                    assert done or len(outcome.failures) == len(names)
                else:
                    try:
                        await rooms.ingest.delete("docs", names)
                        done = True
                    except StoreUnavailable:
                        done = False
                wanted = text if kind == "upsert" else None
                for name in names:
                    possible[name] = {wanted} if done else possible[name] | {wanted}
                if random.Random(number).random() < 0.3:
                    store.faults.heal()
                    shard_of_rooms(rooms).faults.heal()
            store.faults.heal()
            for shard_number in range(shards):
                shard_of_rooms(rooms, shard_number).faults.heal()
            assert (await rooms.add(Document("last", "version last"))).indexed == 1
            await eventually(lambda: in_line(rooms))
            answer = await rooms.ask("version", k=100, candidates=100)
            texts = {hit.document.id: hit.document.text for hit in answer.hits}
            for name in NAMES:
                assert texts.get(name) in possible[name]

    asyncio.run(check())


async def well() -> None:
    """No fault."""
