from __future__ import annotations

import math

import numpy as np
import pytest

from nestvec.quality.judged import judge


def test_the_measures_are_those_of_the_textbook() -> None:
    rankings = {"a": ["d1", "x", "d2"], "b": ["x", "y"], "c": []}
    judgments = {"a": {"d1": 1, "d2": 1, "d3": 1}, "b": {"d1": 1, "y": 2}, "c": {"d1": 1}}
    values = judge(rankings, judgments)
    ideal_a = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    ideal_b = 2 + 1 / math.log2(3)
    assert values["ndcg_at_10"] == pytest.approx(
        [(1 + 1 / math.log2(4)) / ideal_a, (2 / math.log2(3)) / ideal_b, 0.0]
    )
    assert values["recall_at_10"] == pytest.approx([2 / 3, 1 / 2, 0.0])
    assert values["mrr_at_10"] == pytest.approx([1.0, 1 / 2, 0.0])


def test_the_order_given_is_the_order_judged() -> None:
    """Whatever the ids: trec_eval breaks ties of scores by id."""
    judgments = {"q": {"a": 1}}
    first = judge({"q": ["a", "b", "c"]}, judgments, ("mrr_at_10",))
    last = judge({"q": ["c", "b", "a"]}, judgments, ("mrr_at_10",))
    assert (first["mrr_at_10"][0], last["mrr_at_10"][0]) == pytest.approx((1.0, 1 / 3))


def test_depth_counts() -> None:
    ranking = [f"d{row}" for row in range(100)]
    judgments = {"q": {"d9": 1, "d10": 1, "d99": 1, "d100": 1}}
    values = judge({"q": ranking}, judgments)
    assert values["recall_at_10"][0] == pytest.approx(1 / 4)
    assert values["recall_at_100"][0] == pytest.approx(3 / 4)
    assert values["mrr_at_10"][0] == pytest.approx(1 / 10)
    assert all(one.dtype == np.float64 for one in values.values())
