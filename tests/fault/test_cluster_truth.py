"""The judge of the cluster's answers finds each kind of lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fault.cluster_load import OK, Asked
from tests.fault.cluster_truth import Ranking, Truth

TRUTH = Truth(
    (frozenset({"a", "b", "c"}), frozenset({"x", "y"})),
    {("search", 0): Ranking(("a", "x", "b", "y", "c"), 3)},
)
WHOLE = Asked(0, 0.0, 1.0, "search", 0, OK, "", 2, 2, 5, 5, (), ("a", "x", "b"))
PARTIAL = replace(
    WHOLE,
    shards_answered=1,
    documents_answered=3,
    degradations=(("shard_missing", "shard 1 did not answer: it has left"),),
    ids=("a", "b", "c"),
)
COARSE = replace(WHOLE, degradations=(("rerank_skipped", "no store"),), ids=("y", "x", "a"))


@pytest.mark.parametrize("asked", [WHOLE, PARTIAL, COARSE], ids=["whole", "partial", "coarse"])
def test_an_honest_answer_is_none(asked: Asked) -> None:
    assert TRUTH.lies(asked) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (replace(WHOLE, ids=("x", "a", "b")), "the best are"),
        (replace(WHOLE, ids=("a", "x")), "the best are"),
        (replace(WHOLE, ids=("a", "x", "x")), "x twice"),
        (replace(COARSE, ids=("y", "y", "a")), "y twice"),
        (replace(COARSE, ids=("y", "z", "a")), "z is no document"),
        (replace(PARTIAL, ids=("a", "x", "b")), "x is no document of a shard that answered"),
        (replace(PARTIAL, degradations=()), "coverage (2, 1, 5, 3), and it is (2, 2, 5, 5)"),
        (replace(PARTIAL, documents_answered=2), "coverage (2, 1, 5, 2), and it is (2, 1, 5, 3)"),
        (replace(PARTIAL, documents_total=3), "coverage (2, 1, 3, 3), and it is (2, 1, 5, 3)"),
        (replace(WHOLE, documents_total=6), "coverage (2, 2, 6, 5), and it is (2, 2, 5, 5)"),
    ],
)
def test_a_lie_is_named(asked: Asked, said: str) -> None:
    assert any(said in lie for lie in TRUTH.lies(asked)), TRUTH.lies(asked)
