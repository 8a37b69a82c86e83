"""A recall is asked for in place of knobs: by which plan it is kept, and what is said otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from nestvec.core.calibration import CalibratedPoint, ClassCalibration
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import (
    InvalidRequest,
    NotCalibrated,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.ports import CoarseSearcher
from nestvec.core.scoring import exact_top
from nestvec.query import standing as standing_module
from nestvec.query.answer import Answer
from nestvec.query.plan import BOUND_Z, Limits, Plan, SearchClass, SearchOptions, make_plan
from tests.nestvec.core.synthetic import mrl_like
from tests.support.calibrations import a_calibration, a_point
from tests.support.rooms import (
    CLASSES,
    FaultyShard,
    FaultyStore,
    Rooms,
    a_collection,
    eventually,
    open_rooms,
    written,
)

COUNT = 300
CHEAP = a_point(coarse_dim=16, candidates=20, bound_z=2.0, window_low=0.9, cost_ms=1.0, p95_ms=2.0)
GOOD = a_point(coarse_dim=32, candidates=80, bound_z=4.0, window_low=0.98, cost_ms=3.0, p95_ms=5.0)
PLAIN = a_point(
    coarse_dim=16, candidates=10, rerank=False, bound_z=0.0, window_low=0.5, cost_ms=0.5, p95_ms=1.0
)
PROMISED = SearchClass("promised", coarse_dim=16, k=10, candidates=30, rerank=True)


@pytest.fixture
async def rooms() -> AsyncIterator[Rooms]:
    """300 vectors, one shard that can be seen, and two classes that are promised something."""
    classes = (
        *CLASSES,
        replace(PROMISED, target_recall=0.95),
        replace(PROMISED, name="beyond", target_recall=0.999),
    )
    store = FaultyStore()
    async with open_rooms(store, wrap_shard=FaultyShard, classes=classes) as opened:
        docs = await opened.create()
        await written(store, docs, mrl_like(COUNT, 64, seed=1))
        for shard in opened.shards:
            await shard.settle(docs)
        yield opened


async def calibrate(rooms: Rooms, *points: CalibratedPoint, **changed: Any) -> None:
    docs = await rooms.catalogue.get("docs")
    points = points or (PLAIN, CHEAP, GOOD)
    classes = tuple(ClassCalibration(name, 10, points) for name in ("search", "promised", "beyond"))
    figures: dict[str, Any] = {
        "documents": COUNT,
        "kinds": ((16, "numpy"), (32, "numpy")),
        "classes": classes,
    }
    await rooms.admin.set_calibration("docs", a_calibration(docs, **figures | changed))


async def ask(rooms: Rooms, **options: Any) -> Answer:
    return await rooms.ask(mrl_like(1, 64, seed=9)[0], **options)


def missed(answer: Answer) -> list[str]:
    return [d.detail for d in answer.degradations if d.kind is DegradationKind.TARGET_MISSED]


def last_asked(shard: CoarseSearcher) -> tuple[int, int, float | None]:
    assert isinstance(shard, FaultyShard)
    query = shard.asked[-1]
    return query.coarse_dim, query.count, query.bound_z


# --- the plan -------------------------------------------------------------------------------------


async def test_the_cheapest_plan_that_was_measured_to_reach_it_runs_and_is_told(
    rooms: Rooms,
) -> None:
    await calibrate(rooms)
    for target, point in ((0.4, PLAIN), (0.9, CHEAP), (0.91, GOOD), (0.98, GOOD)):
        answer = await ask(rooms, target_recall=target)
        assert answer.plan.promise is not None
        assert answer.plan.promise.point == point
        assert (answer.plan.promise.target, answer.plan.promise.confidence) == (target, 0.95)
        assert not missed(answer)
        assert len(answer.hits) == 10
        bound_z = point.bound_z or None
        assert last_asked(rooms.shards[0]) == (point.coarse_dim, point.candidates, bound_z)
        assert answer.reranked == point.rerank


async def test_the_certificate_is_of_the_bounds_that_were_used(rooms: Rooms) -> None:
    narrow = await ask(rooms, bound_z=2.0)
    wide = await ask(rooms)
    assert wide.plan.bound_z == BOUND_Z
    assert narrow.certificate in (Certificate.WITHIN_CANDIDATES, Certificate.COLLECTION)
    assert narrow.fetched <= wide.fetched
    assert narrow.failure_probability > 1e3 * wide.failure_probability


async def test_what_is_found_by_a_plan_is_what_its_knobs_find(rooms: Rooms) -> None:
    await calibrate(rooms)
    by_target = await ask(rooms, target_recall=0.98)
    by_knobs = await ask(rooms, coarse_dim=32, candidates=80, bound_z=4.0)
    assert [hit.document.id for hit in by_target.hits] == [hit.document.id for hit in by_knobs.hits]
    rows, _ = exact_top(mrl_like(1, 64, seed=9)[0], mrl_like(COUNT, 64, seed=1), 10)
    assert len({f"d{row}" for row in rows} & {hit.document.id for hit in by_target.hits}) >= 9


async def test_fewer_hits_are_the_first_of_as_many_as_were_measured(rooms: Rooms) -> None:
    """A rerank that stopped for one hit would be a plan that nobody measured."""
    await calibrate(rooms)
    whole, one = await ask(rooms, target_recall=0.98), await ask(rooms, target_recall=0.98, k=1)
    assert one.plan.reads == 10
    assert (len(one.hits), one.fetched) == (1, whole.fetched)
    assert one.hits[0].document.id == whole.hits[0].document.id


async def test_fewer_hits_may_be_asked_for_and_more_may_not(rooms: Rooms) -> None:
    await calibrate(rooms)
    few = await ask(rooms, target_recall=0.4, k=3)
    assert few.plan.promise is not None
    assert few.plan.promise.point == CHEAP, "an order of the coarse tier's own says nothing of it"
    with pytest.raises(NotCalibrated, match=r"calibrated for 10 hits, asked for 11"):
        await ask(rooms, target_recall=0.9, k=11)


# --- what is refused ------------------------------------------------------------------------------


def planned(**options: Any) -> Plan:
    classes = {one.name: one for one in CLASSES}
    return make_plan(SearchOptions(**options), classes, Limits(), a_collection())


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"coarse_dim": 16}, "options.coarse_dim"),
        ({"candidates": 20}, "options.candidates"),
        ({"rerank": False}, "options.rerank"),
        ({"bound_z": 3.0}, "options.bound_z"),
        ({"exhaustive": True}, "options.exhaustive_rerank"),
    ],
)
def test_a_recall_is_not_asked_for_together_with_knobs(knobs: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned(target_recall=0.9, **knobs)
    assert caught.value.field == "options.target_recall"
    assert named in caught.value.message


@pytest.mark.parametrize("target", [0.0, -0.1, 1.01, float("nan")])
def test_a_target_is_a_share(target: float) -> None:
    with pytest.raises(InvalidRequest, match=r"options\.target_recall: .* above 0 and at most 1"):
        planned(target_recall=target)


@pytest.mark.parametrize("bound_z", [0.0, 0.4, 10.1, float("nan")])
def test_bounds_span_some_standard_deviations(bound_z: float) -> None:
    with pytest.raises(InvalidRequest, match=r"options\.bound_z: .* expected 0\.5 to 10"):
        planned(bound_z=bound_z)


async def test_a_target_that_nothing_reaches_names_the_best_available(rooms: Rooms) -> None:
    await calibrate(rooms)
    with pytest.raises(NotCalibrated, match=r"recall of 0\.99; the best reaches 0\.98 \(tier 32"):
        await ask(rooms, target_recall=0.99)


async def test_without_a_calibration_of_the_class_a_recall_is_refused(rooms: Rooms) -> None:
    with pytest.raises(NotCalibrated, match=r"it has no calibration; make one with"):
        await ask(rooms, target_recall=0.9)
    await calibrate(rooms)
    with pytest.raises(NotCalibrated, match=r"not calibrated for class 'analyst'; it was for"):
        await ask(rooms, target_recall=0.9, search_class="analyst")


async def test_a_dropped_tier_takes_its_plans_with_it(rooms: Rooms) -> None:
    await calibrate(rooms)
    await rooms.admin.drop_tier("docs", 32)
    assert (await ask(rooms, target_recall=0.9)).plan.coarse_dim == 16
    with pytest.raises(NotCalibrated, match=r"the best reaches 0\.9 "):
        await ask(rooms, target_recall=0.95)
    await calibrate(rooms, CHEAP)
    await rooms.admin.add_tier("docs", 32)
    await rooms.admin.drop_tier("docs", 16)
    with pytest.raises(NotCalibrated, match="tiers are not served any more"):
        await ask(rooms, target_recall=0.9)


async def test_a_calibration_of_another_generation_is_not_used(rooms: Rooms) -> None:
    await calibrate(rooms)
    docs = await rooms.catalogue.get("docs")
    copied = replace(docs, identity="another")
    await rooms.store.update_collection(copied, {})
    rooms.catalogue.forget("docs")
    with pytest.raises(NotCalibrated, match="its calibration is of what it was before"):
        await ask(rooms, target_recall=0.9)


# --- what runs all the same -----------------------------------------------------------------------


async def test_a_deadline_too_short_for_the_target_takes_the_best_plan_that_fits(
    rooms: Rooms,
) -> None:
    slow = replace(GOOD, p95_ms=60_000.0)
    await calibrate(rooms, CHEAP, slow)
    answer = await ask(rooms, target_recall=0.95, timeout_s=30.0)
    assert answer.plan.promise is not None
    assert answer.plan.promise.point == CHEAP
    (said,) = missed(answer)
    assert "too few for a plan that reaches a recall of 0.95" in said
    assert "measured to reach 0.9 (tier 16, 20 candidates reranked)" in said
    # With time enough it is not missed.
    await calibrate(rooms, CHEAP, replace(GOOD, p95_ms=10.0))
    assert not missed(await ask(rooms, target_recall=0.95))


async def test_a_batch_has_a_share_of_the_time_for_each_query(rooms: Rooms) -> None:
    slow = replace(GOOD, p95_ms=10_000.0)
    await calibrate(rooms, CHEAP, slow)
    for count, point in ((1, slow), (8, CHEAP)):
        options = SearchOptions(target_recall=0.95)
        answers = await rooms.query.search("docs", ["some words"] * count, options, 60.0)
        assert {one.plan.promise.point for one in answers if one.plan.promise} == {point}


async def test_growth_fails_nobody_and_is_admitted(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_module, "_EVERY_S", 0.0)
    await calibrate(rooms, documents=199)
    answer = await ask(rooms, target_recall=0.9)
    assert answer.plan.promise is not None
    assert answer.plan.promise.point == GOOD, "as thoroughly as was ever measured"
    (said,) = missed(answer)
    assert "calibrated with 199 documents and holds 300 now; calibrate it again" in said
    await calibrate(rooms, kinds=((32, "pq8x4fs"),))
    (said,) = missed(await ask(rooms, target_recall=0.9))
    assert "tier 32 was calibrated as pq8x4fs and is numpy now" in said
    await calibrate(rooms)
    assert not missed(await ask(rooms, target_recall=0.9))


async def test_where_shards_cannot_tell_what_they_hold_the_plan_runs(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_module, "_EVERY_S", 0.0)
    await calibrate(rooms, documents=10)
    monkeypatch.setattr(FaultyShard, "status", unreachable)
    answer = await ask(rooms, target_recall=0.9)
    assert answer.plan.promise is not None
    assert answer.plan.promise.point == CHEAP
    assert "not every shard says what it holds" in missed(answer)[0]


async def unreachable(_self: object, _collection: object) -> Any:
    raise WorkerUnavailable("gone")


async def test_a_lost_store_costs_a_promise_no_answer(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_module, "_EVERY_S", 0.0)
    await calibrate(rooms)
    assert isinstance(rooms.store, FaultyStore)
    await ask(rooms, target_recall=0.9)

    async def gone() -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(rooms.store, "collections", gone)
    for _ in range(3):
        assert len((await ask(rooms, target_recall=0.9)).hits) == 10


# --- a class that is promised a recall ------------------------------------------------------------


async def test_a_class_keeps_its_promise_by_its_calibration(rooms: Rooms) -> None:
    await calibrate(rooms)
    answer = await ask(rooms, search_class="promised")
    assert answer.plan.promise is not None
    assert answer.plan.promise.point == GOOD
    assert not missed(answer)
    # A caller's own knobs, or target, outrank it.
    assert (await ask(rooms, search_class="promised", candidates=40)).plan.promise is None
    cheap = await ask(rooms, search_class="promised", target_recall=0.9)
    assert cheap.plan.promise is not None
    assert cheap.plan.promise.point == CHEAP


async def test_a_class_whose_promise_cannot_be_kept_answers_and_says_so(rooms: Rooms) -> None:
    answer = await ask(rooms, search_class="promised")
    assert (answer.plan.coarse_dim, answer.plan.candidates) == (16, 30), "its own settings"
    (said,) = missed(answer)
    assert "this class's own settings were used: collection 'docs': it has no calibration" in said
    await calibrate(rooms)
    beyond = await ask(rooms, search_class="beyond")
    assert beyond.plan.promise is not None
    assert beyond.plan.promise.point == GOOD
    (said,) = missed(beyond)
    assert "no plan was measured to reach a recall of 0.999" in said


# --- another process calibrates -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"target_recall": 0.9}, {"search_class": "promised"}])
async def test_a_calibration_that_another_process_made_is_found(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    # With the next look, some seconds later; here at once.
    monkeypatch.setattr(standing_module, "_EVERY_S", 0.0)
    docs = await rooms.catalogue.get("docs")
    assert missed(await ask(rooms, search_class="promised"))
    for point in (GOOD, replace(GOOD, candidates=90)):
        classes = tuple(ClassCalibration(name, 10, (point,)) for name in ("search", "promised"))
        own = a_calibration(docs, documents=COUNT, identity=docs.identity, classes=classes)
        await rooms.store.update_collection(replace(docs, calibration=own), {})

        async def found(expected: CalibratedPoint = point) -> bool:
            answer = await ask(rooms, **options)
            return answer.plan.promise is not None and answer.plan.promise.point == expected

        await eventually(found)
