"""Merging: larger is better, arrival order is nothing, padding is never a document."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.arrays import Floats, Ids
from nestvec.core.merge import PADDING, merge_top, ranked

Hit = tuple[int, float]
Column = tuple[Ids, Floats]

# Few ids and few scores: ties and duplicates are the rule.
hits = st.tuples(st.integers(0, 8), st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.25, 1.0, np.inf]))
wild_hits = st.tuples(st.integers(0, 2**62), st.floats(-2, 2, width=32))
answers = st.lists(st.lists(hits | wild_hits, max_size=6), max_size=5)
counts = st.integers(0, 40)


def column(answer: list[Hit]) -> Column:
    return (
        np.array([id_ for id_, _ in answer], np.int64),
        np.array([score for _, score in answer], np.float32),
    )


def rows(merged: Column) -> list[Hit]:
    return list(zip(merged[0].tolist(), merged[1].tolist(), strict=True))


def naive_merge(answers: list[list[Hit]], k: int) -> list[Hit]:
    best: dict[int, float] = {}
    for answer in answers:
        for id_, score in answer:
            if id_ != -1:
                best[id_] = max(score, best.get(id_, -float("inf")))
    return sorted(best.items(), key=lambda hit: (-hit[1], hit[0]))[:k]


@given(answers, counts)
def test_merge_is_the_naive_merge(answers: list[list[Hit]], k: int) -> None:
    assert rows(merge_top([column(answer) for answer in answers], k)) == naive_merge(answers, k)


@given(st.lists(hits, max_size=20), counts, st.randoms(use_true_random=False))
def test_merge_ignores_arrival_order_and_padding(
    everything: list[Hit], k: int, shuffler: random.Random
) -> None:
    """However hits are cut into answers, in whatever order, padded or not: one result."""
    expected = rows(merge_top([column(everything)], k))
    shuffled = shuffler.sample(everything, len(everything))
    cut = shuffler.randint(0, len(shuffled))
    padding: list[Hit] = [(-1, shuffler.choice([-np.inf, 0.0, 9.0]))] * shuffler.randint(0, 3)
    parts = [shuffled[:cut] + padding, [], padding, shuffled[cut:]]
    shuffler.shuffle(parts)
    assert rows(merge_top([column(part) for part in parts], k)) == expected


@given(answers, answers, counts)
def test_merging_regions_of_shards_is_merging_all_shards(
    east: list[list[Hit]], west: list[list[Hit]], k: int
) -> None:
    all_at_once = merge_top([column(answer) for answer in east + west], k)
    region_by_region = merge_top(
        [merge_top([column(answer) for answer in region], k) for region in (east, west)], k
    )
    assert rows(region_by_region) == rows(all_at_once)


@given(answers, counts)
def test_merge_keeps_every_law_of_a_ranking(answers: list[list[Hit]], k: int) -> None:
    ids, scores = merge_top([column(answer) for answer in answers], k)
    assert (ids.dtype, scores.dtype) == (np.dtype(np.int64), np.dtype(np.float32))
    assert len(ids) == len(scores) <= k
    assert len(set(ids.tolist())) == len(ids)
    assert -1 not in ids
    assert (np.diff(scores[np.isfinite(scores)]) <= 0).all()


def test_the_best_not_the_smallest_product_is_kept() -> None:
    assert rows(merge_top([column([(1, -0.5), (2, 0.5), (3, 0.25)])], 1)) == [(2, 0.5)]


def test_replicas_count_once_with_their_best_score() -> None:
    first, second = column([(7, 0.25), (8, 0.5)]), column([(7, 0.75), (8, 0.5)])
    assert rows(merge_top([first, second], 10)) == [(7, 0.75), (8, 0.5)]


def test_a_duplicate_does_not_take_the_place_of_another_document() -> None:
    duplicated = column([(7, 0.75), (7, 0.5), (7, 0.25), (8, 0.125)])
    assert rows(merge_top([duplicated], 2)) == [(7, 0.75), (8, 0.125)]


def test_all_ties_are_ordered_by_id() -> None:
    tied = column([(id_, 0.5) for id_ in (9, 3, 7, 1)])
    assert rows(merge_top([tied], 3)) == [(1, 0.5), (3, 0.5), (7, 0.5)]


def test_zeros_of_either_sign_tie() -> None:
    assert [id_ for id_, _ in rows(merge_top([column([(2, 0.0), (1, -0.0)])], 2))] == [1, 2]


@pytest.mark.parametrize(
    "columns",
    [[], [column([])], [column([]), column([])], [column([(-1, 1.0), (-1, -np.inf)])]],
    ids=["no answer", "empty answer", "empty answers", "only padding"],
)
def test_nothing_merges_to_nothing(columns: list[Column]) -> None:
    ids, scores = merge_top(columns, 10)
    assert (ids.shape, scores.shape) == ((0,), (0,))
    assert (ids.dtype, scores.dtype) == (np.dtype(np.int64), np.dtype(np.float32))


def test_padding_is_what_faiss_pads_with() -> None:
    assert PADDING == -1


def test_k_of_zero_is_an_empty_answer() -> None:
    assert rows(merge_top([column([(1, 0.5)])], 0)) == []


def test_a_score_that_is_not_a_number_never_outranks_one_that_is() -> None:
    broken = column([(1, np.nan), (2, -1.0), (3, np.nan)])
    assert rows(merge_top([broken, column([(3, -np.inf)])], 2)) == [(2, -1.0), (3, -np.inf)]


def test_half_precision_scores_are_merged_as_floats() -> None:
    half = (np.array([1], np.int64), np.array([0.5], np.float16))
    _, scores = merge_top([half], 1)  # type: ignore[list-item]
    assert scores.dtype == np.float32


@given(st.lists(hits, max_size=20))
def test_ranked_is_a_sort_by_score_then_id(answer: list[Hit]) -> None:
    ids, scores = column(answer)
    naive = sorted(range(len(answer)), key=lambda row: (-answer[row][1], answer[row][0], row))
    assert ranked(ids, scores).tolist() == naive
