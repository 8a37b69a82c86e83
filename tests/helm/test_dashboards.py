"""Dashboards show metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.chart import CHART, known_samples
from tools import dashboards

_NAMES = sorted(dashboards.files())
# Of the target, not of the metric.
_OF_TARGETS = {"namespace", "job", "pod", "instance"}


def test_they_are_as_their_tool_makes_them() -> None:
    there = {one.name: one.read_text() for one in (CHART / "dashboards").glob("*.json")}
    assert there == dashboards.files()


@pytest.mark.parametrize("name", _NAMES)
def test_they_name_metrics_and_labels_that_there_are(name: str) -> None:
    known = known_samples()
    for panel in json.loads((CHART / "dashboards" / name).read_text())["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            query = target["expr"]
            metrics = re.findall(r"\b(nestvec_\w+)\{", query)
            assert metrics, panel["title"]
            assert set(metrics) <= known.keys(), panel["title"]
            labels = {label for one in metrics for label in known[one]} | _OF_TARGETS
            told = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            grouped = [
                label.strip()
                for by in re.findall(r"by \(([^)]*)\)", query)
                for label in by.split(",")
            ]
            assert set(told) | set(grouped) <= labels, panel["title"]
            assert set(told) <= set(grouped), panel["title"]
            assert query.count("(") == query.count(")"), panel["title"]


def test_every_metric_of_a_search_is_shown() -> None:
    shown = "".join(dashboards.files().values())
    # Counted for tools and alerts; the figures drawn from them are shown.
    behind = {"nestvec_live_recall_queries", "nestvec_live_recall_wanted_documents",
              "nestvec_live_recall_missed_documents", "nestvec_live_recall_passed_over",
              "nestvec_live_recall_high_ratio", "nestvec_live_recall_lost_low_ratio",
              "nestvec_live_recall_measured_timestamp_seconds"}  # fmt: skip
    metrics = {re.sub(r"_(total|sum|count|bucket)$", "", one) for one in known_samples()}
    assert {one for one in metrics - behind if one not in shown} == set()
