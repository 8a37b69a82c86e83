"""Values that cannot work are refused before anything is installed, and the message says why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.chart import CHART, HELMS, Object, documents, template, with_helm

_REGION: Object = {"here": "eu", "map": [{"name": "eu", "number": 1, "endpoints": ["a:1"]}]}
_SIGNED: Object = {"tls": {"certManager": {"enabled": True, "issuer": "own"}}}
# All at once, since the schema names everything that is wrong: values, and the last key of each.
_REFUSED: Object = {
    "qurey": {},
    "query": {"replicas": 0, "resources": {"limits": None}, "service": {"port": 0}},
    "ingest": {"replicas": "2", "autoscaling": {"cpuPercent": 101}},
    "runtime": "podman",
    "listen": "127.0.0.1",
    "coarse": {
        "layouts": [{"pool": "Docs_1", "shards": 65, "replicas": 0, "tiers": [256]}],
        "antiAffinity": "some",
    },
    "redis": {"url": "http://redis", "fsync": "no", "userPerRole": "yes"},
    "regions": _REGION | {"here": "EU", "fromCidrs": ["everywhere"]},
    "security": {
        "insecure": "yes",
        "grantsFile": "grants.yaml",
        "tls": {"certManager": {"durationHours": 0}, "crlFile": "/etc/ca.crl"},
    },
}
_NAMED = (
    "qurey", "replicas", "limits", "port", "replicas", "cpuPercent", "runtime", "listen", "pool",
    "shards", "replicas", "tiers", "antiAffinity", "url", "fsync", "userPerRole", "here",
    "fromCidrs", "insecure", "grantsFile", "durationHours", "crlFile",
)  # fmt: skip
_SENSE: list[tuple[Object, str]] = [
    ({"redis": {"bundled": False}}, "redis.url is empty; give the address"),
    ({"redis": {"url": "redis://a:6379"}}, "set redis.bundled to false"),
    ({"redis": {"bundled": False, "url": "redis://me:p@a:1"}}, "has a user or password in it"),
    ({"redis": {"config": {"wait_replicas": 1}}}, "no write would ever be acknowledged"),
    ({"coarse": {"snapshots": {"kind": "url"}}}, "snapshots.url is empty"),
    ({"coarse": {"layouts": [{"pool": "a", "shards": 1, "replicas": 1}] * 2}}, "has a/1 twice"),
    ({"query": {"autoscaling": {"minReplicas": 20}}}, "minReplicas is 20, more than maxReplicas"),
    ({"query": {"keda": {"enabled": True}}}, "no keda.sh/v1alpha1; install KEDA"),
    ({"runtime": "kuberay"}, "no ray.io/v1; install the KubeRay operator"),
    ({"monitoring": {"rules": {"enabled": True}}}, "no monitoring.coreos.com/v1"),
    ({"security": _SIGNED}, "no cert-manager.io/v1; install cert-manager"),
    ({"security": {"clientCertificates": False}}, "nobody could be known"),
    ({"security": {"insecure": True, "grants": [{}]}}, "is true and security names"),
    ({"security": {"grantsFile": "/etc/nestvec-auth/a"}}, "name it in security.filesSecret"),
    ({"regions": _REGION}, "regions need certificates of one CA"),
]  # fmt: skip
_RAY: list[tuple[Object, str]] = [
    ({}, "kind volume needs runtime pods"),
    ({"encoder": {"gpus": 2}}, "a replica in Ray sees one GPU"),
    ({"coarse": {"gpus": 1}}, "coarse.gpus needs runtime pods"),
    ({"redis": {"bundled": False, "url": "redis+cluster://a:1"}}, "use runtime pods with Sentinel"),
    ({"security": {"clientCertificates": False, "tokens": {"a": 1}}}, "call the front ends with"),
]  # fmt: skip


@with_helm
@pytest.mark.parametrize("helm", HELMS)
def test_the_schema_refuses_each_value_that_cannot_be(helm: str) -> None:
    done = template(helm, values=_REFUSED)
    assert done.returncode != 0
    said = done.stderr.partition("values don't meet the specifications of the schema")[2]
    lines = [line.strip() for line in said.splitlines()]
    wrong = [
        one for one in lines if one.startswith("- ") and not one.endswith(": validation failed")
    ]
    assert len(wrong) == len(_NAMED), said
    for name in set(_NAMED):
        # As the end of a path, or as the property that is missing or not known.
        there = [line for line in wrong if re.search(rf"\b{name}\b", line)]
        assert len(there) >= _NAMED.count(name), f"{name}: {said}"


@with_helm
def test_the_schema_refuses_a_cluster_without_workers() -> None:
    done = template("helm4", values={"coarse": {"layouts": []}})
    assert done.returncode != 0
    assert "/coarse/layouts" in done.stderr


@with_helm
@pytest.mark.parametrize(("values", "said"), _SENSE)
def test_what_makes_no_sense_is_refused(values: Object, said: str) -> None:
    """Also what the cluster has no CRD for."""
    done = template("helm4", values=values, crds=())
    assert done.returncode != 0
    assert said in done.stderr


@with_helm
@pytest.mark.parametrize(("values", "said"), _RAY)
def test_what_ray_cannot_do_is_refused(values: Object, said: str) -> None:
    none = {"coarse": {"snapshots": {"kind": "none"}}} if values else {}
    merged = {**none, **values, "runtime": "kuberay"}
    if "coarse" in values:
        merged["coarse"] = none["coarse"] | values["coarse"]
    done = template("helm4", values=merged)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_schema_knows_every_value_and_no_other() -> None:
    (values,) = documents((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(closed(schema, "")) == set(paths(values, schema, ""))


def paths(value: Any, schema: Object, path: str) -> Iterator[str]:
    """Of every key that values.yaml describes, down to those that take anything."""
    if not isinstance(value, dict) or "properties" not in schema:
        return
    for key, one in value.items():
        yield f"{path}.{key}"
        yield from paths(one, schema["properties"].get(key, {}), f"{path}.{key}")


def closed(schema: Object, path: str) -> Iterator[str]:
    """Of every key that the schema knows where it is closed."""
    if "properties" not in schema:
        return
    assert schema["additionalProperties"] is False, path
    for key, one in schema["properties"].items():
        if f"{path}.{key}" != ".global":
            yield f"{path}.{key}"
            yield from closed(one, f"{path}.{key}")
