import numpy as np
import pytest

from nestvec.quality.recall import Ranking, count_lost, estimate_mean, outside, recall_at_k

TRUTH = Ranking(("a", "b", "c", "d"), np.array([0.9, 0.8, 0.7, 0.7], np.float32))


def test_recall_is_the_share_of_the_truths_first_k() -> None:
    assert recall_at_k(["a", "b"], TRUTH, 2) == 1.0
    assert recall_at_k(["b", "x"], TRUTH, 2) == 0.5
    assert recall_at_k([], TRUTH, 2) == 0.0


def test_hits_beyond_k_do_not_count() -> None:
    assert recall_at_k(["x", "y", "a", "b"], TRUTH, 2) == 0.0


def test_a_tie_with_the_last_score_counts_whichever_document_it_is() -> None:
    # d ties with c at the edge of the first three.
    assert recall_at_k(["a", "b", "d"], TRUTH, 3) == pytest.approx(2 / 3)
    assert recall_at_k(["a", "b", "d"], TRUTH, 3, {"d": 0.7}) == 1.0
    assert recall_at_k(["a", "b", "d"], TRUTH, 3, {"d": 0.7 - 2e-6}) == pytest.approx(2 / 3)


def test_two_that_tie_for_one_place_fill_one_place() -> None:
    # Both have the last score: each may stand for a place, and no document for two.
    truth = Ranking(("a", "b"), np.array([0.9, 0.8], np.float32))
    assert recall_at_k(["x", "y"], truth, 2, {"x": 0.8, "y": 0.8}) == 1.0
    assert recall_at_k(["a", "a"], truth, 2) == 0.5


def test_a_small_corpus_is_held_against_what_it_has() -> None:
    assert recall_at_k(["d", "c", "b", "a"], TRUTH, 10) == 1.0
    assert recall_at_k([], Ranking((), np.empty(0, np.float32)), 10) == 1.0


def test_outside_names_the_hits_that_only_a_tie_can_save() -> None:
    assert outside(["a", "d", "d", "x"], TRUTH, 3) == ["d"]
    assert outside(["x", "x", "y"], TRUTH, 3) == ["x", "y"]


def test_count_lost_counts_the_references_documents() -> None:
    assert count_lost(["b", "a"], ["a", "b"]) == 0
    assert count_lost(["a", "x", "y"], ["a", "b", "c"]) == 2


def test_the_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    values = np.random.default_rng(0).choice([0.8, 0.9, 1.0], 100)
    few, many = estimate_mean(list(values[:25])), estimate_mean(list(values))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.mean == pytest.approx(values.mean())
    assert many == estimate_mean(list(values))


def test_the_interval_covers_the_true_mean_about_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        estimate = estimate_mean(list(generator.uniform(size=60)), resamples=300)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 180 <= covered <= 200


def test_an_interval_needs_values_and_says_so() -> None:
    assert estimate_mean([]).count == 0
    certain = estimate_mean([1.0] * 50)
    assert (certain.mean, certain.low, certain.high) == (1.0, 1.0, 1.0)
