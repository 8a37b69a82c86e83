"""A shard follows the ingest log: what it sees, what it waits for, and what it does about gaps."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping

import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse import follower as follower_module
from nestvec.coarse.app import CoarseApp
from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, NotFound, StoreUnavailable, WorkerUnavailable
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf
from nestvec.core.placement import partition_of, shard_of
from nestvec.core.ports import LogBatch
from nestvec.core.watermark import Watermark, sequence_of
from nestvec.telemetry.metrics import LOG_GAPS
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    SpyLog,
    a_collection,
    created,
    deleted,
    eventually,
    hanging,
    raising,
    waiting_for,
    written,
)
from tests.support.shards import a_query, found, found_in_every_tier, mark_of, reached

# Longer than any test: whatever is seen in time was asked for, not met by chance.
NEVER_S = 1000.0


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SpyLog:
    spy = SpyLog()
    monkeypatch.setattr(follower_module, "_log", spy)
    return spy


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def app(store: FaultyStore) -> AsyncIterator[CoarseApp]:
    """One that looks by itself hardly ever."""
    opened = CoarseApp(store, NumpyFactory(), load_batch=7, poll_s=NEVER_S)
    yield opened
    await opened.close()


def gaps(reason: str) -> float:
    return float(LOG_GAPS.labels(reason=reason)._value.get())


# --- what is seen ---------------------------------------------------------------------------------


async def test_what_is_written_is_seen_without_being_asked_for(store: FaultyStore) -> None:
    app = CoarseApp(store, NumpyFactory(), poll_s=0.001)
    docs = await created(store, a_collection())
    await app.open(docs)
    ids = await written(store, docs, mrl_like(30, 64, seed=1))

    async def seen() -> bool:
        return await found(app, a_query(docs)) == {*ids.tolist()}

    await eventually(seen)
    await app.close()


async def test_additions_replacements_and_deletions_are_followed_in_every_tier(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(8, 16, 64)))
    await app.open(docs)
    old = await written(store, docs, mrl_like(50, 64, seed=1))
    await reached(app, docs, old)
    assert await found_in_every_tier(app, docs) == {*old.tolist()}
    new = await written(store, docs, mrl_like(10, 64, seed=2))  # d0 to d9 once more
    await reached(app, docs, new)
    assert await found_in_every_tier(app, docs) == {*old.tolist()[10:], *new.tolist()}
    places = await deleted(store, docs, [f"d{number}" for number in range(5, 15)])
    await reached(app, docs, places)
    assert await found_in_every_tier(app, docs) == {*old.tolist()[15:], *new.tolist()[:5]}


async def test_a_backlog_of_many_batches_is_followed_to_its_end(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(partitions=3))
    await app.open(docs)
    live: dict[str, int] = {}
    for turn in range(20):
        names = [f"d{number}" for number in range(turn, turn + 10)]
        live |= zip(
            names, await written(store, docs, mrl_like(10, 64, seed=turn), names), strict=True
        )
        if turn % 3 == 0:
            await deleted(store, docs, [names[4]])
            del live[names[4]]
    await app.settle(docs)
    assert await found(app, a_query(docs)) == {*live.values()}
    assert (await app.progress(docs)).sequences == await store.positions(docs, range(3))


async def test_applying_the_same_part_of_the_log_again_changes_nothing(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32)))
    await app.open(docs)
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    await deleted(store, docs, ["d3"])
    await app.settle(docs)
    served = app._served["docs", 1]
    served.progress.positions = dict.fromkeys(served.mine, 0)
    await app.settle(docs)
    assert await found_in_every_tier(app, docs) == {*ids.tolist()} - {int(ids[3])}


async def test_a_vector_that_was_replaced_and_freed_before_it_was_read_is_passed_over(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(partitions=1))
    await app.open(docs)
    await written(store, docs, mrl_like(7, 64, seed=1))
    new = await written(store, docs, mrl_like(7, 64, seed=2))
    await store.tidy(docs, await store.positions(docs, range(1)), keep=100)
    await reached(app, docs, new)
    assert await found(app, a_query(docs)) == {*new.tolist()}


async def test_a_damaged_vector_is_left_out_and_named_in_a_line(
    app: CoarseApp, store: FaultyStore, log: SpyLog
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    ids = await written(store, docs, mrl_like(5, 64, seed=1))
    store.spoil(docs, int(ids[2]), b"short")
    await reached(app, docs, ids)
    assert await found(app, a_query(docs)) == {*ids.tolist()} - {int(ids[2])}
    (line,) = log.named("coarse.vectors_left_out")
    assert line["vectors"] == 1


async def test_declared_fields_come_with_the_documents_however_they_came(
    store: FaultyStore,
) -> None:
    docs = await created(store, a_collection(fields=[FieldSchema("colour", FieldType.KEYWORD)]))
    colours = [{"colour": "red" if row % 2 else "blue", "size": row} for row in range(20)]
    first = await written(store, docs, mrl_like(20, 64, seed=1), fields=colours)
    app = CoarseApp(store, NumpyFactory(), poll_s=NEVER_S)
    await app.open(docs)
    names = [f"e{row}" for row in range(20)]
    second = await written(store, docs, mrl_like(20, 64, seed=2), names, fields=colours)
    await reached(app, docs, second)
    answer = await app.search(a_query(docs, filter=AnyOf("colour", ("red",))), PATIENT_S)
    assert {*answer.hits[0].ids.tolist()} == {*first.tolist()[1::2], *second.tolist()[1::2]}
    assert (answer.documents, answer.matching) == (40, 20)
    plain = await app.search(a_query(docs, bound_z=None), PATIENT_S)
    assert plain.matching == plain.documents == 40
    await app.close()


async def test_two_shards_follow_their_own_partitions_and_together_all(
    store: FaultyStore,
) -> None:
    docs = await created(store, a_collection(partitions=5))
    apps = [CoarseApp(store, NumpyFactory(), n, 2, poll_s=NEVER_S) for n in range(2)]
    for app in apps:
        await app.open(docs)
    names = [f"n{number}" for number in range(40)]
    ids = await written(store, docs, mrl_like(40, 64, seed=1), names)
    for number, app in enumerate(apps):
        await reached(app, docs, ids)
        mine = {
            int(one)
            for one, name in zip(ids, names, strict=True)
            if shard_of(partition_of(name, 5), 5, 2) == number
        }
        assert await found(app, a_query(docs)) == mine
        told = (await app.progress(docs)).sequences
        assert {*told} == {p for p in range(5) if shard_of(p, 5, 2) == number}
        await app.close()


# --- waiting --------------------------------------------------------------------------------------


async def test_a_search_with_a_watermark_sees_what_it_stands_for(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    for turn in range(5):
        (one,) = await written(store, docs, mrl_like(1, 64, seed=turn), [f"d{turn}"])
        query = a_query(docs, watermark=mark_of(docs, [one]))
        assert int(one) in await found(app, query)


async def test_what_is_waited_for_does_not_come_in_time_and_later_it_does(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    go = asyncio.Event()
    store.faults.before["read_log"] = [waiting_for(go)]
    ids = await written(store, docs, mrl_like(3, 64, seed=1))
    mark = mark_of(docs, ids)
    with pytest.raises(BudgetSpent, match="watermark"):
        await app.reach(docs, mark, 0.01)
    with pytest.raises(BudgetSpent):
        await app.search(a_query(docs, watermark=mark), 0.01)
    go.set()
    await app.reach(docs, mark, PATIENT_S)
    assert await found(app, a_query(docs, watermark=mark)) == {*ids.tolist()}
    assert not app._served["docs", 1].progress.wanted(), "nobody is left on the list"


async def test_a_watermark_that_nobody_can_reach_holds_up_nobody_else(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(partitions=2))
    await app.open(docs)
    forged = Watermark(docs.generation, {0: sequence_of(9, 10_000), 1: sequence_of(9, 10_000)})
    waiting = [asyncio.create_task(app.reach(docs, forged, PATIENT_S)) for _ in range(20)]
    for turn in range(5):
        await reached(app, docs, await written(store, docs, mrl_like(5, 64, seed=turn)))
    assert not any(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_nobody_waits_for_is_read_beside_what_somebody_does(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(partitions=2))
    await app.open(docs)
    (name,) = [n for n in map(str, range(20)) if partition_of(n, 2) == 0][:1]
    others = [n for n in map(str, range(20)) if partition_of(n, 2) == 1]
    ids = await written(store, docs, mrl_like(len(others), 64, seed=1), others)
    for turn in range(4):
        await reached(app, docs, await written(store, docs, mrl_like(1, 64, seed=turn), [name]))
    assert {*ids.tolist()} <= await found(app, a_query(docs))


async def test_of_other_shards_and_older_generations_nothing_is_waited_for(
    store: FaultyStore,
) -> None:
    old = await created(store, a_collection(partitions=4))
    await store.drop_collection(old)
    docs = await created(store, a_collection(partitions=4))
    app = CoarseApp(store, NumpyFactory(), 0, 2, poll_s=NEVER_S)
    await app.open(docs)
    far = sequence_of(1, 1000)
    await app.reach(docs, Watermark(docs.generation, {2: far, 3: far, 400: far}), PATIENT_S)
    await app.reach(docs, Watermark(old.generation, {0: far}), PATIENT_S)
    with pytest.raises(NotFound, match="the watermark is of 3"):
        await app.reach(docs, Watermark(3, {0: 1}), PATIENT_S)
    with pytest.raises(NotFound):
        await app.search(a_query(docs, watermark=Watermark(3)), PATIENT_S)
    await app.close()


async def test_whoever_waits_for_what_is_dropped_or_closed_is_told(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs, other = [await created(store, a_collection(name)) for name in ("docs", "other")]
    await app.open(docs)
    await app.open(other)
    far = Watermark(1, {0: sequence_of(1, 1000)})
    dropped = asyncio.create_task(app.reach(docs, far, PATIENT_S))
    closed = asyncio.create_task(app.search(a_query(other, watermark=far), PATIENT_S))
    await asyncio.sleep(0)
    await app.drop("docs", docs.generation)
    with pytest.raises(NotFound):
        await dropped
    await app.close()
    with pytest.raises(WorkerUnavailable, match="closed"):
        await closed


# --- a store that fails ---------------------------------------------------------------------------


async def test_while_the_store_is_down_searches_go_on_and_one_line_is_logged(
    app: CoarseApp, store: FaultyStore, log: SpyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(follower_module, "_LAST_RETRY_S", 0.002)
    docs = await created(store, a_collection())
    ids = await written(store, docs, mrl_like(5, 64, seed=1))
    await app.open(docs)
    for name in ("positions", "read_log", "vectors"):
        store.faults.always(name, raising(StoreUnavailable("down")))
    more = await written(store, docs, mrl_like(5, 64, seed=2), [f"e{row}" for row in range(5)])
    waiting = asyncio.create_task(reached(app, docs, more))

    async def tried_often() -> bool:
        return store.faults.calls.count("read_log") > 5

    await eventually(tried_often)
    assert await found(app, a_query(docs)) == {*ids.tolist()}
    assert len(log.named("coarse.follow_failed")) == 1
    store.faults.heal()
    await waiting
    assert await found(app, a_query(docs)) == {*ids.tolist(), *more.tolist()}
    assert len(log.named("coarse.follow_resumed")) == 1


async def test_a_change_whose_vectors_cannot_be_read_is_not_passed(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    before = await app.progress(docs)
    ids = await written(store, docs, mrl_like(5, 64, seed=1))
    store.faults.before["vectors"] = [raising(StoreUnavailable("down"))]
    waiting = asyncio.create_task(reached(app, docs, ids))

    async def failed() -> bool:
        return not store.faults.before["vectors"]

    await eventually(failed)
    assert await app.progress(docs) == before
    await waiting
    assert await found(app, a_query(docs)) == {*ids.tolist()}


async def test_dropping_does_not_wait_for_a_store_that_hangs(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection())
    await app.open(docs)
    store.faults.always("positions", hanging)
    store.faults.always("read_log", hanging)
    with pytest.raises(BudgetSpent):
        await app.reach(docs, Watermark(1, {0: sequence_of(1, 1)}), 0.01)
    await asyncio.wait_for(app.drop("docs", docs.generation), PATIENT_S)


# --- gaps -----------------------------------------------------------------------------------------


async def test_a_log_that_was_trimmed_too_far_leads_to_a_comparison(
    app: CoarseApp, store: FaultyStore, log: SpyLog
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32), partitions=2))
    await app.open(docs)
    old = await written(store, docs, mrl_like(30, 64, seed=1))
    await reached(app, docs, old)
    counted = gaps("log_trimmed")
    # Many small entries, so that some of those that were not read are trimmed.
    new = [
        int((await written(store, docs, mrl_like(1, 64, seed=row), [f"d{row}"]))[0])
        for row in range(10)
    ]
    await deleted(store, docs, [f"d{row}" for row in range(20, 25)])
    await store.tidy(docs, await store.positions(docs, range(2)), keep=1)
    await app.settle(docs)
    live = {*old.tolist()[10:20], *old.tolist()[25:], *new}
    assert await found_in_every_tier(app, docs) == live
    lines = log.named("coarse.log_gap")
    assert {line["partition"] for line in lines} == {0, 1}
    assert {line["reason"] for line in lines} == {"log_trimmed"}
    assert gaps("log_trimmed") == counted + 2
    assert sum(int(str(line["indexed"])) for line in lines) == 10
    assert sum(int(str(line["unindexed"])) for line in lines) == 15
    again = await written(store, docs, mrl_like(1, 64, seed=99), ["later"])
    await reached(app, docs, again)
    assert len(log.named("coarse.log_gap")) == 2, "the log continues from there"


async def test_a_log_that_is_gone_altogether_leads_to_a_comparison(
    app: CoarseApp, store: FaultyStore, log: SpyLog
) -> None:
    docs = await created(store, a_collection(partitions=2))
    await app.open(docs)
    old = await written(store, docs, mrl_like(20, 64, seed=1))
    await reached(app, docs, old)
    new = await written(store, docs, mrl_like(20, 64, seed=2))
    for partition in store._of(docs).partitions.values():
        partition.log.clear()
    await reached(app, docs, new)
    assert await found(app, a_query(docs)) == {*new.tolist()}
    assert {line["reason"] for line in log.named("coarse.log_gap")} == {"log_trimmed"}


async def test_a_log_that_is_gone_is_noticed_beside_others_that_go_on(
    app: CoarseApp, store: FaultyStore, log: SpyLog
) -> None:
    docs = await created(store, a_collection(partitions=2))
    await app.open(docs)
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    store._of(docs).partitions[0].log.clear()
    other_read = store.read_log

    async def busy(collection: Collection, after: Mapping[int, int], limit: int) -> list[LogBatch]:
        # Whenever the shard looks, there is something new in the other partition.
        name = next(n for n in map(str, itertools.count()) if partition_of(n, 2) == 1)
        batches = await other_read(collection, after, limit)
        await written(store, docs, mrl_like(1, 64, seed=3), [name])
        return batches

    store.read_log = busy  # type: ignore[method-assign]
    mine = [one for one in ids.tolist() if one >> 48 == 0]
    await reached(app, docs, mine)
    assert {*mine} <= await found(app, a_query(docs))
    assert {line["partition"] for line in log.named("coarse.log_gap")} == {0}


async def test_what_the_store_lost_is_no_longer_found(
    app: CoarseApp, store: FaultyStore, log: SpyLog
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32), partitions=2))
    await app.open(docs)
    kept = await written(store, docs, mrl_like(20, 64, seed=1))
    lost = await written(store, docs, mrl_like(9, 64, seed=2), [f"l{row}" for row in range(9)])
    await reached(app, docs, lost)
    store.lose_last(docs, 1)
    await app.settle(docs)
    assert await found_in_every_tier(app, docs) == {*kept.tolist()}
    assert {line["reason"] for line in log.named("coarse.log_gap")} == {"store_lost_writes"}
    assert (await app.progress(docs)).sequences == await store.positions(docs, range(2))


@pytest.mark.parametrize("more", [1, 9, 30])
async def test_what_the_store_lost_is_noticed_however_far_it_went_on_since(
    app: CoarseApp, store: FaultyStore, log: SpyLog, more: int
) -> None:
    """Written again under the same counts, of the next epoch: fewer, as many, or more than lost."""
    docs = await created(store, a_collection(partitions=1))
    await app.open(docs)
    kept = await written(store, docs, mrl_like(20, 64, seed=1))
    lost = await written(store, docs, mrl_like(9, 64, seed=2), [f"l{row}" for row in range(9)])
    await reached(app, docs, lost)
    store.lose_last(docs, 1)
    names = [f"m{row}" for row in range(more)]
    new = await written(store, docs, mrl_like(more, 64, seed=3), names)
    await reached(app, docs, new)
    assert await found(app, a_query(docs)) == {*kept.tolist(), *new.tolist()}
    (line,) = log.named("coarse.log_gap")
    assert line["reason"] == "store_lost_writes"


async def test_an_acknowledgement_of_what_the_store_lost_is_never_given(
    app: CoarseApp, store: FaultyStore
) -> None:
    docs = await created(store, a_collection(partitions=1))
    await app.open(docs)
    await written(store, docs, mrl_like(3, 64, seed=1))
    lost = await written(store, docs, mrl_like(1, 64, seed=2), ["lost"])
    store.lose_last(docs, 1)
    with pytest.raises(BudgetSpent):
        await app.reach(docs, mark_of(docs, lost), 0.05)
    await asyncio.wait_for(app.settle(docs), PATIENT_S)


async def test_a_comparison_that_fails_half_way_is_made_again(
    app: CoarseApp, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_FIRST_RETRY_S", 0.001)
    docs = await created(store, a_collection(partitions=1))
    await app.open(docs)
    ids = [
        int((await written(store, docs, mrl_like(1, 64, seed=row), [f"d{row}"]))[0])
        for row in range(30)
    ]
    await store.tidy(docs, await store.positions(docs, range(1)), keep=1)
    well = asyncio.Event()
    well.set()
    store.faults.before["vectors"] = [waiting_for(well), raising(StoreUnavailable("down"))]
    await app.settle(docs)
    assert await found(app, a_query(docs)) == set(ids)
    assert not store.faults.before["vectors"]


async def test_opening_replays_what_changed_while_it_read(store: FaultyStore) -> None:
    docs = await created(store, a_collection(tiers=(8, 32)))
    old = await written(store, docs, mrl_like(20, 64, seed=1))
    go, begun = asyncio.Event(), asyncio.Event()

    async def held() -> None:
        begun.set()
        await go.wait()

    store.faults.before["vectors"] = [held]
    app = CoarseApp(store, NumpyFactory(), load_batch=50, poll_s=NEVER_S)
    opening = asyncio.create_task(app.open(docs))
    await begun.wait()
    new = await written(store, docs, mrl_like(5, 64, seed=2))
    await deleted(store, docs, ["d7"])
    go.set()
    assert await opening == 19
    live = {*old.tolist()[5:7], *old.tolist()[8:], *new.tolist()}
    assert await found_in_every_tier(app, docs) == live
    await app.close()


async def test_a_replica_of_a_shard_catches_up_with_the_other(store: FaultyStore) -> None:
    docs = await created(store, a_collection())
    apps = [CoarseApp(store, NumpyFactory(), poll_s=NEVER_S) for _ in range(2)]
    for app in apps:
        await app.open(docs)
    ids = await written(store, docs, mrl_like(25, 64, seed=1))
    for app in apps:
        await reached(app, docs, ids)
        assert await found(app, a_query(docs)) == {*ids.tolist()}
        await app.close()
