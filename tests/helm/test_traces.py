"""Values of traces become settings, files and a way out; without an endpoint there is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nestvec.config import Settings
from nestvec_cluster.topology import Topology
from tests.support.chart import Object, documents, of_kind, pods, template, with_helm

pytestmark = with_helm


def settings_in(profile: str) -> list[Settings]:
    maps = of_kind(profile, "ConfigMap").values()
    files = [one["data"]["nestvec.yaml"] for one in maps if "nestvec.yaml" in one["data"]]
    return [Settings.model_validate(yaml.safe_load(file)) for file in files]


def ways_out(policies: dict[str, Object], port: int) -> dict[str, Any]:
    """By policy: to whom that port is open."""
    return {
        name: rule["to"]
        for name, policy in policies.items()
        for rule in policy["spec"].get("egress", [])
        if [one["port"] for one in rule["ports"]] == [port]
    }


def test_every_process_sends_to_the_collector_and_may() -> None:
    found = settings_in("all")
    assert len(found) > 3
    for settings in found:
        traces = settings.telemetry.traces
        assert traces.endpoint == "https://collector.tracing:4317"
        assert (traces.sample, traces.attributes) == (0.01, {"team": "search"})
        assert str(traces.headers_file) == "/etc/nestvec/traces/headers"
        assert traces.tls is not None
        assert str(traces.tls.cert_file) == "/etc/nestvec/traces/tls.crt"
    policies = of_kind("all", "NetworkPolicy")
    roles = ("query", "ingest", "coarse", "encoder", "rerank", "cross")
    assert ways_out(policies, 4317).keys() == {f"nv-nest-{role}" for role in roles}


def test_its_files_are_where_the_settings_say() -> None:
    seen = 0
    for pod in pods("all"):
        sources = [
            source["secret"]
            for volume in pod.spec.get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
            if "secret" in source
        ]
        paths = {item["path"] for one in sources for item in one.get("items", [])}
        if "traces/headers" in paths:
            assert {"traces/ca.crt", "traces/tls.crt", "traces/tls.key"} <= paths
            seen += 1
    assert seen >= 6


def test_without_an_endpoint_there_are_no_settings_and_no_way_out() -> None:
    assert all(one.telemetry.traces.endpoint is None for one in settings_in("default"))
    assert ways_out(of_kind("default", "NetworkPolicy"), 4317) == {}


def test_in_ray_it_is_in_cluster_yaml() -> None:
    traces = {"endpoint": "http://collector.tracing:4444"}
    values: Object = {
        "runtime": "kuberay",
        "coarse": {"snapshots": {"kind": "none"}},
        "telemetry": {"traces": traces},
    }
    objects = [one for one in documents(template("helm4", (), values).stdout) if one]
    files = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
    (cluster,) = [one["cluster.yaml"] for one in files if "cluster.yaml" in one]
    topology = Topology.model_validate(yaml.safe_load(cluster))
    assert topology.telemetry.traces.endpoint == traces["endpoint"]
    policies = {one["metadata"]["name"]: one for one in objects if one["kind"] == "NetworkPolicy"}
    pod = {"matchLabels": {"app.kubernetes.io/name": "opentelemetry-collector"}}
    out = ways_out(policies, 4444)
    assert len(out) == 3
    assert all(to == [{"namespaceSelector": {}, "podSelector": pod}] for to in out.values())


def test_values_that_cannot_be_meant_are_refused() -> None:
    """The schema names everything that is wrong at once."""
    wrong = {"endpoint": "me:secret@c", "sample": 2, "callersPerSecond": -1, "sampel": 1}
    done = template("helm4", (), {"telemetry": {"traces": wrong}})
    assert done.returncode != 0
    for key in ("endpoint", "sample", "callersPerSecond", "sampel"):
        assert key in done.stderr, key


@pytest.mark.parametrize(
    ("given", "said"),
    [("headersSecret", "headers are secrets"), ("tlsSecret", "https:// endpoint")],
)
def test_secrets_need_tls(given: str, said: str) -> None:
    done = template("helm4", (), {"telemetry": {"traces": {"endpoint": "http://c", given: "s"}}})
    assert done.returncode != 0
    assert said in done.stderr
