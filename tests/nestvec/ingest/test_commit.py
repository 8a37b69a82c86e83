"""A change is applied whole or reported, whatever fails, and whoever goes away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.clock import MAX_VERSION, HybridClock
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    MigrationRefused,
    NotFound,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.ports import StoreDeletion, StoreRecord
from nestvec.core.watermark import Watermark
from nestvec.ingest.batch import Ack, Item, Outcome, Refusal
from tests.support.faults import PATIENT_S, eventually, hanging, raising, waiting_for
from tests.support.ingest_desk import QUICK, Desk, FlakyStore, open_desk
from tests.support.long_runs import examples

PATIENT = replace(QUICK, patience_s=PATIENT_S)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """One shard that follows at once, and nobody who gives up early."""
    async with open_desk(options=PATIENT) as opened:
        yield opened


def refusals(outcome: Outcome) -> list[tuple[int, Refusal]]:
    return [(failure.position, failure.refusal) for failure in outcome.failures]


def versioned(name: str, text: str, version: int) -> Item:
    return Item(Document(name, text), version=version)


async def write_elsewhere(desk: Desk, name: str, version: int) -> None:
    """As another region's server would: this one's clock knows nothing of it."""
    payload = payload_to_bytes(Document(name, "other"))
    await desk.store.put(desk.docs, [StoreRecord(name, b"v", payload, version)])


# --- what goes well -------------------------------------------------------------------------------


async def test_what_is_committed_is_found_and_counted(desk: Desk) -> None:
    outcome = await desk.add(Document("a", "red"), Document("b", "green"))
    assert (outcome.indexed, outcome.failures) == (2, [])
    assert desk.texts == {"a": "red", "b": "green"}
    assert desk.found() == await desk.live()


async def test_the_watermark_covers_what_was_written_and_no_more(desk: Desk) -> None:
    first = await desk.add(Document("a", "red"))
    second = await desk.add(Document("a", "blue"))
    before = Watermark.of_ids(1, await desk.live())
    assert second.watermark == before
    assert second.watermark.joined(first.watermark) == second.watermark
    assert not second.watermark.reached_by(first.watermark.sequences)


async def test_an_upsert_replaces_the_document(desk: Desk) -> None:
    await desk.add(Document("a", "version one"))
    outcome = await desk.add(Document("a", "version two"), Document("b", "other"))
    assert outcome.indexed == 2
    assert desk.texts == {"a": "version two", "b": "other"}
    assert desk.found() == await desk.live()


async def test_a_large_batch_is_committed_in_parts_and_reported_as_one(desk: Desk) -> None:
    documents = [Document(f"d{number}", f"text {number}") for number in range(2500)]
    outcome = await desk.add(*documents, Document("bad", ""))
    assert outcome.indexed == 2500
    assert refusals(outcome) == [(2500, Refusal.INVALID)]
    assert desk.store.faults.calls.count("put") >= 3
    assert desk.found() == await desk.live()


async def test_what_was_refused_before_stays_reported(desk: Desk) -> None:
    outcome = await desk.add(Document("a", ""), Document("b", "good"), Document("b", "better"))
    assert outcome.indexed == 1
    assert sorted(refusals(outcome)) == [(0, Refusal.INVALID), (1, Refusal.SUPERSEDED)]
    assert desk.texts == {"b": "better"}


# --- versions -------------------------------------------------------------------------------------


async def test_the_greater_version_stands_whatever_the_order_of_arrival(desk: Desk) -> None:
    assert (await desk.add(versioned("a", "newer", 20))).indexed == 1
    outcome = await desk.add(versioned("a", "older", 10), versioned("b", "first", 10))
    assert refusals(outcome) == [(0, Refusal.STALE)]
    assert "version 10 is older than 20" in outcome.failures[0].message
    assert outcome.indexed == 1
    assert desk.texts == {"a": "newer", "b": "first"}
    assert (await desk.add(versioned("a", "again", 20))).indexed == 1
    assert desk.texts["a"] == "again"


async def test_within_one_message_versions_decide_before_places_do(desk: Desk) -> None:
    outcome = await desk.add(
        versioned("a", "newer", 7), versioned("a", "older", 5), versioned("a", "newest", 9)
    )
    assert sorted(refusals(outcome)) == [(0, Refusal.SUPERSEDED), (1, Refusal.STALE)]
    assert desk.texts == {"a": "newest"}


async def test_a_write_older_than_a_deletion_does_not_bring_the_document_back(desk: Desk) -> None:
    await desk.add(versioned("a", "text", 10))
    assert (await desk.ingest.delete("docs", ["a", "to come"], version=20)).deleted == 1
    outcome = await desk.add(versioned("a", "late", 15), versioned("to come", "late", 15))
    assert refusals(outcome) == [(0, Refusal.STALE), (1, Refusal.STALE)]
    assert desk.texts == {}
    assert (await desk.add(versioned("a", "later", 25))).indexed == 1


async def test_a_deletion_older_than_the_document_leaves_it(desk: Desk) -> None:
    await desk.add(versioned("a", "text", 10), versioned("b", "text", 10))
    await desk.ingest.delete("docs", ["b"], version=30)
    deletion = await desk.ingest.delete("docs", ["a", "b", "no"], version=5)
    assert (deletion.deleted, deletion.stale) == (0, ["a"])
    assert sorted(deletion.missing) == ["b", "no"], "one that a newer deletion took is not stale"
    assert desk.texts == {"a": "text"}


async def test_a_clock_that_is_behind_catches_up_with_what_stands(desk: Desk) -> None:
    """Another region's clock ran ahead, or this server's jumped back."""
    ahead = HybridClock(lambda: desk.clock.now_ms + 3_600_000, region=7).tick()
    await write_elsewhere(desk, "a", ahead)
    outcome = await desk.add(Document("a", "mine"), Document("b", "mine"))
    assert (outcome.indexed, outcome.failures) == (2, [])
    assert desk.texts == {"a": "mine", "b": "mine"}
    desk.clock.now_ms -= 10_000_000
    assert (await desk.add(Document("a", "after the jump"))).indexed == 1
    await write_elsewhere(desk, "c", HybridClock(lambda: desk.clock.now_ms * 2).tick())
    deletion = await desk.ingest.delete("docs", ["a", "c"])
    assert (deletion.deleted, deletion.stale, deletion.missing) == (2, [], [])
    assert desk.texts == {"b": "mine"}


async def test_versions_of_the_server_rise_within_a_batch_and_carry_its_region() -> None:
    async with open_desk(options=replace(PATIENT, region=9)) as desk:
        await desk.add(*(Document(f"d{number}", "text") for number in range(50)))
        versions = [record.version for record in desk.store.asked]
        assert versions == sorted(set(versions))
        assert {version & 0xFF for version in versions} == {9}


async def test_the_last_version_there_is_can_be_overwritten_and_harms_no_other_collection(
    desk: Desk,
) -> None:
    assert (await desk.add(versioned("a", "the end", MAX_VERSION))).indexed == 1
    assert (await desk.add(Document("a", "after it"))).indexed == 1
    assert desk.texts == {"a": "after it"}
    other = await desk.store.create_collection(replace(desk.docs, name="other"), {})
    prepared = await desk.ingest.prepare(other, [Item(Document("x", "text"))], True)
    await desk.ingest.commit(prepared)
    assert desk.store.asked[-1].version < MAX_VERSION


async def test_an_impossible_version_is_refused(desk: Desk) -> None:
    outcome = await desk.add(versioned("a", "text", -1))
    assert refusals(outcome) == [(0, Refusal.INVALID)]
    with pytest.raises(InvalidRequest, match="version"):
        await desk.ingest.delete("docs", ["a"], version=-1)


# --- deleting -------------------------------------------------------------------------------------


async def test_deleting_tells_how_many_and_names_what_was_not_there(desk: Desk) -> None:
    await desk.add(*(Document(name, f"text {name}") for name in "abc"))
    deletion = await desk.ingest.delete("docs", ["b", "no", "a", "b", "nor"])
    assert (deletion.deleted, deletion.missing) == (2, ["no", "nor"])
    assert desk.found() == await desk.live()
    assert list(desk.texts) == ["c"]
    assert deletion.watermark.reached_by(desk.shards[0].positions)
    again = await desk.ingest.delete("docs", ["a"])
    assert (again.deleted, again.missing) == (0, ["a"])
    assert (await desk.add(Document("a", "text again"))).indexed == 1
    assert sorted(desk.texts) == ["a", "c"]


async def test_many_documents_are_deleted_in_one_call(desk: Desk) -> None:
    names = [f"d{number}" for number in range(3000)]
    await desk.add(*(Document(name, "text") for name in names))
    deletion = await desk.ingest.delete("docs", names)
    assert (deletion.deleted, deletion.missing) == (3000, [])
    assert desk.found() == set()


@pytest.mark.parametrize(
    ("ids", "message"), [([], "none given"), ([""], "0 bytes"), (["x" * 513], "513 bytes")]
)
async def test_deleting_nothing_or_an_impossible_id_is_refused(
    desk: Desk, ids: list[str], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        await desk.ingest.delete("docs", ids)
    assert caught.value.field == "ids"


async def test_deleting_in_an_unknown_collection_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound, match="dox"):
        await desk.ingest.delete("dox", ["a"])


async def test_a_delete_returns_only_when_no_shard_finds_the_document(desk: Desk) -> None:
    await desk.add(Document("a", "text"))
    desk.shards[0].stalled = True
    task = asyncio.create_task(desk.ingest.delete("docs", ["a"]))

    async def deleted() -> bool:
        return not desk.texts

    await eventually(deleted)
    await asyncio.sleep(0.02)
    assert not task.done()
    assert len(desk.found()) == 1
    desk.shards[0].stalled = False
    assert (await task).deleted == 1
    assert desk.found() == set()


async def test_a_delete_that_is_repeated_waits_for_what_the_first_one_did_not() -> None:
    async with open_desk() as desk:
        await desk.add(Document("a", "text"))
        desk.shards[0].stalled = True
        with pytest.raises(WorkerUnavailable, match="deleted from the store"):
            await desk.ingest.delete("docs", ["a"])
        with pytest.raises(WorkerUnavailable):
            await desk.ingest.delete("docs", ["a"])
        desk.shards[0].stalled = False
        assert (await desk.ingest.delete("docs", ["a"])).missing == ["a"]
        assert desk.found() == set()


async def test_a_delete_that_only_stores_waits_for_no_shard(desk: Desk) -> None:
    await desk.add(Document("a", "text"))
    desk.shards[0].stalled = True
    deletion = await desk.ingest.delete("docs", ["a", "b"], ack=Ack.STORED)
    assert (deletion.deleted, deletion.missing) == (1, ["b"])
    assert desk.texts == {}


# --- what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    "error", [StoreUnavailable("the store is down"), Overloaded("the store is full")]
)
async def test_a_store_that_refuses_reports_every_document_and_the_next_is_taken(
    desk: Desk, side: str, error: StoreUnavailable | Overloaded
) -> None:
    await desk.add(Document("a", "version one"))
    getattr(desk.store.faults, side)["put"] = [raising(error)]
    outcome = await desk.add(Document("a", "version two"), Document("b", "other"))
    assert outcome.indexed == 0
    assert refusals(outcome) == [(0, Refusal.UNAVAILABLE), (1, Refusal.UNAVAILABLE)]
    assert {failure.message for failure in outcome.failures} == {str(error)}
    assert {failure.cause for failure in outcome.failures} == {error}
    assert (await desk.add(Document("a", "version three"))).indexed == 1
    assert desk.texts["a"] == "version three"
    assert desk.found() == await desk.live()


async def test_a_full_store_takes_no_part_of_a_batch_and_takes_more_after_deletes() -> None:
    async with open_desk(FlakyStore(max_bytes=6_000), options=PATIENT) as desk:
        first = [Document(f"d{number}", "text") for number in range(20)]
        assert (await desk.add(*first)).indexed == 20
        outcome = await desk.add(*(Document(f"e{number}", "text") for number in range(30)))
        assert outcome.indexed == 0
        assert {refusal for _, refusal in refusals(outcome)} == {Refusal.UNAVAILABLE}
        assert "full" in outcome.failures[0].message
        assert len(await desk.live()) == 20
        await desk.ingest.delete("docs", [one.id for one in first[:15]])

        async def freed() -> bool:
            return len(desk.store.kept_texts(desk.docs)) == 5

        await eventually(freed)
        assert (await desk.add(*(Document(f"e{n}", "text") for n in range(10)))).indexed == 10


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_delete_that_fails_is_raised_and_may_be_repeated(desk: Desk, side: str) -> None:
    await desk.add(Document("a", "text"), Document("b", "other"))
    getattr(desk.store.faults, side)["delete"] = [raising(StoreUnavailable("gone"))]
    with pytest.raises(StoreUnavailable):
        await desk.ingest.delete("docs", ["a", "no"])
    await desk.ingest.delete("docs", ["a"])
    assert list(desk.texts) == ["b"]
    assert desk.found() == await desk.live()


async def test_a_document_that_is_not_found_in_time_is_reported_though_it_is_stored() -> None:
    async with open_desk(shards=2) as desk:
        desk.shards[1].stalled = True
        documents = [Document(f"d{number}", "text") for number in range(40)]
        outcome = await desk.add(*documents)
        assert 0 < outcome.indexed < 40
        assert outcome.indexed == len(desk.found())
        assert len(outcome.failures) == 40 - outcome.indexed
        assert {refusal for _, refusal in refusals(outcome)} == {Refusal.UNAVAILABLE}
        assert outcome.failures[0].message.startswith("stored, and not searchable within 0.05 s")
        assert isinstance(outcome.failures[0].cause, BudgetSpent)
        assert len(desk.texts) == 40
        desk.shards[1].stalled = False
        assert (await desk.add(*documents)).indexed == 40
        assert desk.found() == await desk.live()


@pytest.mark.parametrize(
    "error", [WorkerUnavailable("restarting"), Overloaded("busy"), StoreUnavailable("slow")]
)
async def test_a_shard_that_fails_for_a_while_is_asked_again(desk: Desk, error: Exception) -> None:
    desk.shards[0].faults.before["reach"] = [raising(error)] * 2
    assert (await desk.add(Document("a", "text"))).indexed == 1
    assert desk.shards[0].faults.calls.count("reach") == 3


async def test_a_shard_that_does_not_know_the_collection_is_not_asked_again(desk: Desk) -> None:
    desk.shards[0].faults.before["reach"] = [raising(NotFound("collection", "docs"))]
    outcome = await desk.add(Document("a", "text"))
    assert refusals(outcome) == [(0, Refusal.UNAVAILABLE)]


async def test_stored_is_acknowledged_while_no_shard_answers(desk: Desk) -> None:
    desk.shards[0].faults.always("reach", hanging)
    outcome = await desk.add(Document("a", "text"), ack=Ack.STORED)
    assert (outcome.indexed, outcome.failures) == (1, [])
    assert desk.texts == {"a": "text"}


# --- who goes away --------------------------------------------------------------------------------


async def test_a_change_that_began_is_finished_though_its_caller_goes_away(desk: Desk) -> None:
    await desk.add(Document("a", "version one"))
    go = asyncio.Event()
    desk.store.faults.before["put"] = [waiting_for(go)]
    seen = desk.store.faults.calls.count("put")
    task = asyncio.create_task(desk.add(Document("a", "version two")))

    async def there() -> bool:
        return desk.store.faults.calls.count("put") > seen

    await eventually(there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await desk.ingest.close()
    assert desk.texts == {"a": "version two"}


async def test_a_delete_that_began_is_finished_though_its_caller_goes_away(desk: Desk) -> None:
    await desk.add(Document("a", "version one"))
    go = asyncio.Event()
    desk.store.faults.before["delete"] = [waiting_for(go)]
    task = asyncio.create_task(desk.ingest.delete("docs", ["a"]))

    async def there() -> bool:
        return "delete" in desk.store.faults.calls

    await eventually(there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await desk.ingest.close()
    assert desk.texts == {}


# --- several at once ------------------------------------------------------------------------------


async def test_a_change_of_one_collection_does_not_wait_for_another(desk: Desk) -> None:
    other = await desk.store.create_collection(replace(desk.docs, name="other"), {})
    go = asyncio.Event()
    desk.store.faults.before["put"] = [waiting_for(go)]
    stuck = asyncio.create_task(desk.add(Document("a", "text")))

    async def there() -> bool:
        return "put" in desk.store.faults.calls

    await eventually(there)
    prepared = await desk.ingest.prepare(other, [Item(Document("b", "text"))], True)
    outcome = await asyncio.wait_for(desk.ingest.commit(prepared, Ack.STORED), PATIENT_S)
    assert outcome.indexed == 1
    assert not stuck.done()
    go.set()
    assert (await stuck).indexed == 1


async def test_writes_of_one_id_at_once_leave_one_document(desk: Desk) -> None:
    async def pause() -> None:
        await asyncio.sleep(0.001 * random.Random(1).random())

    desk.store.faults.always("put", pause)
    writes = [desk.add(Document("a", f"version {number}")) for number in range(20)]
    deletes = [desk.ingest.delete("docs", ["a"]) for _ in range(5)]
    outcomes = await asyncio.gather(*writes, *deletes)
    assert all(one.indexed == 1 for one in outcomes if isinstance(one, Outcome))
    assert len(desk.texts) <= 1
    assert desk.found() == await desk.live()


# --- anything may happen --------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d"]
steps = st.tuples(
    st.sampled_from(["upsert", "upsert", "delete"]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
    st.none() | st.tuples(st.sampled_from(["before", "after"]), st.sampled_from(["put", "delete"])),
    # How far from its own time the server's clock is.
    st.integers(-1000, 1000),
    # Whether another region wrote or deleted one of the documents before, ahead of this one.
    st.sampled_from([None, None, "put", "delete"]),
)


Step = tuple[str, list[str], tuple[str, str] | None, int, str | None]


@settings(max_examples=examples(60))
@given(st.lists(steps, max_size=10), st.sampled_from([1, 2]))
def test_whatever_fails_and_whatever_the_clock_the_store_is_as_it_was_acknowledged(
    sequence: list[Step], shards: int
) -> None:
    async def check() -> None:
        async with open_desk(shards=shards, options=PATIENT) as desk:
            started_ms = desk.clock.now_ms
            # What may be there under each name: after an unacknowledged change, either.
            possible: dict[str, set[str | None]] = {name: {None} for name in NAMES}
            for number, (kind, names, fault, shift, elsewhere) in enumerate(sequence):
                desk.clock.now_ms = started_ms + shift
                desk.store.faults.heal()
                if elsewhere is not None:
                    await change_elsewhere(desk, elsewhere, names[0], started_ms + 10_000)
                    possible[names[0]] |= {"other", None}
                if fault is not None:
                    side, call = fault
                    getattr(desk.store.faults, side)[call] = [raising(StoreUnavailable("x"))]
                text = f"version {number}" if kind == "upsert" else None
                done = await change(desk, names, text)
                for name in names:
                    possible[name] = {text} if done else possible[name] | {text}
            desk.store.faults.heal()
            await desk.add(*(Document(f"last {number}", "text") for number in range(40)))
            texts = desk.texts
            assert all(texts.get(name) in possible[name] for name in NAMES)
            for shard in desk.shards:
                await shard.progress(desk.docs)
            assert desk.found() == await desk.live()

    asyncio.run(check())


async def change(desk: Desk, names: list[str], text: str | None) -> bool:
    """Write or delete; whether it was acknowledged: wholly, or not at all."""
    if text is None:
        try:
            await desk.ingest.delete("docs", names)
        except StoreUnavailable:
            return False
        return True
    outcome = await desk.add(*(Document(name, text) for name in names))
    assert outcome.indexed + len(outcome.failures) == len(names)
    assert outcome.indexed in (0, len(names))
    return outcome.indexed > 0


async def change_elsewhere(desk: Desk, kind: str, name: str, now_ms: int) -> None:
    """At a version ahead of this server's."""
    ahead = HybridClock(lambda: now_ms, region=3).tick()
    if kind == "put":
        await write_elsewhere(desk, name, ahead)
    else:
        await desk.store.delete(desk.docs, [StoreDeletion(name, ahead)])


# --- while the collection moves to another model --------------------------------------------------


class Retiring:
    """The generation is about to be dropped, as is heard of after so many questions. Fills what a
    committer asks of ports.Carrying.
    """

    def __init__(self, open_for: int, expecting: bool = False) -> None:
        self._open_for = open_for
        self._expecting = expecting

    async def require_open(self, collection: Collection) -> None:
        self._open_for -= 1
        if self._open_for < 0:
            raise MigrationRefused(f"generation {collection.generation} is about to be dropped")

    async def expects(self, collection: Collection) -> bool:
        return self._expecting


async def test_a_write_that_took_until_its_generation_was_drained_is_not_acknowledged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for write in (desk.add(Document("a", "red")), desk.ingest.delete("docs", ["a"])):
        monkeypatch.setattr(desk.ingest._committer, "_carrying", Retiring(open_for=1))
        with pytest.raises(MigrationRefused, match="about to be dropped"):
            await write


@pytest.mark.parametrize("expecting", [False, True])
async def test_a_deletion_is_remembered_while_older_writes_may_be_carried_over(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, expecting: bool
) -> None:
    carrying = Retiring(open_for=99, expecting=expecting)
    monkeypatch.setattr(desk.ingest._committer, "_carrying", carrying)
    await desk.ingest.delete("docs", ["late"], ack=Ack.STORED)
    await write_elsewhere(desk, "late", 1)
    assert desk.texts == ({} if expecting else {"late": "other"})
