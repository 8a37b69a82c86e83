"""Prometheus's own tool reads the alert rules, and runs their unit tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml

from nestvec.core.coverage import DegradationKind
from nestvec.telemetry import metrics
from tests.support.chart import ROOT, RULES, Object, known_samples

_NAMES = sorted(one.name for one in RULES.glob("*.yaml") if not one.stem.endswith("_test"))
# CI installs it: there, missing is a failure.
without_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="promtool is not installed: Debian's package `prometheus` has it",
)


def rules_of(name: str) -> list[Object]:
    read = yaml.safe_load((RULES / name).read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


@without_promtool
def test_promtool_accepts_the_rules_and_their_tests() -> None:
    tests = [name.replace(".yaml", "_test.yaml") for name in _NAMES]
    for what in (["check", "rules", *_NAMES], ["test", "rules", *tests]):
        done = subprocess.run(
            ["promtool", *what], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", _NAMES)
def test_each_alert_is_tested_where_it_fires(name: str) -> None:
    tests = yaml.safe_load((RULES / name.replace(".yaml", "_test.yaml")).read_text())["tests"]
    fires = {
        one["alertname"]
        for test in tests
        for one in test["alert_rule_test"]
        if one.get("exp_alerts")
    }
    assert fires == {rule["alert"] for rule in rules_of(name)}


@pytest.mark.parametrize("name", _NAMES)
def test_the_rules_name_metrics_and_labels_that_there_are(name: str) -> None:
    known = known_samples()
    for rule in rules_of(name):
        named = re.findall(r"nestvec_\w+", rule["expr"])
        assert named
        assert set(named) <= known.keys(), rule["alert"]
        labels = {label for metric in named for label in known[metric]} | {"instance"}
        told = " ".join([rule["annotations"]["summary"], rule["annotations"]["description"]])
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= labels, rule["alert"]
        assert set(values_of("cause", rule)) <= set(metrics.LIVE_RECALL_CAUSES), rule["alert"]
        assert set(values_of("kind", rule)) <= {one.value for one in DegradationKind}


def test_every_alert_has_its_section_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    alerts = [rule["alert"] for name in _NAMES for rule in rules_of(name)]
    assert len(set(alerts)) == len(alerts)
    assert sorted(re.findall(r"^### (Nestvec\w+)$", runbook, re.MULTILINE)) == sorted(alerts)


def values_of(label: str, rule: Object) -> list[str]:
    """That an expression asks for."""
    groups = re.findall(rf'{label}=~?"([^"]+)"', rule["expr"])
    return [value for group in groups for value in group.split("|")]
