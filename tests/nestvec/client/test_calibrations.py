"""Calibrations, recalls that are asked for, and lists of ids: through either client."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.calibration import ClassCalibration
from nestvec.core.errors import InvalidRequest, NotCalibrated, NotFound, SpaceMismatch
from nestvec.core.held import held_in
from nestvec_cluster.calibrating import calibration_of
from tests.support.calibrations import a_point

TEXTS = [f"passage number {number} of many" for number in range(40)]


@pytest.fixture
def filled(client: NestvecClient, collection_name: str) -> str:
    """Forty documents, and a calibration of one plan."""
    client.create_collection(collection_name, tiers=(64,))
    documents = [IngestDocument(f"d{number}", text) for number, text in enumerate(TEXTS)]
    assert client.index(collection_name, documents).indexed == len(TEXTS)
    return collection_name


def calibrate(client: NestvecClient, name: str) -> None:
    described = client.describe(name)
    points = (a_point(coarse_dim=64, candidates=20, bound_z=2.5, p95_ms=5.0),)
    measured = [ClassCalibration("search", 10, points)]
    client.set_calibration(name, calibration_of(described, "a test", 100, measured))


def test_a_recall_is_asked_for_and_the_answer_says_by_which_plan_it_came(
    client: NestvecClient, filled: str
) -> None:
    calibrate(client, filled)
    result = client.search(filled, "passage number 7", target_recall=0.95)
    assert result.plan is not None
    assert (result.plan.coarse_dim, result.plan.candidates, result.plan.bound_z) == (64, 20, 2.5)
    assert (result.plan.target_recall, result.plan.measured_recall) == (0.95, 0.96)
    assert (result.plan.recall_low, result.plan.recall_high) == (0.955, 0.965)
    assert result.plan.confidence == 0.95
    assert result.plan.reaches_target
    assert len(result.hits) == 10
    several = client.search_batch(filled, TEXTS[:3], target_recall=0.95)
    assert [one.plan for one in several] == [result.plan] * 3
    assert client.search(filled, "passage number 7").plan is None
    narrow = client.search(filled, "passage number 7", bound_z=1.0, candidates=20)
    assert narrow.failure_probability > result.failure_probability


def test_what_cannot_be_asked_for_is_named(client: NestvecClient, filled: str) -> None:
    with pytest.raises(NotCalibrated, match="it has no calibration"):
        client.search(filled, "passage", target_recall=0.5)
    calibrate(client, filled)
    with pytest.raises(NotCalibrated, match=r"the best reaches 0\.95"):
        client.search(filled, "passage", target_recall=0.96)
    with pytest.raises(InvalidRequest, match=r"not together with options\.candidates"):
        client.search(filled, "passage", target_recall=0.5, candidates=20)


def test_a_calibration_is_set_told_and_dropped(client: NestvecClient, filled: str) -> None:
    assert client.describe(filled).calibration is None
    calibrate(client, filled)
    described = client.describe(filled)
    own = described.calibration
    assert own is not None
    assert (own.source, own.documents) == ("a test", len(TEXTS))
    assert dict(own.kinds) == held_in(described.tier_status).kinds
    assert own.created_ms > 0
    with pytest.raises(SpaceMismatch):
        client.set_calibration(filled, replace(own, fingerprint="0" * 16))
    with pytest.raises(NotFound):
        client.set_calibration("nowhere", own)
    assert client.drop_calibration(filled)
    assert not client.drop_calibration(filled)
    assert client.describe(filled).calibration is None


def test_all_ids_are_listed_each_once(client: NestvecClient, filled: str) -> None:
    client.delete(filled, ["d3", "d4"])
    expected = {f"d{number}" for number in range(len(TEXTS))} - {"d3", "d4"}
    listed = list(client.ids(filled))
    assert sorted(listed) == sorted(expected)
    with pytest.raises(NotFound):
        list(client.ids("nowhere"))
