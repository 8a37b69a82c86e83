"""One list from several regions': by score, the newest version of each, and no more certified than
is known.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage
from nestvec.core.region_merge import (
    Merged,
    MissingPart,
    RegionPart,
    coverage_of_copies,
    coverage_of_parts,
    merge_parts,
    merged_certificate,
)

# Few names, few scores, few versions: ties and copies are the rule.
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
SCORES = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0])
Row = tuple[str, float, int]


def part(rows: list[Row], versions: bool = True, **facts: Any) -> RegionPart:
    rows = sorted(rows, key=lambda row: (-row[1], row[0]))
    return RegionPart(
        [name for name, _, _ in rows],
        np.array([score for _, score, _ in rows], np.float32),
        np.array([version for _, _, version in rows], np.int64) if versions else None,
        **facts,
    )


def listed(parts: list[RegionPart], merged: Merged) -> list[tuple[str, float]]:
    return [(parts[p].ids[row], float(parts[p].scores[row])) for p, row in merged.hits]


@given(
    st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), SCORES, max_size=20),
    st.integers(1, 25),
    st.randoms(use_true_random=False),
)
def test_parts_of_one_list_merge_to_that_list(
    documents: dict[str, float], k: int, chance: random.Random
) -> None:
    """However documents are spread over regions, each of which tells its k best."""
    homes: list[list[Row]] = [[], [], []]
    for name, score in documents.items():
        chance.choice(homes).append((name, score, 0))
    parts = [
        part(sorted(rows, key=lambda row: (-row[1], row[0]))[:k], versions=False) for rows in homes
    ]
    merged = merge_parts(parts, k)
    wanted = sorted(documents.items(), key=lambda one: (-one[1], one[0]))[:k]
    assert listed(parts, merged) == wanted
    assert merged.certain


@st.composite
def copies(draw: st.DrawFn) -> tuple[dict[str, list[float]], list[list[Row]]]:
    """Scores of each document's versions, 1 first, and what some regions hold of them."""
    history = draw(st.dictionaries(NAMES, st.lists(SCORES, min_size=1, max_size=3)))
    regions: list[list[Row]] = []
    for _ in range(draw(st.integers(1, 3))):
        rows: list[Row] = []
        for name, scores in history.items():
            version = draw(st.integers(0, len(scores)))
            if version:
                rows.append((name, scores[version - 1], version))
        regions.append(rows)
    return history, regions


@given(copies(), st.integers(1, 6))
def test_the_newest_version_stands_whatever_its_score(
    drawn: tuple[dict[str, list[float]], list[list[Row]]], k: int
) -> None:
    """All that all of them hold is merged as one region would that had taken every write."""
    history, regions = drawn
    parts = [part(rows) for rows in regions]
    newest = {
        name: max(
            (version for rows in regions for one, _, version in rows if one == name), default=0
        )
        for name in history
    }
    stands = {name: history[name][version - 1] for name, version in newest.items() if version}
    wanted = sorted(stands.items(), key=lambda one: (-one[1], one[0]))
    assert listed(parts, merge_parts(parts, len(NAMES_ALL))) == wanted
    cut = [part(sorted(rows, key=lambda row: (-row[1], row[0]))[:k]) for rows in regions]
    merged = merge_parts(cut, k, newest)
    if merged.certain:
        assert listed(cut, merged) == wanted[:k]


NAMES_ALL = ["a", "b", "c", "d", "e"]


def test_where_an_old_version_took_a_place_in_a_full_list_nothing_is_certain() -> None:
    full = part([("a", 1.0, 1), ("b", 0.5, 1)])
    newer = part([("a", 0.0, 2)])
    merged = merge_parts([full, newer], 2)
    assert listed([full, newer], merged) == [("b", 0.5), ("a", 0.0)]
    assert not merged.certain
    assert merge_parts([full, newer], 3).certain, "there was room for more, so none was left out"


def test_a_row_of_which_the_version_is_not_known_gives_way() -> None:
    unknown, known = part([("a", 1.0, 0)]), part([("a", 0.5, 3)])
    for parts in ([unknown, known], [known, unknown]):
        assert listed(parts, merge_parts(parts, 5)) == [("a", 0.5)]
    assert merge_parts([unknown], 5, {"a": 1}).hits == []


def test_of_one_version_the_first_region_is_taken() -> None:
    parts = [part([("a", 0.5, 7)]), part([("a", 0.5, 7)])]
    merged = merge_parts(parts, 1)
    assert [one.part for one in merged.hits] == [0]
    assert merged.certain, "a copy takes nobody's place"


NONE, ESTIMATED = Certificate.NONE, Certificate.ESTIMATED
WITHIN, ALL = Certificate.WITHIN_CANDIDATES, Certificate.COLLECTION


@pytest.mark.parametrize(
    ("given_", "certain", "everywhere", "wanted", "chance"),
    [
        ([(ALL, 0.1), (ALL, 0.2)], True, True, ALL, 0.3),
        ([(ALL, 0.1), (ALL, 0.2)], True, False, WITHIN, 0.3),
        ([(ALL, 0.1), (WITHIN, 0.2)], True, True, WITHIN, 0.3),
        ([(ALL, 0.7), (WITHIN, 0.6)], True, True, WITHIN, 1.0),
        ([(ESTIMATED, 0.0), (ALL, 0.2)], True, True, ESTIMATED, 0.2),
        ([(NONE, 0.0), (ALL, 0.2)], True, True, NONE, 0.0),
        ([(ALL, 0.1), (ALL, 0.2)], False, True, NONE, 0.0),
        ([], True, True, NONE, 0.0),
    ],
)
def test_the_weakest_part_is_what_is_certified(
    given_: list[tuple[Certificate, float]],
    certain: bool,
    everywhere: bool,
    wanted: Certificate,
    chance: float,
) -> None:
    parts = [
        part([], certificate=certificate, failure_probability=failing)
        for certificate, failing in given_
    ]
    found, failing = merged_certificate(parts, certain, everywhere)
    assert found is wanted
    assert failing == pytest.approx(chance)


def test_a_missing_region_costs_its_share_of_the_documents() -> None:
    here = Coverage(2, 2, 300, 300)
    found = coverage_of_parts([here], [MissingPart(100, 1)])
    assert found == Coverage(3, 2, 400, 300)
    assert found.fraction == pytest.approx(2 / 3), "a shard less"
    assert coverage_of_parts([here], [MissingPart(1500, 1)]).fraction == pytest.approx(300 / 1800)
    assert coverage_of_parts([here], []).fraction == 1.0


def test_a_region_of_unknown_size_counts_as_an_average_one() -> None:
    parts = [Coverage(1, 1, 100, 100), Coverage(1, 1, 300, 300)]
    assert coverage_of_parts(parts, [MissingPart(None)]) == Coverage(3, 2, 600, 400)


def test_of_copies_the_fullest_counts_and_a_missing_one_costs_nothing() -> None:
    half, whole = Coverage(2, 1, 200, 100), Coverage(2, 2, 200, 200)
    assert coverage_of_copies([half, whole], [MissingPart(200)]) == whole
    assert coverage_of_copies([half], []) == half
    assert coverage_of_copies([], [MissingPart(200, 2), MissingPart(200)]).fraction == 0.0
