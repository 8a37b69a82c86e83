"""A plan is what was asked, filled up from the class, and never beyond the server's bounds."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.config import load_settings
from nestvec.core.errors import InvalidRequest, TierNotTrained
from nestvec.core.space import Space
from nestvec.query.main import search_classes
from nestvec.query.plan import (
    DEFAULT_CLASS,
    Limits,
    Plan,
    Planner,
    SearchClass,
    SearchOptions,
    make_plan,
)
from tests.support.rooms import SPACE, a_collection

CLASSES = {
    one.name: one
    for one in (
        SearchClass("fast", coarse_dim=8, k=5, candidates=5, rerank=False, min_coverage=0.0),
        SearchClass("search", coarse_dim=16, k=10, candidates=50, rerank=True, min_coverage=0.5),
        SearchClass("wide", coarse_dim=20, k=20, candidates=90, rerank=True),
    )
}
LIMITS = Limits(max_k=30, max_candidates=100)
DOCS = a_collection(tiers=(8, 16, 32))


def plan(options: SearchOptions | None = None, **wishes: Any) -> Plan:
    return make_plan(replace(options or SearchOptions(), **wishes), CLASSES, LIMITS, DOCS)


# --- what a class gives ---------------------------------------------------------------------------


def test_without_wishes_the_default_class_answers_with_its_own_settings() -> None:
    assert plan() == Plan(CLASSES["search"], 16, 10, 50, True, 0.5)
    assert plan(search_class="") == plan()


def test_every_wish_outranks_the_class() -> None:
    wished = plan(
        search_class="wide", k=7, coarse_dim=32, candidates=70, rerank=False, min_coverage=0.25
    )
    assert wished == Plan(CLASSES["wide"], 32, 7, 70, False, 0.25)


def test_a_class_takes_the_nearest_tier_that_is_not_shorter() -> None:
    assert plan(search_class="wide").coarse_dim == 32
    assert make_plan(SearchOptions(), CLASSES, LIMITS, a_collection(tiers=(8,))).coarse_dim == 8


def test_a_rerank_considers_at_least_as_many_as_it_returns() -> None:
    assert plan(k=30, search_class="fast", rerank=True).candidates == 30


def test_a_class_beyond_the_servers_bounds_is_held_to_them() -> None:
    small = Limits(max_k=3, max_candidates=4)
    held = make_plan(SearchOptions(search_class="wide"), CLASSES, small, DOCS)
    assert (held.k, held.candidates) == (3, 4)


def test_the_default_class_is_among_the_default_classes() -> None:
    full = {one.name: one for one in search_classes(load_settings(None))}
    assert DEFAULT_CLASS in full
    space = Space("m", 768, trained_dims=(128, 256, 768))
    docs = a_collection(tiers=(128, 256), store_dim=768, space=space)
    for name in full:
        made = make_plan(SearchOptions(search_class=name), full, Limits(), docs)
        assert made.candidates >= made.k


@given(
    st.builds(
        SearchOptions,
        search_class=st.sampled_from(["", *CLASSES]),
        k=st.none() | st.integers(-2, 40),
        coarse_dim=st.none() | st.sampled_from([8, 16, 32, 64, 20]),
        candidates=st.none() | st.integers(-2, 120),
        rerank=st.none() | st.booleans(),
        min_coverage=st.none() | st.floats(allow_nan=True),
    )
)
def test_whatever_is_asked_a_plan_is_within_bounds_or_names_the_field(
    options: SearchOptions,
) -> None:
    made, refused = None, None
    try:
        made = plan(options)
    except InvalidRequest as error:
        refused = error
    if refused is not None:
        assert refused.field.removeprefix("options.") in {one.name for one in fields(SearchOptions)}
        assert refused.message
        return
    assert made is not None
    assert 1 <= made.k <= LIMITS.max_k
    assert 1 <= made.candidates <= LIMITS.max_candidates
    assert not made.rerank or made.candidates >= made.k
    assert made.coarse_dim in DOCS.tiers
    assert 0.0 <= made.min_coverage <= 1.0


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "field", "message"),
    [
        (
            {"search_class": "serach"},
            "options.search_class",
            "no class 'serach'; this server has fast, search, wide",
        ),
        ({"k": 0}, "options.k", "0, expected 1 to 30"),
        ({"k": -1}, "options.k", "-1, expected 1 to 30"),
        ({"k": 31}, "options.k", "31, expected 1 to 30"),
        ({"k": 2**31 - 1}, "options.k", "2147483647, expected 1 to 30"),
        ({"candidates": 101}, "options.candidates", "101, expected 10 to 100"),
        ({"candidates": 9}, "options.candidates", "9, expected 10 to 100"),
        ({"candidates": 0, "rerank": False}, "options.candidates", "0, expected 1 to 100"),
        ({"min_coverage": -0.1}, "options.min_coverage", "-0.1, expected 0 to 1"),
        ({"min_coverage": 1.5}, "options.min_coverage", "1.5, expected 0 to 1"),
        ({"min_coverage": float("nan")}, "options.min_coverage", "nan, expected 0 to 1"),
        (
            {"coarse_dim": 64},
            "options.coarse_dim",
            "collection 'docs' does not serve tier 64; it serves 8, 16, 32",
        ),
    ],
)
def test_a_wish_out_of_bounds_names_the_field_and_what_was_expected(
    wish: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(**wish)
    assert caught.value.field == field
    assert caught.value.message == message
    assert str(caught.value) == f"{field}: {message}"


def test_an_untrained_tier_is_refused_naming_the_trained_ones() -> None:
    with pytest.raises(TierNotTrained) as caught:
        plan(coarse_dim=20)
    assert caught.value.field == "options.coarse_dim"
    assert caught.value.message == (
        f"tier 20 was not trained for {SPACE.model}; trained: 8, 16, 32, 64; "
        f"ask for one of 8, 16, 32, 64"
    )


def test_a_tier_longer_than_what_is_stored_is_refused_naming_re_encoding() -> None:
    edge = a_collection(tiers=(8, 16), store_dim=16)
    with pytest.raises(InvalidRequest) as caught:
        make_plan(SearchOptions(coarse_dim=32), CLASSES, LIMITS, edge)
    assert caught.value.field == "options.coarse_dim"
    assert "longer than the 16 dimensions that collection 'docs' stores" in caught.value.message
    assert "encode the texts again" in caught.value.message


def test_a_planner_plans_as_without_it_and_keeps_what_comes_again() -> None:
    planner = Planner(CLASSES, LIMITS)
    for options in (SearchOptions(), SearchOptions(k=3), SearchOptions(coarse_dim=32)):
        first = planner.plan(options, DOCS)
        assert first == make_plan(options, CLASSES, LIMITS, DOCS)
        assert planner.plan(options, DOCS) is first
    # Tiers come and go, and a plan is of those that are there.
    fewer = replace(DOCS, tiers=DOCS.tiers[-1:])
    assert planner.plan(SearchOptions(), fewer).coarse_dim == DOCS.tiers[-1]
    with pytest.raises(InvalidRequest):
        planner.plan(SearchOptions(k=0), DOCS)
