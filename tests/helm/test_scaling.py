"""KEDA scales each role by a queue that there is, in a query that Prometheus can read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.test_rules import without_promtool
from tests.support.chart import Object, documents, known_samples, template, with_helm

_SCALED: Object = {"keda": {"enabled": True, "targetQueue": 3}}
_VALUES: Object = {
    "query": _SCALED,
    "ingest": _SCALED,
    "rerank": {"enabled": True} | _SCALED,
    "encoder": {"in": "cluster", "model": {"model": "nomic-embed-text-v1.5"}} | _SCALED,
    "crossEncoder": {"enabled": True, "model": {"model": "cross"}} | _SCALED,
}
_METRIC = {
    "query": "nestvec_search_seconds_sum",
    "ingest": "nestvec_ingest_waiting_messages",
    "rerank": "nestvec_rpc_seconds_sum",
    "encoder": "nestvec_queue_waiting",
    "cross": "nestvec_queue_waiting",
}

pytestmark = with_helm


@pytest.fixture(scope="module")
def triggers() -> dict[str, Object]:
    """Role -> what its ScaledObject asks Prometheus."""
    done = template("helm4", values=_VALUES)
    assert done.returncode == 0, done.stderr
    scaled = [one for one in documents(done.stdout) if one and one["kind"] == "ScaledObject"]
    return {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["triggers"][0]
        for one in scaled
    }


def test_each_role_is_scaled_by_its_own_queue(triggers: dict[str, Object]) -> None:
    assert triggers.keys() == _METRIC.keys()
    for role, trigger in triggers.items():
        asked = trigger["metadata"]
        assert asked["threshold"] == "3"
        assert _METRIC[role] in asked["query"]
        # Of its own pods, and of this release's namespace.
        assert asked["query"].count(f'pod=~"nv-nestvec-{role}-.*"') == asked["query"].count("{")
        assert 'namespace="search"' in asked["query"]


def test_queries_name_metrics_and_labels_that_there_are(triggers: dict[str, Object]) -> None:
    known = known_samples()
    for role, trigger in triggers.items():
        for name, labels in re.findall(r"(nestvec_\w+)\{([^}]*)\}", trigger["metadata"]["query"]):
            assert name in known
            own = set(re.findall(r"(\w+)=", labels)) - {"namespace", "pod"}
            assert own <= set(known[name]), role


def test_queue_names_are_those_that_processes_tell(triggers: dict[str, Object]) -> None:
    for role, section in (("encoder", "encoder"), ("cross", "cross_encoder")):
        asked = re.findall(r'queue=~"([^"]+)"', triggers[role]["metadata"]["query"])
        assert len(asked) == 2
        # As batching/batcher.py calls them: by the section of the settings, and the role of texts.
        told = [f"{section.replace('_', '-')}-{one}" for one in ("query", "document")]
        others = ["coarse-search", "live-recall"]
        for pattern in asked:
            assert [one for one in told + others if re.fullmatch(pattern, one)] == told


@without_promtool
def test_prometheus_can_read_them(triggers: dict[str, Object], tmp_path: Path) -> None:
    rules = [
        {"record": f"queue:{role}", "expr": trigger["metadata"]["query"]}
        for role, trigger in triggers.items()
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queues", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
