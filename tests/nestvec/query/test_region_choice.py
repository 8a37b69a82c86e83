"""Whom a search asks, and when: the rules, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nestvec.core.coverage import Coverage
from nestvec.core.regions import RegionPolicy
from nestvec.query.region_choice import (
    Choice,
    Heard,
    PartitionedChoice,
    Progress,
    ReplicatedChoice,
    behind,
)

WHOLE, HALF = Coverage(2, 2, 10, 10), Coverage(2, 1, 10, 5)
OTHERS = ("us", "ap")
GOOD = Heard(WHOLE, sufficient=True, staleness_s=0.0)
PARTLY = Heard(HALF, sufficient=True)
POOR = Heard(WHOLE, sufficient=False)


def progress(
    here: Heard | None = None,
    settled: bool = True,
    asked: Sequence[str] = (),
    waiting: Sequence[str] = (),
    **heard: Heard,
) -> Progress:
    return Progress(here, settled, heard, {*asked, *waiting, *heard}, waiting)


WAITING = progress(settled=False)


def test_all_asks_everybody_at_once_and_waits_for_them() -> None:
    choice = PartitionedChoice(RegionPolicy.ALL, OTHERS)
    assert choice.at_once() == OTHERS
    assert not choice.enough(progress(GOOD, waiting=OTHERS))


@pytest.mark.parametrize("here", [PARTLY, POOR, None])
def test_local_first_asks_others_where_this_region_is_not_enough(here: Heard | None) -> None:
    choice = PartitionedChoice(RegionPolicy.LOCAL_FIRST, OTHERS)
    assert not choice.at_once()
    assert not choice.hedge(WAITING)
    assert not choice.more(WAITING)
    assert choice.more(progress(here)) == OTHERS
    assert not choice.enough(progress(here))


def test_local_first_asks_nobody_where_it_is_enough() -> None:
    choice = PartitionedChoice(RegionPolicy.LOCAL_FIRST, OTHERS)
    assert choice.enough(progress(GOOD))
    assert not choice.more(progress(GOOD))
    assert choice.enough(progress(GOOD, waiting=OTHERS)), "those asked meanwhile are let go"


def test_others_are_asked_before_a_silent_region_has_used_up_the_time() -> None:
    partitioned = PartitionedChoice(RegionPolicy.LOCAL_FIRST, OTHERS)
    assert partitioned.late(WAITING) == OTHERS
    replicated = ReplicatedChoice("eu", OTHERS, (), 30.0)
    assert replicated.late(WAITING) == ["us"]
    assert replicated.late(progress(settled=False, asked=["us"])) == ["ap"]
    assert not replicated.late(progress(settled=False, waiting=["us"]))


def test_a_whole_copy_answers_alone() -> None:
    choice: Choice = ReplicatedChoice("eu", OTHERS, (), 30.0)
    assert not choice.at_once()
    assert choice.enough(progress(POOR)), "copies have no other hits"
    assert not choice.enough(WAITING)


def test_a_copy_that_is_behind_asks_those_that_it_is_behind() -> None:
    choice = ReplicatedChoice("eu", OTHERS, ("ap",), 30.0)
    assert choice.at_once() == ["ap"]
    assert not choice.enough(progress(GOOD, waiting=["ap"]))
    assert choice.enough(progress(GOOD, ap=Heard(WHOLE, staleness_s=None)))
    half = progress(GOOD, ap=Heard(HALF, staleness_s=0.0))
    assert choice.lacking(half) == ["ap"]
    assert choice.more(half) == ["us"], "another one may have heard of it"
    assert choice.enough(progress(GOOD, asked=["ap"], us=Heard(WHOLE, staleness_s=1.0)))
    late = progress(GOOD, asked=["ap"], us=Heard(WHOLE, staleness_s=31.0))
    assert choice.lacking(late) == ["ap"]
    assert not choice.more(late)


def test_where_a_shard_of_a_copy_is_missing_the_nearest_whole_region_answers() -> None:
    choice = ReplicatedChoice("eu", OTHERS, (), 30.0)
    assert choice.more(progress(PARTLY)) == ["us"]
    assert not choice.more(progress(PARTLY, waiting=["us"]))
    assert choice.more(progress(PARTLY, asked=["us"])) == ["ap"]
    assert choice.enough(progress(PARTLY, us=GOOD))
    assert choice.enough(progress(None, settled=False, us=GOOD)), "of two that race, the first"
    old = Heard(WHOLE, staleness_s=None)
    assert choice.lacking(progress(PARTLY, us=old)) == ["eu", "ap"]
    assert choice.lacking(progress(None)) == ["eu", "us", "ap"]


def test_only_the_nearest_copy_is_asked_beside_a_slow_one() -> None:
    choice = ReplicatedChoice("eu", OTHERS, (), 30.0)
    assert choice.hedge(WAITING) == ("us",)
    assert not choice.hedge(progress(settled=False, waiting=["us"]))


def test_an_unknown_age_is_no_small_one() -> None:
    ages = {"us": 5.0, "ap": None}
    assert behind(("us", "ap", "sa"), ages, 5.0) == {"ap": None, "sa": None}
    assert behind(("us",), ages, 4.9) == {"us": 5.0}
    assert behind(("us",), {"us": 0.1}, 0.0) == {"us": 0.1}


def test_with_a_watermark_no_other_region_answers_in_place_of_this_one() -> None:
    choice = ReplicatedChoice("eu", OTHERS, (), 30.0, own=True)
    assert not choice.hedge(WAITING)
    assert not choice.enough(progress(None, settled=False, us=GOOD)), "it waits for no watermark"
    assert choice.enough(progress(GOOD))
    # Where this region fails another one answers, and what may be missing is said.
    assert choice.more(progress(None)) == ["us"]
    assert choice.lacking(progress(None, us=GOOD)) == ["eu"]
    assert choice.lacking(progress(PARTLY, us=GOOD)) == ["eu"]


def test_where_this_region_failed_a_watermark_no_whole_copy_has_others_asked_after_it() -> None:
    choice = ReplicatedChoice("eu", (*OTHERS, "sa"), (), 30.0, own=True)
    assert choice.more(progress(None)) == ["us"]
    assert not choice.more(progress(None, us=GOOD)), "nobody else can make up for the watermark"
    assert not choice.more(progress(PARTLY, us=GOOD))
    # What may be missing in its answer is asked for at once, wherever it is.
    unknown = Heard(WHOLE, staleness_s=None)
    assert choice.more(progress(None, us=unknown)) == ["ap", "sa"]
    assert choice.more(progress(PARTLY, us=Heard(HALF, staleness_s=0.0))) == ["ap", "sa"]
    assert choice.more(progress(None, asked=["us"])) == ["ap", "sa"], "it could not be asked"
    assert not choice.more(progress(None, waiting=["ap"], us=unknown))
    assert not choice.more(progress(None, us=unknown, ap=unknown, sa=unknown))
    assert choice.lacking(progress(None, us=unknown, ap=unknown, sa=unknown)) == ["eu"]


def test_a_region_that_was_asked_beside_this_one_is_not_asked_again() -> None:
    choice = ReplicatedChoice("eu", (*OTHERS, "sa"), ("ap",), 30.0, own=True)
    assert choice.at_once() == ["ap"]
    assert not choice.more(progress(None, waiting=["ap"]))
    assert choice.more(progress(None, asked=["ap"])) == ["us", "sa"]
    assert not choice.more(progress(None, ap=GOOD))
