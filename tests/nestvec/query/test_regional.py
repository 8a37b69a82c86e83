"""A search that may leave its region: who is asked, who is missing, and what is admitted of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.core.calibration import CalibratedPoint, ClassCalibration
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import (
    BelowCoverage,
    BudgetSpent,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.hedging import HedgeBudget
from nestvec.core.ports import PrefixAnswer, RegionQuery
from nestvec.core.regions import RegionPolicy, RegionState, Sharing
from nestvec.core.watermark import Watermark
from nestvec.ingest.batch import Item
from nestvec.query.answer import Answer
from nestvec.query.other_regions import RegionRules
from nestvec.query.plan import SearchOptions
from tests.support.calibrations import a_calibration, a_point
from tests.support.cross_encoders import ScriptedScorer
from tests.support.region_rooms import NAMES, NearRegion, RegionRooms, open_regions
from tests.support.rooms import (
    FaultyShard,
    FaultyStore,
    SpyEncoder,
    eventually,
    hanging,
    ids_of,
    raising,
    waiting_for,
)

ANSWERED, NOT_ASKED = RegionState.ANSWERED, RegionState.NOT_ASKED
MISSING, EXCLUDED = RegionState.MISSING, RegionState.EXCLUDED
# What a search of a region that does not answer may wait, in tests that wait for that.
SHORT_S = 0.3


def documents(name: str, count: int = 12) -> list[Document]:
    return [
        Document(f"{name}-{number:02}", f"{name} text number {number}", {"home": name})
        for number in range(count)
    ]


@pytest.fixture
async def regions() -> AsyncIterator[dict[str, RegionRooms]]:
    """Three, with 12 documents each."""
    async with open_regions(wrap_shard=FaultyShard) as opened:
        await fill(opened)
        yield opened


async def fill(opened: dict[str, RegionRooms]) -> None:
    for name, one in opened.items():
        await one.add(*documents(name))
        for near in (other.near.get(name) for other in opened.values()):
            if near is not None:
                near.holds = 12


def states(answer: Answer) -> dict[str, RegionState]:
    return {one.name: one.state for one in answer.regions}


def kinds(answer: Answer) -> list[DegradationKind]:
    return [one.kind for one in answer.degradations]


def details(answer: Answer) -> str:
    return " | ".join(one.detail for one in answer.degradations)


def asked(one: RegionRooms) -> dict[str, int]:
    return {name: len(near.asked) for name, near in one.near.items()}


# --- policies -------------------------------------------------------------------------------------


async def test_all_regions_are_asked_with_one_vector_and_one_plan() -> None:
    async with open_regions(wrap_encoder=SpyEncoder) as regions:
        await fill(regions)
        eu = regions["eu"]
        spies = [one.rooms.encoder for one in regions.values()]
        for spy in spies:
            assert isinstance(spy, SpyEncoder)
            spy.asked.clear()
        answer = await eu.ask("text number 3", k=30, search_class="all")
        assert [len(spy.asked) for spy in spies if isinstance(spy, SpyEncoder)] == [1, 0, 0]
    assert len(answer.hits) == 30
    assert {hit.region for hit in answer.hits} == set(NAMES)
    assert all(hit.document.fields == {"home": hit.region} for hit in answer.hits)
    assert answer.coverage == Coverage(3, 3, 36, 36)
    assert answer.certificate is Certificate.COLLECTION
    assert answer.matching == 36
    assert states(answer) == dict.fromkeys(NAMES, ANSWERED)
    assert [one.documents for one in answer.regions] == [12, 12, 12]
    assert list(answer.timings.stages)[-1] == "regions"
    query, _ = eu.near["us"].asked[0]
    assert (query.k, query.coarse_dim, query.rerank, query.versions) == (30, 16, True, False)
    assert query.bound_z is None
    assert query.queries.shape == (1, 64)


async def test_local_first_asks_nobody_where_this_region_has_good_hits(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    answer = await eu.ask("eu text number 3", k=3)
    assert asked(eu) == {"us": 0, "ap": 0}
    assert states(answer) == {"eu": ANSWERED, "us": NOT_ASKED, "ap": NOT_ASKED}
    assert {hit.region for hit in answer.hits} == {"eu"}
    assert answer.coverage == Coverage(1, 1, 12, 12)
    assert answer.degradations == []
    assert answer.certificate is Certificate.WITHIN_CANDIDATES, "others may have better ones"
    assert "regions" not in answer.timings.stages


async def test_local_first_asks_others_where_there_are_too_few_hits(
    regions: dict[str, RegionRooms],
) -> None:
    answer = await regions["eu"].ask("eu text number 3", k=13)
    assert asked(regions["eu"]) == {"us": 1, "ap": 1}
    assert len(answer.hits) == 13
    assert answer.coverage.documents_total == 36


async def test_local_first_asks_others_where_the_last_hit_is_a_poor_one(
    regions: dict[str, RegionRooms],
) -> None:
    answer = await regions["eu"].ask("ap zebra", k=3)
    assert asked(regions["eu"]) == {"us": 1, "ap": 1}
    assert {hit.region for hit in answer.hits} == {"ap"}


async def test_local_first_asks_others_where_a_shard_is_missing() -> None:
    async with open_regions(wrap_shard=FaultyShard, shards=2) as regions:
        await fill(regions)
        eu = regions["eu"]
        await eu.ask("eu text number 3", k=3)
        shard = eu.rooms.shards[1]
        assert isinstance(shard, FaultyShard)
        shard.faults.before["search"] = [raising(WorkerUnavailable("down"))]
        answer = await eu.ask("eu text number 3", k=1)
    assert asked(eu) == {"us": 1, "ap": 1}
    assert answer.coverage.shards_total == 6
    assert answer.coverage.shards_answered == 5
    assert kinds(answer) == [DegradationKind.SHARD_MISSING]
    assert answer.certificate is not Certificate.COLLECTION


@pytest.mark.parametrize("wish", [{"regions": RegionPolicy.LOCAL}, {"search_class": "local"}])
async def test_a_local_search_never_leaves(
    regions: dict[str, RegionRooms], wish: dict[str, Any]
) -> None:
    answer = await regions["eu"].ask("ap zebra", k=30, **wish)
    assert asked(regions["eu"]) == {"us": 0, "ap": 0}
    assert {hit.region for hit in answer.hits} == {"eu"}
    assert states(answer) == {"eu": ANSWERED, "us": NOT_ASKED, "ap": NOT_ASKED}
    assert answer.coverage == Coverage(1, 1, 12, 12)
    assert answer.certificate is Certificate.COLLECTION, "of what this region holds"


async def test_a_collection_that_is_not_shared_stays_at_home(
    regions: dict[str, RegionRooms],
) -> None:
    rooms = regions["eu"].rooms
    await rooms.create("own")
    await rooms.add(Document("a", "a text"), name="own")
    answer = await rooms.ask("text", name="own", k=5, regions=RegionPolicy.ALL)
    assert asked(regions["eu"]) == {"us": 0, "ap": 0}
    assert (answer.regions, [hit.region for hit in answer.hits]) == ((), [""])


async def test_a_caller_chooses_the_policy(regions: dict[str, RegionRooms]) -> None:
    answer = await regions["eu"].ask("eu text number 3", k=1, regions=RegionPolicy.ALL)
    assert states(answer) == dict.fromkeys(NAMES, ANSWERED)


async def test_a_batch_is_one_call_a_region(regions: dict[str, RegionRooms]) -> None:
    eu = regions["eu"]
    texts = ["us text number 3", "ap text number 4", "eu text number 5"]
    answers = await eu.rooms.query.search("docs", texts, SearchOptions("all", k=2), 10.0)
    assert [answer.hits[0].document.id for answer in answers] == ["us-03", "ap-04", "eu-05"]
    assert asked(eu) == {"us": 1, "ap": 1}
    assert eu.near["us"].asked[0][0].queries.shape == (3, 64)


# --- regions that do not answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WorkerUnavailable("the cable is cut"), "the cable is cut"),
        (NotFound("collection", "docs"), "docs"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
async def test_a_region_that_fails_costs_its_share_and_is_named(
    regions: dict[str, RegionRooms], error: Exception, said: str
) -> None:
    eu = regions["eu"]
    eu.near["us"].faults.before["search"] = [raising(error)]
    answer = await eu.ask("text number 3", k=30, search_class="all")
    assert states(answer) == {"eu": ANSWERED, "us": MISSING, "ap": ANSWERED}
    assert answer.coverage == Coverage(3, 2, 36, 24)
    assert kinds(answer) == [DegradationKind.REGION_MISSING]
    assert "region us" in details(answer)
    assert said in details(answer)
    assert answer.certificate is Certificate.WITHIN_CANDIDATES
    assert {hit.region for hit in answer.hits} == {"eu", "ap"}


async def test_a_region_that_is_late_is_missing_when_the_time_is_over(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    eu.near["us"].faults.before["search"] = [hanging]
    answer = await eu.ask("text number 3", k=30, search_class="all", timeout_s=SHORT_S)
    assert states(answer) == {"eu": ANSWERED, "us": MISSING, "ap": ANSWERED}
    assert answer.coverage.documents_answered == 24
    _, given = eu.near["us"].asked[0]
    assert given < SHORT_S


async def test_a_region_that_cannot_answer_in_time_is_not_asked_at_all(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    eu.near["us"].said = "a round trip takes 150 ms and 90 are left"
    eu.near["ap"].said = "its breaker is open"
    answer = await eu.ask("text number 3", k=30)
    assert asked(eu) == {"us": 0, "ap": 0}
    assert states(answer) == {"eu": ANSWERED, "us": MISSING, "ap": MISSING}
    assert answer.coverage == Coverage(3, 1, 36, 12)
    assert "150 ms and 90 are left" in details(answer)
    assert "breaker is open" in details(answer)


async def test_less_than_was_asked_for_is_an_error_that_names_the_region(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    eu.near["us"].faults.always("search", raising(WorkerUnavailable("down")))
    with pytest.raises(BelowCoverage, match="none of region us") as caught:
        await eu.ask("text", k=3, search_class="all", min_coverage=0.9)
    assert caught.value.fraction == pytest.approx(2 / 3)
    assert len((await eu.ask("text", k=3, search_class="all", min_coverage=0.6)).hits) == 3


async def test_a_region_that_told_before_counts_with_what_it_held_then(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    for near in eu.near.values():
        near.holds = None
    await eu.ask("text", k=3, search_class="all")
    eu.near["us"].faults.before["search"] = [raising(WorkerUnavailable("down"))]
    answer = await eu.ask("text", k=3, search_class="all")
    assert answer.coverage == Coverage(3, 2, 36, 24)
    assert answer.regions[1].documents == 12


async def test_where_this_region_fails_the_others_answer_in_its_place(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    await eu.ask("text", k=3, search_class="all")
    for search_class in ("all", "search"):
        fail(eu, raising(WorkerUnavailable("all shards are down")))
        answer = await eu.ask("us text number 3", k=3, search_class=search_class)
        assert states(answer) == {"eu": MISSING, "us": ANSWERED, "ap": ANSWERED}
        assert answer.hits[0].document == documents("us")[3]
        assert answer.coverage == Coverage(3, 2, 36, 24)
        assert "region eu (this one) did not answer: all shards are down" in details(answer)
        assert answer.scoring_dim == 64


def fail(one: RegionRooms, fault: object) -> None:
    (shard,) = one.rooms.shards
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [fault]  # type: ignore[list-item]


async def test_where_nobody_answers_this_regions_error_is_raised(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    fail(eu, raising(WorkerUnavailable("all shards are down")))
    for near in eu.near.values():
        near.said = "it is gone"
    with pytest.raises(WorkerUnavailable, match="all shards are down"):
        await eu.ask("text", k=3, search_class="all")


async def test_a_silent_region_is_replaced_before_its_time_is_over(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    fail(eu, hanging)
    answer = await eu.ask("us text number 3", k=3, timeout_s=SHORT_S)
    assert states(answer) == {"eu": MISSING, "us": ANSWERED, "ap": ANSWERED}
    assert answer.hits[0].document.id == "us-03"
    fail(eu, hanging)
    for near in eu.near.values():
        near.said = "it is gone"
    with pytest.raises(BudgetSpent):
        await eu.ask("us text number 3", k=3, timeout_s=SHORT_S)


async def test_a_bad_request_is_an_error_whoever_would_answer(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    for wrong in ({"k": 0}, {"max_staleness_s": -1.0}, {"max_staleness_s": float("nan")}):
        with pytest.raises(InvalidRequest):
            await eu.ask("text", search_class="all", **wrong)
    with pytest.raises(InvalidRequest, match="no class"):
        await eu.ask("text", search_class="none")
    with pytest.raises(NotFound):
        await eu.rooms.ask("text", name="nothing", search_class="all")


async def test_a_caller_that_goes_away_leaves_nobody_at_work(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    ended = asyncio.Event()

    async def never() -> None:
        try:
            await hanging()
        finally:
            ended.set()

    eu.near["us"].faults.before["search"] = [never]
    search = asyncio.create_task(eu.ask("text", k=3, search_class="all"))

    async def under_way() -> bool:
        return bool(eu.near["us"].asked)

    await eventually(under_way)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert ended.is_set()


# --- regions that do not fit ----------------------------------------------------------------------


async def test_a_region_in_another_space_is_left_out_and_named() -> None:
    models = {"us": HashModel(64, name="newer")}
    async with open_regions(names=("eu", "us"), models=models) as regions:
        await fill(regions)
        answer = await regions["eu"].ask("text number 3", k=20, search_class="all")
    assert states(answer) == {"eu": ANSWERED, "us": EXCLUDED}
    assert answer.coverage == Coverage(2, 1, 24, 12)
    assert kinds(answer) == [DegradationKind.REGION_MISSING]
    assert "space" in details(answer)
    assert {hit.region for hit in answer.hits} == {"eu"}


@pytest.mark.parametrize(
    ("search_class", "change", "why"),
    [
        ("all", {"fingerprint": "0" * 16}, "space 0000"),
        ("all", {"scoring_dim": 32}, "of 32 dimensions, and here of 64"),
        ("coarse", {"scoring_dim": 32, "coarse_dim": 32}, "of 32 dimensions, and here of 16"),
        ("all", {"hits": ()}, "0 queries of 1"),
    ],
)
async def test_what_cannot_be_merged_is_left_out(
    regions: dict[str, RegionRooms],
    monkeypatch: pytest.MonkeyPatch,
    search_class: str,
    change: dict[str, Any],
    why: str,
) -> None:
    eu = regions["eu"]
    us = eu.near["us"]
    search = us.there.search

    async def other(query: RegionQuery, timeout_s: float) -> object:
        return replace(await search(query, timeout_s), **change)

    monkeypatch.setattr(us.there, "search", other)
    answer = await eu.ask("text number 3", k=10, search_class=search_class)
    assert states(answer)["us"] is EXCLUDED
    assert why in details(answer)
    assert "us" not in {hit.region for hit in answer.hits}


async def test_another_tier_does_no_harm_with_a_rerank(regions: dict[str, RegionRooms]) -> None:
    """Scores are of the full dimension whatever was searched."""
    eu = regions["eu"]
    answer = await eu.ask("text number 3", k=30, search_class="all", coarse_dim=16)
    assert {hit.region for hit in answer.hits} == set(NAMES)


# --- payloads -------------------------------------------------------------------------------------


@pytest.fixture
async def bare() -> AsyncIterator[dict[str, RegionRooms]]:
    """Regions whose payloads never come along."""
    async with open_regions(rules=RegionRules(inline_bytes=0)) as opened:
        await fill(opened)
        yield opened


async def test_payloads_are_fetched_for_final_hits_only_in_one_call_a_region(
    bare: dict[str, RegionRooms],
) -> None:
    eu = bare["eu"]
    texts = ["us text number 3", "us text number 4"]
    answers = await eu.rooms.query.search("docs", texts, SearchOptions("all", k=3), 10.0)
    found = {hit.document.id for answer in answers for hit in answer.hits if hit.region == "us"}
    assert len(eu.near["us"].fetched) == 1
    assert sorted(eu.near["us"].fetched[0]) == sorted(found)
    for answer in answers:
        assert all(hit.document.text.startswith(hit.region) for hit in answer.hits)
        assert answer.degradations == []


async def test_nothing_is_fetched_for_ids_alone(bare: dict[str, RegionRooms]) -> None:
    answer = await bare["eu"].ask("us text number 3", k=3, search_class="all", ids_only=True)
    assert answer.hits[0].document.id == "us-03"
    assert bare["eu"].near["us"].fetched == []


async def test_hits_keep_their_ids_where_payloads_are_out_of_reach(
    bare: dict[str, RegionRooms],
) -> None:
    eu = bare["eu"]
    eu.near["us"].faults.always("documents", raising(WorkerUnavailable("cut off by now")))
    answer = await eu.ask("us text number 3", k=3, search_class="all")
    assert answer.hits[0].document == Document("us-03", "")
    assert kinds(answer) == [DegradationKind.PAYLOAD_MISSING]
    assert "cut off by now" in details(answer)
    with pytest.raises(WorkerUnavailable, match="cut off by now"):
        await eu.ask("us text number 3", k=3, search_class="whole")


async def test_a_hit_that_is_gone_when_it_is_fetched_is_left_out(
    bare: dict[str, RegionRooms],
) -> None:
    eu, us = bare["eu"], bare["us"]

    async def gone() -> None:
        await us.rooms.ingest.delete("docs", ["us-03"])

    eu.near["us"].faults.before["documents"] = [gone]
    answer = await eu.ask("us text number 3", k=3, search_class="all")
    assert "us-03" not in ids_of(answer)
    assert len(answer.hits) == 2
    assert kinds(answer) == [DegradationKind.PAYLOAD_MISSING]
    assert answer.certificate is Certificate.NONE


# --- copies ---------------------------------------------------------------------------------------


@pytest.fixture
async def copies() -> AsyncIterator[dict[str, RegionRooms]]:
    """Three regions that hold the same 12 documents."""
    async with open_regions(Sharing.REPLICATED, wrap_shard=FaultyShard, shards=2) as opened:
        for one in opened.values():
            await one.add(*(Item(document, version=1) for document in documents("all")))
        yield opened


@pytest.mark.parametrize("search_class", ["search", "all"])
async def test_a_whole_copy_answers_alone(
    copies: dict[str, RegionRooms], search_class: str
) -> None:
    eu = copies["eu"]
    answer = await eu.ask("zebra", k=30, search_class=search_class)
    assert asked(eu) == {"us": 0, "ap": 0}
    assert states(answer) == {"eu": ANSWERED, "us": NOT_ASKED, "ap": NOT_ASKED}
    assert answer.coverage == Coverage(2, 2, 12, 12)
    assert answer.certificate is Certificate.COLLECTION or search_class == "search"
    assert answer.regions[0].staleness_s == 0.0


async def test_a_copy_that_is_behind_asks_the_region_that_it_is_behind(
    copies: dict[str, RegionRooms],
) -> None:
    eu = copies["eu"]
    eu.ages.seconds = {"us": 5.0, "ap": 31.0}
    await copies["ap"].add(Document("new", "a text that eu has not heard of"))
    answer = await eu.ask("a text that eu has not heard of", k=30)
    assert asked(eu) == {"us": 0, "ap": 1}
    assert eu.near["ap"].asked[0][0].versions
    assert (answer.hits[0].document.id, answer.hits[0].region) == ("new", "ap")
    assert len(answer.hits) == 13
    assert answer.coverage == Coverage(2, 2, 13, 13)
    assert answer.degradations == []
    assert answer.regions[0].staleness_s == 31.0
    await eu.ask("text", k=30, max_staleness_s=1.0)
    assert asked(eu) == {"us": 1, "ap": 2}
    await eu.ask("text", k=30, max_staleness_s=60.0)
    assert asked(eu) == {"us": 1, "ap": 2}


async def test_half_of_the_time_is_late_whatever_was_learned(
    copies: dict[str, RegionRooms],
) -> None:
    eu = copies["eu"]
    eu.ages.seconds = {"us": 99.0, "ap": 0.0}
    for _ in range(20):
        eu.regions.hedging.learn(("docs", "search"), 60.0)
    for shard in eu.rooms.shards:
        assert isinstance(shard, FaultyShard)
        shard.faults.always("search", hanging)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + 2.0
    answer = await eu.ask("text number 3", k=5, timeout_s=2.0, search_class="search")
    assert states(answer) == {"eu": NOT_ASKED, "us": ANSWERED, "ap": NOT_ASKED}
    assert loop.time() < deadline_s - 0.5, "it was waited for until the deadline"


async def test_a_copy_that_is_behind_a_region_out_of_reach_says_so(
    copies: dict[str, RegionRooms],
) -> None:
    eu = copies["eu"]
    eu.ages.seconds = {"us": 5.0, "ap": None}
    eu.near["ap"].said = "it is gone"
    copies["us"].ages.seconds = {"eu": 0.0, "ap": 45.0}
    answer = await eu.ask("text", k=5)
    assert asked(eu) == {"us": 1, "ap": 0}, "another one may have heard of what is missing here"
    assert kinds(answer) == [DegradationKind.REGION_MISSING, DegradationKind.REGION_STALE]
    assert "region ap (not known how old); 30 s are allowed" in details(answer)
    assert answer.coverage.fraction == 1.0
    assert answer.certificate is not Certificate.COLLECTION
    copies["us"].ages.seconds = {"eu": 0.0, "ap": 3.0}
    again = await eu.ask("text", k=5)
    assert kinds(again) == []
    assert states(again)["ap"] is MISSING


async def test_a_local_search_of_an_old_copy_admits_it(copies: dict[str, RegionRooms]) -> None:
    eu = copies["eu"]
    eu.ages.seconds = {"us": 5.0, "ap": 0.0}
    answer = await eu.ask("text", k=5, search_class="local", max_staleness_s=1.0)
    assert kinds(answer) == [DegradationKind.REGION_STALE]
    assert "us (up to 5 s old)" in details(answer)
    assert kinds(await eu.ask("text", k=5, search_class="local")) == []
    assert asked(eu) == {"us": 0, "ap": 0}


async def test_a_missing_shard_of_a_copy_is_made_good_by_the_nearest_region(
    copies: dict[str, RegionRooms],
) -> None:
    eu = copies["eu"]
    shard = eu.rooms.shards[0]
    assert isinstance(shard, FaultyShard)
    shard.faults.always("search", raising(WorkerUnavailable("down")))
    answer = await eu.ask("text number 3", k=30)
    assert asked(eu) == {"us": 1, "ap": 0}
    assert len(answer.hits) == 12
    assert answer.coverage == Coverage(2, 2, 12, 12)
    eu.near["us"].said = "it is gone"
    answer = await eu.ask("text number 3", k=30)
    assert asked(eu) == {"us": 1, "ap": 1}
    assert len(answer.hits) == 12


async def test_a_slow_copy_is_hedged_and_the_first_whole_answer_wins(
    copies: dict[str, RegionRooms],
) -> None:
    eu = copies["eu"]
    late = asyncio.Event()
    for shard in eu.rooms.shards:
        assert isinstance(shard, FaultyShard)
        shard.faults.always("search", waiting_for(late))
    answer = await eu.ask("text number 3", k=5)
    assert asked(eu) == {"us": 1, "ap": 0}
    assert states(answer) == {"eu": NOT_ASKED, "us": ANSWERED, "ap": NOT_ASKED}
    assert {hit.region for hit in answer.hits} == {"us"}
    assert answer.coverage.fraction == 1.0
    assert answer.degradations == [], "nothing is missing"
    for shard in eu.rooms.shards:
        assert isinstance(shard, FaultyShard)
        shard.faults.heal()
    eu.near["us"].faults.before["search"] = [hanging]
    again = await eu.ask("text number 3", k=5)
    assert states(again)["eu"] is ANSWERED


async def test_in_place_of_a_failed_watermark_those_that_can_help_are_asked_at_once() -> None:
    names = (*NAMES, "sa")
    async with open_regions(Sharing.REPLICATED, names, wrap_shard=FaultyShard) as copies:
        for one in copies.values():
            await one.add(*(Item(document, version=1) for document in documents("all")))
        eu = copies["eu"]
        (shard,) = eu.rooms.shards
        assert isinstance(shard, FaultyShard)
        shard.faults.always("search", raising(WorkerUnavailable("down")))
        asking: dict[str, Any] = {"k": 5, "watermark": Watermark(1)}
        answer = await eu.ask("text number 3", **asking)
        assert asked(eu) == {"us": 1, "ap": 0, "sa": 0}, "a whole copy, and a fresh one"
        assert kinds(answer) == [DegradationKind.REGION_MISSING, DegradationKind.REGION_STALE]
        # Nearer ones are out of reach, and silent: the one behind them is asked all the same.
        eu.near["us"].said = "it is gone"
        eu.near["ap"].faults.before["search"] = [hanging]
        answer = await eu.ask("text number 3", timeout_s=SHORT_S, **asking)
        assert asked(eu) == {"us": 1, "ap": 1, "sa": 1}
        assert {hit.region for hit in answer.hits} == {"sa"}


async def test_hedges_stay_within_their_budget(copies: dict[str, RegionRooms]) -> None:
    eu = copies["eu"]
    eu.regions.hedging.budget = HedgeBudget(burst=0)
    slow = asyncio.Event()
    for shard in eu.rooms.shards:
        assert isinstance(shard, FaultyShard)
        shard.faults.before["search"] = [waiting_for(slow)]
    search = asyncio.create_task(eu.ask("text number 3", k=5))
    await asyncio.sleep(0.1)
    assert asked(eu) == {"us": 0, "ap": 0}
    slow.set()
    assert states(await search)["eu"] is ANSWERED


async def test_where_the_store_does_not_tell_versions_other_regions_count(
    copies: dict[str, RegionRooms], monkeypatch: pytest.MonkeyPatch
) -> None:
    eu = copies["eu"]
    eu.ages.seconds = dict.fromkeys(eu.near, 99.0)
    assert isinstance(eu.rooms.store, FaultyStore)

    async def down(*_: object) -> object:
        raise StoreUnavailable("the store is down")

    monkeypatch.setattr(eu.rooms.store, "versions", down)
    answer = await eu.ask("text number 3", k=5)
    assert {hit.region for hit in answer.hits} == {"us"}
    assert len(answer.hits) == 5
    monkeypatch.undo()
    assert {hit.region for hit in (await eu.ask("text number 3", k=5)).hits} == {"eu"}


# --- copies of prefixes ---------------------------------------------------------------------------


class Copies:
    """Fills ports.PrefixCopies for one region, by what that region itself says."""

    def __init__(self) -> None:
        self.home: NearRegion | None = None
        self.said = ""

    def holds(self, collection: str, region: str) -> bool:
        return self.home is not None and (collection, region) == ("docs", self.home.name)

    async def search(self, region: str, query: RegionQuery, timeout_s: float) -> PrefixAnswer:
        assert self.home is not None
        assert region == self.home.name
        found = await self.home.there.search(query, timeout_s)
        hits = [replace(one, certificate=Certificate.NONE, documents=()) for one in found.hits]
        return PrefixAnswer(replace(found, hits=hits), self.said)


async def test_a_copy_of_prefixes_answers_for_a_region_out_of_reach() -> None:
    copies = Copies()
    async with open_regions(prefixes=copies) as regions:
        await fill(regions)
        eu = regions["eu"]
        copies.home, copies.said = eu.near["us"], "the cable is cut"
        eu.near["us"].said = "the cable is cut"
        answer = await eu.ask("us text number 3", k=30, search_class="all")
        assert states(answer) == {"eu": ANSWERED, "us": RegionState.PREFIXES, "ap": ANSWERED}
        assert answer.hits[0].document.id == "us-03"
        assert answer.coverage == Coverage(3, 3, 36, 36)
        missing, payloads = DegradationKind.REGION_MISSING, DegradationKind.PAYLOAD_MISSING
        assert kinds(answer) == [missing, payloads]
        assert "estimates" in details(answer)
        assert answer.hits[0].document.text == ""
        assert eu.near["us"].fetched == [], "it is known to be out of reach"
        assert answer.certificate is Certificate.NONE
        # Estimates are no answer of a class that takes no less than was asked for.
        with pytest.raises(BelowCoverage, match="none of region us"):
            await eu.ask("us text number 3", k=30, search_class="whole")
        copies.said = ""
        answer = await eu.ask("us text number 3", k=30, search_class="all")
        assert states(answer) == dict.fromkeys(NAMES, ANSWERED)
        assert asked(eu)["us"] == 0, "the copy speaks with the home itself"
        assert answer.hits[0].document == documents("us")[3]


# --- beside ---------------------------------------------------------------------------------------


async def test_the_answer_for_another_region_is_this_regions_alone(
    regions: dict[str, RegionRooms],
) -> None:
    """Also in a class that asks all: a question goes one step and no further."""
    vector = np.zeros((1, 64), np.float32)
    vector[0, 0] = 1.0
    docs = await regions["us"].rooms.catalogue.get("docs")
    query = RegionQuery(
        "docs", docs.space.fingerprint, vector, "all", 30, 16, 100, rerank=True, versions=True
    )
    found = await regions["eu"].near["us"].there.search(query, 10.0)
    assert asked(regions["us"]) == {"eu": 0, "ap": 0}
    (hits,) = found.hits
    assert sorted(hits.ids) == [one.id for one in documents("us")]
    assert hits.versions is not None
    assert (hits.versions > 0).all()
    assert hits.certificate is Certificate.COLLECTION


async def test_a_migration_is_judged_by_what_this_region_finds_alone(
    regions: dict[str, RegionRooms],
) -> None:
    offered: list[tuple[SearchOptions, Sequence[Answer]]] = []

    class Shadow:
        def offer(
            self, texts: Sequence[str], options: SearchOptions, answers: Sequence[Answer], _: object
        ) -> None:
            offered.append((options, answers))

    eu = regions["eu"]
    eu.rooms.query._shadow = Shadow()  # type: ignore[assignment]
    answer = await eu.ask("us text number 3", k=3, search_class="all")
    assert {hit.region for hit in answer.hits} != {"eu"}
    ((options, (alone,)),) = offered
    assert options.cross_encode is False
    assert [hit.document.id[:2] for hit in alone.hits] == ["eu"] * 3
    fail(eu, raising(WorkerUnavailable("down")))
    await eu.ask("us text number 3", k=3, search_class="all")
    assert len(offered) == 1, "it found nothing to compare with"


# --- a recall that is promised --------------------------------------------------------------------

CHEAP = a_point(candidates=30, bound_z=3.0, window_low=0.95)
PLAIN = a_point(candidates=10, rerank=False, bound_z=0.0, window_low=0.99, cost_ms=0.1)


async def calibrate(one: RegionRooms, *points: CalibratedPoint) -> None:
    docs = await one.rooms.catalogue.get("docs")
    classes = (ClassCalibration("all", 10, points),)
    kinds_of = ((16, "numpy"),)
    measured = a_calibration(docs, documents=12, kinds=kinds_of, classes=classes)
    await one.rooms.admin.set_calibration("docs", measured)


async def test_each_region_keeps_a_promised_recall_by_its_own_measurement(
    regions: dict[str, RegionRooms],
) -> None:
    eu, us, ap = (regions[name] for name in NAMES)
    await calibrate(eu, CHEAP)
    await calibrate(us, replace(CHEAP, candidates=77))
    await calibrate(ap, PLAIN)
    answer = await eu.ask("text number 3", search_class="all", k=10, target_recall=0.95)
    query, _ = eu.near["us"].asked[0]
    assert (query.target_recall, query.candidates, query.bound_z) == (0.95, 30, 3.0)
    (shard,) = us.rooms.shards
    assert isinstance(shard, FaultyShard)
    assert shard.asked[-1].count == 77
    assert states(answer) == dict.fromkeys(NAMES, ANSWERED)
    assert kinds(answer) == [DegradationKind.TARGET_MISSED]
    assert "region ap: the plan that reaches 0.95 here scores at 16 dimensions" in details(answer)


async def test_a_region_that_is_not_calibrated_answers_by_the_plan_of_the_one_that_is(
    regions: dict[str, RegionRooms],
) -> None:
    eu = regions["eu"]
    await calibrate(eu, CHEAP)
    answer = await eu.ask("text number 3", search_class="all", k=10, target_recall=0.95)
    assert states(answer) == dict.fromkeys(NAMES, ANSWERED)
    assert kinds(answer) == [DegradationKind.TARGET_MISSED] * 2
    (shard,) = regions["us"].rooms.shards
    assert isinstance(shard, FaultyShard)
    assert (shard.asked[-1].count, shard.asked[-1].bound_z) == (30, 3.0)
    assert answer.coverage.documents_answered == 36


# --- the last stages ------------------------------------------------------------------------------


async def test_a_cross_encoder_reads_the_texts_of_all_regions() -> None:
    scorer = ScriptedScorer()
    rules = RegionRules(inline_bytes=0)
    async with open_regions(rules=rules, cross_encoder=scorer) as regions:
        await fill(regions)
        eu = regions["eu"]
        wishes: dict[str, Any] = {"search_class": "all", "cross_encode": True}
        answer = await eu.ask("text number 3", k=3, ids_only=True, **wishes)
    assert answer.cross_encoder == "scripted"
    scores = [hit.cross_score or 0.0 for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.0
    ((_, texts),) = scorer.asked
    assert len(texts) == 20
    assert {text[:2] for text in texts} == set(NAMES)


async def test_time_is_kept_for_payloads_that_must_be_fetched(
    bare: dict[str, RegionRooms],
) -> None:
    """A third region that hangs does not cost the texts of the second one's hits."""
    eu = bare["eu"]
    eu.near["us"].round_trip_s = 0.2
    eu.near["ap"].faults.before["search"] = [hanging]

    async def far() -> None:
        await asyncio.sleep(0.1)

    eu.near["us"].faults.before["documents"] = [far]
    answer = await eu.ask("us text number 3", k=3, search_class="all", timeout_s=1.0)
    assert states(answer) == {"eu": ANSWERED, "us": ANSWERED, "ap": MISSING}
    assert answer.hits[0].document == documents("us")[3]
    assert kinds(answer) == [DegradationKind.REGION_MISSING]
