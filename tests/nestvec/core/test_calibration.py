"""What was measured is chosen by, and says nothing of what it was not measured on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.calibration import (
    GROWTH,
    CalibratedPoint,
    Calibration,
    ClassCalibration,
    Held,
    choose,
    frontier,
)
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import InvalidRequest, NotCalibrated, SpaceMismatch
from nestvec.core.held import held_in
from nestvec.core.ports import TierStatus
from tests.support.calibrations import a_calibration, a_point
from tests.support.long_runs import examples
from tests.support.rooms import SPACE, a_collection

DOCS = replace(a_collection(tiers=(16, 32)), identity="one")


def points() -> st.SearchStrategy[list[CalibratedPoint]]:
    share = st.integers(0, 20).map(lambda n: n / 20)
    cost = st.integers(1, 30).map(float)
    one = st.builds(
        lambda low, cost_ms, more: a_point(window_low=low, cost_ms=cost_ms, p95_ms=cost_ms + more),
        share,
        cost,
        cost,
    )
    return st.lists(one, min_size=1, max_size=12)


# --- choosing -------------------------------------------------------------------------------------


@settings(max_examples=examples(60))
@given(points(), st.integers(1, 20).map(lambda n: n / 20), st.integers(0, 70).map(float))
def test_the_choice_is_that_of_looking_at_every_plan(
    known: list[CalibratedPoint], target: float, left_ms: float
) -> None:
    chosen = choose(known, target, left_ms)
    fit = [one for one in known if one.p95_ms <= left_ms]
    good = [one for one in fit if one.window_low >= target]
    if good:
        assert chosen in good
        assert chosen.cost_ms == min(one.cost_ms for one in good)
    elif fit:
        assert chosen in fit
        assert chosen.window_low == max(one.window_low for one in fit)
    else:
        assert chosen.p95_ms == min(one.p95_ms for one in known)


@settings(max_examples=examples(60))
@given(points(), st.integers(1, 20).map(lambda n: n / 20))
def test_a_frontier_keeps_the_cheapest_plan_of_every_target(
    known: list[CalibratedPoint], target: float
) -> None:
    kept = frontier(known)
    assert set(kept) <= set(known)
    assert [one.cost_ms for one in kept] == sorted(one.cost_ms for one in kept)
    for left_ms in (math.inf, 20.0):
        full, short = choose(known, target, left_ms), choose(kept, target, left_ms)
        reached = full.window_low >= target and full.p95_ms <= left_ms
        assert (short.window_low >= target and short.p95_ms <= left_ms) == reached
        if reached:
            assert short.cost_ms == full.cost_ms


def test_fewer_hits_are_promised_only_where_a_rerank_finds_them() -> None:
    plain = a_point(rerank=False, bound_z=0.0, candidates=10)
    reranked = a_point(candidates=50)
    known = ClassCalibration("search", 10, (plain, reranked))
    assert known.usable(10, (16,), 100) == [plain, reranked]
    assert known.usable(3, (16,), 100) == [reranked]
    assert known.usable(11, (16,), 100) == []
    assert known.usable(10, (32,), 100) == [], "its tier is not served"
    assert known.usable(10, (16,), 49) == [plain], "the server allows fewer candidates"


# --- what it holds for ----------------------------------------------------------------------------


def test_it_holds_for_what_it_was_made_of_and_nothing_else() -> None:
    own = a_calibration(DOCS)
    own.require_of(DOCS.coded, DOCS.generation)
    with pytest.raises(SpaceMismatch, match="the calibration is in space"):
        replace(own, fingerprint="0" * 16).require_of(DOCS.coded, DOCS.generation)
    for change in (
        {"store_dim": 32},
        {"store_dtype": VectorDtype.INT8},
        {"coarse_code": CoarseCode.FP32},
        {"generation": DOCS.generation + 1},
    ):
        with pytest.raises(NotCalibrated, match="calibrate it again"):
            replace(own, **change).require_of(DOCS.coded, DOCS.generation)


def test_a_collection_knows_a_calibration_that_is_not_its_own() -> None:
    own = replace(DOCS, calibration=a_calibration(DOCS))
    assert own.calibrated == own.calibration
    assert replace(own, identity="another").calibrated is None
    assert replace(own, generation=2).calibrated is None
    assert replace(own, store_dtype=VectorDtype.INT8).calibrated is None
    other = replace(SPACE, weights="2")
    assert replace(own, space=other).calibrated is None
    assert replace(own, tiers=(16,)).calibrated == own.calibration, "what is left still holds"


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (Held(1000, {16: "flat"}), ""),
        (Held(int(1000 * GROWTH), {16: "flat"}), ""),
        (Held(int(1000 / GROWTH) + 1, {16: "flat"}), ""),
        (Held(1000, {}), ""),
        (Held(int(1000 * GROWTH) + 1, {16: "flat"}), "with 1,000 documents and holds 1,501 now"),
        (Held(600, {16: "flat"}), "holds 600 now"),
        (Held(0, {16: "flat"}), "holds 0 now"),
        (Held(1000, {16: "pq8x4fs"}), "tier 16 was calibrated as flat and is pq8x4fs now"),
    ],
)
def test_growth_and_another_index_are_seen(held: Held, said: str) -> None:
    drift = a_calibration(DOCS, documents=1000, kinds=((16, "flat"),)).drift(held)
    assert said in drift
    assert bool(said) == bool(drift)


def test_what_is_held_is_summed_over_shards_and_fresh_rows_do_not_change_the_kind() -> None:
    held = held_in(
        [
            TierStatus(16, 900, 0, ("pq8x4fs:800", "flat:100"), 0),
            TierStatus(32, 900, 0, ("flat:900",), 0),
            TierStatus(16, 700, 0, ("flat:300", "pq8x4fs:400"), 0),
            TierStatus(32, 10, 0, (), 0),
        ]
    )
    assert held == Held(1600, {16: "pq8x4fs", 32: "flat"})
    assert held_in([]) == Held(0, {})


# --- the record -----------------------------------------------------------------------------------


def test_it_survives_json() -> None:
    own = a_calibration(DOCS, kinds=((16, "flat"), (32, "pq8x4fs")))
    assert Calibration.from_dict(json.loads(json.dumps(own.to_dict()))) == own


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"documents": 0}, "calibration.documents: 0, expected 1 or more"),
        ({"windows": 1.0}, "calibration.windows: 1.0"),
        ({"classes": []}, "calibration.classes: none"),
        ({"coarse_code": "nine"}, "is none"),
        ({"surprise": 1}, "is none"),
        ({"kinds": 3}, "is none"),
    ],
)
def test_what_is_no_calibration_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Calibration.from_dict(a_calibration(DOCS).to_dict() | change)


def test_a_part_that_is_missing_is_named() -> None:
    without = a_calibration(DOCS).to_dict()
    del without["classes"]
    with pytest.raises(InvalidRequest, match="it has no classes"):
        Calibration.from_dict(without)


@pytest.mark.parametrize(
    "change",
    [
        {"recall": math.nan},
        {"window_low": 1.1},
        {"cost_ms": math.inf},
        {"candidates": 0},
        {"bound_z": 0.0},
        {"bound_z": 11.0},
    ],
)
def test_a_point_that_cannot_have_been_measured_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"calibration.{next(iter(change))}"):
        a_point(**change)


def test_a_record_that_cannot_be_read_says_nothing_and_the_collection_is_served() -> None:
    data = replace(DOCS, calibration=a_calibration(DOCS)).to_dict()
    assert type(DOCS).from_dict(json.loads(json.dumps(data))).calibrated is not None
    data["calibration"]["of_a_newer_version"] = True
    assert type(DOCS).from_dict(data) == DOCS
