"""Under overload the deep lane is refused first and the fast one last."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.config import load_settings
from nestvec.core.errors import InvalidRequest, Overloaded
from nestvec.query.admission import Admission
from nestvec.query.main import search_classes
from nestvec.query.plan import Limits, SearchClass
from nestvec.telemetry.metrics import UNKNOWN_CLASS
from tests.support.rooms import (
    CLASSES,
    FaultyStore,
    SpyEncoder,
    eventually,
    open_rooms,
    waiting_for,
)
from tests.support.scrape import value

NAMES = [one.name for one in search_classes(load_settings(None))]


def refused(admission: Admission, name: str) -> bool:
    try:
        admission.enter(name)
    except Overloaded:
        return True
    return False


def test_each_default_class_fills_its_share() -> None:
    admission = Admission(search_classes(load_settings(None)), 100)
    filled = {}
    for name in ("analyst", "search", "autocomplete"):
        while not refused(admission, name):
            pass
        filled[name] = admission.under_way
    assert filled == {"analyst": 50, "search": 80, "autocomplete": 100}
    assert refused(admission, "")


@given(st.lists(st.sampled_from([*NAMES, "", "leave"]), max_size=300), st.integers(1, 40))
def test_whoever_is_refused_is_so_after_every_deeper_class(happens: list[str], most: int) -> None:
    """Against a plain count."""
    admission = Admission(search_classes(load_settings(None)), most)
    share = {"autocomplete": 1.0, "search": 0.8, "": 0.8, "analyst": 0.5}
    entered: list[str] = []
    for name in happens:
        if name == "leave":
            if entered:
                admission.leave(entered.pop())
            continue
        under_way = len(entered)
        full = under_way >= max(1, int(share[name] * most))
        assert refused(admission, name) == full
        entered += [] if full else [name]
        assert admission.under_way == len(entered) <= most


def test_a_refusal_says_what_is_full_and_when_to_come_back() -> None:
    admission = Admission(CLASSES, 1)
    admission.enter("analyst")
    with pytest.raises(Overloaded, match=r"1 queries are under way.*'analyst'.*1 of 1") as caught:
        admission.enter("analyst")
    assert 0.0 < caught.value.retry_after_s <= 1.0


def test_a_refusal_is_counted_by_class() -> None:
    def counted(label: str) -> float:
        return value("nestvec_queries_refused_total", search_class=label) or 0.0

    admission = Admission(CLASSES, 1)
    labels = ("search", "analyst", UNKNOWN_CLASS)
    before = [counted(label) for label in labels]
    admission.enter("")
    for name in ("", "analyst", "made up"):
        assert refused(admission, name)
    assert [counted(label) for label in labels] == [one + 1 for one in before]


@pytest.mark.parametrize(
    ("rerank", "candidates", "share", "expected"),
    [
        (False, 5000, None, 1.0),
        (True, 1000, None, 0.8),
        (True, 4000, None, 0.5),
        (True, 1, 0.3, 0.3),
    ],
)
def test_a_class_without_a_share_has_one_by_its_work(
    rerank: bool, candidates: int, share: float | None, expected: float
) -> None:
    one = SearchClass("own", 16, 5, candidates, rerank, share=share)
    assert one.admitted_share == expected


def test_shares_and_the_bound_come_from_the_settings() -> None:
    settings = load_settings(
        None,
        {
            "limits.max_queries_under_way": 10,
            "classes.analyst": {"coarse_dim": 256, "k": 5, "candidates": 9, "share": 0.2},
        },
    )
    admission = Admission(search_classes(settings), settings.limits.max_queries_under_way)
    admission.enter("analyst")
    admission.enter("analyst")
    assert refused(admission, "analyst")


async def test_queries_leave_when_they_end_also_when_they_fail_or_are_cancelled() -> None:
    release = asyncio.Event()
    encoders: list[SpyEncoder] = []

    def spied(encoder: object) -> SpyEncoder:
        encoders.append(SpyEncoder(encoder))  # type: ignore[arg-type]
        return encoders[0]

    limits = Limits(max_queries_under_way=4)
    async with open_rooms(FaultyStore(), wrap_encoder=spied, limits=limits) as rooms:
        await rooms.create()
        encoders[0].faults.always("encode", waiting_for(release))
        deep = [
            asyncio.create_task(rooms.ask("text", search_class="analyst", rerank=False))
            for _ in range(2)
        ]

        async def both_are_under_way() -> bool:
            return len(encoders[0].asked) == 2

        await eventually(both_are_under_way)
        # CLASSES' analyst reranks 400 candidates: 0.8 of 4 is 3.
        third = asyncio.create_task(rooms.ask("text", search_class="search"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await rooms.ask("text", search_class="analyst")
        fast = asyncio.create_task(rooms.ask("text", search_class="autocomplete"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await rooms.ask("text", search_class="autocomplete")
        third.cancel()
        release.set()
        await asyncio.gather(*deep, fast, third, return_exceptions=True)
        for _ in range(5):
            with pytest.raises(InvalidRequest, match="no class"):
                await rooms.ask("text", search_class="unknown")
        for _ in range(5):
            await rooms.ask("text", search_class="analyst")
