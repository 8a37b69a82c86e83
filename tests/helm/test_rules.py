"""Prometheus's own tool reads the alert rules, and runs their unit tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from nestvec.telemetry import metrics

RULES = Path(__file__).resolve().parents[2] / "helm" / "nestvec" / "rules"
# CI installs it: there, missing is a failure.
without_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="promtool is not installed: Debian's package `prometheus` has it",
)


@without_promtool
@pytest.mark.parametrize(
    "what", [("check", "rules", "recall.yaml"), ("test", "rules", "recall_test.yaml")]
)
def test_promtool_accepts_the_rules_and_their_tests(what: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *what], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_name_metrics_and_labels_that_there_are() -> None:
    rules = yaml.safe_load((RULES / "recall.yaml").read_text(encoding="utf-8"))
    known = {
        sample: one._labelnames
        for one in vars(metrics).values()
        if hasattr(one, "_labelnames")
        for sample in (one._name, f"{one._name}_total")
    }
    for rule in rules["groups"][0]["rules"]:
        named = re.findall(r"nestvec_\w+", rule["expr"])
        assert named
        assert set(named) <= known.keys(), rule["alert"]
        labels = {label for name in named for label in known[name]} | {"instance"}
        told = " ".join([rule["annotations"]["summary"], rule["annotations"]["description"]])
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= labels, rule["alert"]
        causes = [
            cause
            for group in re.findall(r'cause=~"([^"]+)"', rule["expr"])
            for cause in group.split("|")
        ]
        assert set(causes) <= set(metrics.LIVE_RECALL_CAUSES), rule["alert"]
