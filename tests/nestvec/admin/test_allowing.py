"""Budgets are held where collections are made and tiers are added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from nestvec.admin import allowing
from nestvec.admin.app import CollectionWish
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import AlreadyExists, InvalidRequest
from nestvec.core.measured import Evidence, LossBudget, Measurement
from nestvec.core.ports import VectorStore
from tests.support.desk import Desk
from tests.support.rooms import SPACE

BUDGET = LossBudget(0.002, 0.02)


def measured(dim: int, ndcg_lost: float = 0.001) -> Measurement:
    return Measurement(
        fingerprint=SPACE.fingerprint,
        store_dim=64,
        dim=dim,
        coarse_code=CoarseCode.RABITQ,
        store_dtype=VectorDtype.FP16,
        judged=True,
        source="golden",
        documents=5000,
        queries=300,
        candidates=50,
        ndcg_lost=ndcg_lost,
        recall_lost=0.01,
    )


def wish(evidence: Evidence, tiers: tuple[int, ...] = (16,), **named: Any) -> CollectionWish:
    return CollectionWish("docs", tiers, coarse_code=CoarseCode.RABITQ, evidence=evidence, **named)


async def test_a_code_serves_once_it_was_measured_and_the_record_says_why(
    kept: VectorStore,
) -> None:
    desk = Desk.over(kept)
    for evidence in (Evidence(), Evidence(BUDGET), Evidence(BUDGET, (measured(16, 0.01),))):
        with pytest.raises(InvalidRequest):
            await desk.admin.create(wish(evidence), exist_ok=False)
        assert await kept.collections() == []
    good = Evidence(BUDGET, (measured(16),))
    docs, _ = await desk.admin.create(wish(good), exist_ok=False)
    assert (docs.coarse_code, docs.evidence) == (CoarseCode.RABITQ, good)
    assert await kept.collections() == [docs]


async def test_one_tier_that_may_not_serve_refuses_the_collection(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    with pytest.raises(InvalidRequest, match="tier 32 as rabitq over fp16 was not measured"):
        await desk.admin.create(wish(Evidence(BUDGET, (measured(16),)), (16, 32)), exist_ok=False)


async def test_words_allow_it_and_are_kept_and_logged(
    kept: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the tests before have set up to be logged.
    logged = CapturingLogger()
    monkeypatch.setattr(allowing, "_log", logged)
    desk = Desk.over(kept)
    for blank in ("", "  "):
        with pytest.raises(InvalidRequest):
            await desk.admin.create(wish(Evidence(BUDGET, (), blank)), exist_ok=False)
    evidence = Evidence(BUDGET, (), "a trial, until Friday")
    docs, _ = await desk.admin.create(wish(evidence), exist_ok=False)
    assert docs.evidence.override == "a trial, until Friday"
    (call,) = logged.calls
    assert (call.method_name, call.args) == ("warning", ("budget.overridden",))
    assert call.kwargs["collection"] == "docs"
    assert call.kwargs["override"] == "a trial, until Friday"
    assert "was not measured" in call.kwargs["objection"]


async def test_a_tier_is_added_by_what_is_known_of_it(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    await desk.admin.create(wish(Evidence(BUDGET, (measured(16),), "")), exist_ok=False)
    with pytest.raises(InvalidRequest, match=r"tier 32 .* was not measured"):
        await desk.admin.add_tier("docs", 32)
    with pytest.raises(InvalidRequest, match=r"loses 0\.0500 of nDCG@10"):
        await desk.admin.add_tier("docs", 32, Evidence(None, (measured(32, 0.05),)))
    assert (await desk.catalogue.get("docs")).tiers == (16,)
    after, added = await desk.admin.add_tier("docs", 32, Evidence(None, (measured(32),)))
    assert added
    assert after.evidence == Evidence(BUDGET, (measured(16), measured(32)))


async def test_words_for_one_tier_do_not_allow_the_next(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    await desk.admin.create(wish(Evidence(BUDGET, (), "a trial")), exist_ok=False)
    with pytest.raises(InvalidRequest, match="was not measured"):
        await desk.admin.add_tier("docs", 32)
    after, _ = await desk.admin.add_tier("docs", 32, Evidence(override="this one too"))
    assert after.tiers == (16, 32)
    assert after.evidence.override == "this one too"


async def test_a_budget_is_for_life(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    good = Evidence(BUDGET, (measured(16), measured(32)))
    await desk.admin.create(wish(good), exist_ok=False)
    with pytest.raises(InvalidRequest, match="set when it is created"):
        await desk.admin.add_tier("docs", 32, Evidence(LossBudget(1.0, 1.0)))
    _, created = await desk.admin.create(wish(good), exist_ok=True)
    assert not created
    looser = replace(good, budget=LossBudget(0.5, 0.5))
    with pytest.raises(AlreadyExists, match="budget is"):
        await desk.admin.create(wish(looser), exist_ok=True)
