"""What the gate makes of figures: each budget at its edge, and cards that cannot be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nestvec.core.errors import ConfigError
from nestvec.core.space import Space
from nestvec.quality.conformance import Finding, Outcome
from nestvec.quality.release import (
    Measured,
    PreviousBudget,
    ReleaseBudget,
    TierBudget,
    judge_release,
    read_card,
    read_release_budget,
)

SPACE = Space(model="static", dim=768, weights="abc", trained_dims=(128, 256, 768))
BUDGET = ReleaseBudget(
    tiers={
        128: TierBudget(recall=0.95, ndcg_lost=0.02),
        256: TierBudget(recall=0.99, ndcg_lost=0.002),
    },
    classes={"autocomplete": 128, "search": 256},
)


def a_tier(ndcg: float, recall: float, nbytes: float) -> dict[str, Any]:
    reranked = {"ndcg_at_10": ndcg, "recall_at_10_vs_exact": recall, "candidates": 50}
    return {"reranked": reranked, "bytes_per_vector": nbytes}


def measured(**changed: Any) -> Measured:
    evaluation = {
        "golden": "small",
        "documents": 240,
        "queries": 24,
        "full": {"ndcg_at_10": 0.5},
        "tiers": {"128": a_tier(0.48, 0.95, 280), "256": a_tier(0.498, 0.99, 406)},
        "store_bytes_per_vector": 1600.0,
    }
    named: dict[str, Any] = {
        "space": SPACE,
        "evaluation": evaluation,
        "ratios": {"autocomplete": 2.0, "search": 5.0},
        "classes": {"autocomplete": 128, "search": 256},
        "probe": {"mrl": True, "tiers": [128, 256, 768], "summary": "Matryoshka"},
        "version": "1.0",
    }
    return Measured(**named | changed)


def rows(
    of: Measured, budget: ReleaseBudget = BUDGET, previous: dict[str, Any] | None = None
) -> dict[str, Finding]:
    return {one.check: one for one in judge_release(of, budget, previous)}


def failed(found: dict[str, Finding]) -> list[str]:
    return [name for name, one in found.items() if one.outcome is Outcome.FAILED]


def test_figures_at_the_edge_of_the_budget_pass_and_beyond_it_fail() -> None:
    found = rows(measured())
    assert failed(found) == []
    assert found["against previous"].outcome is Outcome.SKIPPED
    assert "recall@10 of exact 0.9500" in found["recall of tier 128"].detail
    for key, value in (("ndcg_at_10", 0.4799), ("recall_at_10_vs_exact", 0.9499)):
        worse = copy.deepcopy(dict(measured().evaluation))
        worse["tiers"]["128"]["reranked"][key] = value
        assert failed(rows(measured(evaluation=worse))) == ["recall of tier 128"]


def test_a_model_that_is_not_matryoshka_fails() -> None:
    probe = {"mrl": False, "tiers": [768], "summary": "not Matryoshka"}
    found = rows(measured(probe=probe))
    assert failed(found) == ["MRL confirmed", "tiers listed"]
    assert "128 is served and the probe does not confirm it" in found["tiers listed"].detail


def test_every_served_tier_must_be_in_the_budget_and_the_other_way_round() -> None:
    budget = BUDGET.model_copy(update={"tiers": {256: BUDGET.tiers[256], 64: BUDGET.tiers[128]}})
    found = rows(measured(), budget)
    assert failed(found) == ["tiers listed", "recall of tier 128"]
    assert "64 is in the budget file and not served" in found["tiers listed"].detail


@pytest.mark.parametrize(
    ("classes", "broken"),
    [
        ({"autocomplete": 256, "search": 256}, "least tier of autocomplete"),
        ({"autocomplete": 128}, "least tier of search"),
        ({"autocomplete": 128, "search": 256, "deep": 768}, "least tier of deep"),
    ],
)
def test_every_class_has_a_least_tier(classes: dict[str, int], broken: str) -> None:
    assert failed(rows(measured(), BUDGET.model_copy(update={"classes": classes}))) == [broken]


def test_the_same_card_passes_against_itself() -> None:
    found = rows(measured(), previous=measured().card())
    assert failed(found) == []
    assert "the same space" in found["measured for this version"].detail


@pytest.mark.parametrize(
    ("path", "value", "broken"),
    [
        (("tiers", "256", "ndcg_at_10"), 0.51, "tier 256 against previous"),
        (("tiers", "256", "recall_at_10_vs_exact"), 0.999, "tier 256 against previous"),
        (("tiers", "256", "bytes_per_vector"), 300, "bytes of tier 256"),
        (("store_bytes_per_vector",), 800, "stored bytes"),
        (("classes", "search", "echoes"), 3.9, "latency of search"),
    ],
)
def test_what_is_worse_than_the_previous_card_by_more_than_allowed_fails(
    path: tuple[str, ...], value: float, broken: str
) -> None:
    previous = copy.deepcopy(measured().card())
    *sections, key = path
    section = previous
    for name in sections:
        section = section[name]
    section[key] = value
    assert failed(rows(measured(), previous=previous)) == [broken]
    loose = PreviousBudget(ndcg_lost=1, recall_lost=1, latency_ratio=100, bytes_ratio=100)
    budget = BUDGET.model_copy(update={"against_previous": loose})
    assert failed(rows(measured(), budget, previous)) == []


def test_a_tier_that_was_served_before_must_still_be() -> None:
    previous = copy.deepcopy(measured().card())
    previous["tiers"]["64"] = previous["tiers"]["128"]
    assert failed(rows(measured(), previous=previous)) == ["tier 64 against previous"]


def test_other_weights_need_another_name() -> None:
    previous = copy.deepcopy(measured().card())
    previous["space"]["fingerprint"] = "0123456789abcdef"
    found = rows(measured(), previous=previous)
    assert failed(found) == ["measured for this version"]
    assert "give it a new version" in found["measured for this version"].detail
    previous["space"]["model"] = "static v0"
    assert failed(rows(measured(), previous=previous)) == []


def test_cards_of_other_documents_cannot_be_compared() -> None:
    previous = measured().card() | {"golden": "other"}
    with pytest.raises(ConfigError, match="golden 'other', this run with 'small'"):
        rows(measured(), previous=previous)


def test_a_card_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(json.dumps(measured().card()), encoding="utf-8")
    assert failed(rows(measured(), previous=read_card(file))) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"release_card": 99}'])
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "card.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no release card of format 1"):
        read_card(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "tiers: Field required"),
        ("tiers: {}\nclasses: {search: 256}", "tiers: Dictionary should have at least 1 item"),
        ("tiers: {256: {recall: 2, ndcg_lost: 0}}\nclasses: {search: 1}", "tiers.256.recall"),
        ("tiers: {256: {recal: 1, ndcg_lost: 0}}\nclasses: {search: 1}", "tiers.256.recal"),
        ("tiers: [", "is not YAML"),
    ],
)
def test_a_bad_budget_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_release_budget(file)
