"""A tier and a code serve under a budget only where that very pair was measured within it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode, is_quantised
from nestvec.core.errors import InvalidRequest
from nestvec.core.measured import Coded, Evidence, LossBudget, Measurement

ONE = Measurement(
    fingerprint="a" * 16,
    store_dim=64,
    dim=16,
    coarse_code=CoarseCode.FOUR_BIT,
    store_dtype=VectorDtype.FP16,
    judged=True,
    source="golden",
    documents=5000,
    queries=300,
    candidates=50,
    ndcg_lost=0.001,
    recall_lost=0.01,
)
BUDGET = LossBudget(0.002, 0.02)
CODED = Coded("a" * 16, 64, CoarseCode.FOUR_BIT, VectorDtype.FP16)


def objection(coded: Coded, *measured: Measurement, dim: int = 16) -> str:
    found = coded.objections([dim], Evidence(BUDGET, measured))
    return found[0].message if found else ""


def test_what_was_measured_within_the_budget_may_serve() -> None:
    assert objection(CODED, ONE) == ""


def test_nothing_serves_under_a_budget_before_it_was_measured() -> None:
    assert "tier 16 as 4bit over fp16 was not measured" in objection(CODED)
    assert "nestvec ablate" in objection(CODED)


@pytest.mark.parametrize(
    "other",
    [
        {"dim": 32},
        {"store_dim": 32},
        {"fingerprint": "b" * 16},
        {"coarse_code": CoarseCode.PQ},
        {"store_dtype": VectorDtype.INT8},
    ],
)
def test_a_measurement_of_anything_else_does_not_count(other: dict[str, object]) -> None:
    assert "was not measured" in objection(CODED, replace(ONE, **other))  # type: ignore[arg-type]


def test_a_measurement_of_another_space_names_both() -> None:
    said = objection(CODED, replace(ONE, fingerprint="b" * 16))
    assert "b" * 16 in said
    assert "a" * 16 in said


@pytest.mark.parametrize(
    ("loss", "named"),
    [({"ndcg_lost": 0.0021}, "0.0021 of nDCG@10"), ({"recall_lost": 0.0201}, "0.0201 of exact")],
)
def test_more_than_the_budget_is_refused_with_the_figures(
    loss: dict[str, float], named: str
) -> None:
    said = objection(CODED, replace(ONE, **loss))  # type: ignore[arg-type]
    assert named in said
    assert "golden (5,000 documents, 300 queries)" in said
    assert objection(CODED, replace(ONE, ndcg_lost=0.002, recall_lost=0.02)) == ""


def test_the_worst_of_several_golden_sets_decides() -> None:
    worse = replace(ONE, source="harder", ndcg_lost=0.01)
    assert "harder" in objection(CODED, ONE, worse)


def test_a_code_on_top_of_a_cut_needs_judgments() -> None:
    by_itself = replace(ONE, judged=False)
    assert "without judgments" in objection(CODED, by_itself)
    assert objection(CODED, by_itself, ONE) == ""
    # Either alone may be measured by exact search.
    uncut = replace(by_itself, dim=64)
    assert objection(CODED, uncut, dim=64) == ""
    uncoded = replace(by_itself, coarse_code=CoarseCode.FP16)
    assert objection(replace(CODED, coarse_code=CoarseCode.FP16), uncoded) == ""
    stored = replace(uncoded, store_dtype=VectorDtype.INT8)
    coded = replace(CODED, coarse_code=CoarseCode.FP16, store_dtype=VectorDtype.INT8)
    assert "without judgments" in objection(coded, stored)


def test_the_servers_own_choice_is_held_to_the_code_that_it_comes_to() -> None:
    auto = replace(CODED, coarse_code=CoarseCode.AUTO)
    assert objection(auto, ONE) == ""
    assert "tier 33 as int8" in objection(auto, ONE, dim=33)


def test_without_a_budget_only_the_servers_choice_and_exact_scans_serve() -> None:
    refused = {
        code
        for code in CoarseCode
        if replace(CODED, coarse_code=code).objections([16], Evidence(None, (ONE,)))
    }
    assert refused == set(CoarseCode) - {CoarseCode.AUTO, CoarseCode.FP32}


def test_either_code_makes_it_quantised() -> None:
    assert is_quantised(CoarseCode.FP32, VectorDtype.INT8)
    assert is_quantised(CoarseCode.INT8, VectorDtype.FP32)
    assert not is_quantised(CoarseCode.FP16, VectorDtype.FP16)


def test_more_evidence_keeps_the_budget_and_repeats_nothing() -> None:
    before = Evidence(BUDGET, (ONE,), "first words")
    other = replace(ONE, dim=32)
    assert before.with_more(Evidence(None, (ONE, other))) == Evidence(
        BUDGET, (ONE, other), "first words"
    )
    assert before.with_more(Evidence(override="newer")).override == "newer"


losses = st.floats(-1, 1, allow_nan=False)


@given(losses, losses, st.sampled_from(list(CoarseCode)[1:]), st.sampled_from(VectorDtype))
def test_evidence_survives_json(
    ndcg: float, recall: float, code: CoarseCode, dtype: VectorDtype
) -> None:
    one = replace(ONE, ndcg_lost=ndcg, recall_lost=recall, coarse_code=code, store_dtype=dtype)
    evidence = Evidence(BUDGET, (one,), "words")
    assert Evidence.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence
    assert Evidence.from_dict({}) == Evidence()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ndcg_lost": math.nan}, "measured.ndcg_lost"),
        ({"recall_lost": 2.0}, "measured.recall_lost"),
        ({"queries": 0}, "measured.queries"),
        ({"coarse_code": "auto"}, "measured.coarse_code"),
        ({"coarse_code": "5bit"}, "5bit"),
        ({"dim": "many"}, "many"),
    ],
)
def test_a_measurement_that_cannot_be_one_is_refused(
    changed: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        Measurement.from_dict(ONE.to_dict() | changed)


def test_a_measurement_without_a_figure_names_it() -> None:
    data = ONE.to_dict()
    del data["judged"]
    with pytest.raises(InvalidRequest, match="has no judged"):
        Measurement.from_dict(data)


def test_what_a_record_holds_is_bounded() -> None:
    with pytest.raises(InvalidRequest, match="1,001 of them"):
        Evidence(BUDGET, (ONE,) * 1001)
    with pytest.raises(InvalidRequest, match="1,001 characters"):
        Evidence(BUDGET, (), "x" * 1001)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_a_budget_is_a_share(wrong: float) -> None:
    with pytest.raises(InvalidRequest, match=r"budget\.ndcg"):
        LossBudget(wrong, 0.1)
    with pytest.raises(InvalidRequest, match=r"budget\.recall"):
        LossBudget(0.1, wrong)
