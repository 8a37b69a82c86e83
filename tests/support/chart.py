"""The chart as helm renders it, once for each profile and helm."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.telemetry import metrics

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "nestvec"
RULES = CHART / "rules"
OLDEST, NEWEST = "1.32", "1.37"
HELMS = ("helm3", "helm4")
# .ci/run has tools/helm_binaries.py put them there.
_FOLDER = Path(os.environ.get("NESTVEC_HELM", ROOT / "build" / "helm"))
_CRDS = ("ray.io/v1", "keda.sh/v1alpha1", "monitoring.coreos.com/v1", "cert-manager.io/v1")
Object = dict[str, Any]

# CI installs it: there, missing is a failure.
with_helm = pytest.mark.skipif(
    not all((_FOLDER / one).exists() for one in HELMS) and "CI" not in os.environ,
    reason="no helm3 and helm4 in build/helm: python tools/helm_binaries.py build/helm",
)

# Everything that the profiles leave out, at once.
_ALL: Object = {
    "nameOverride": "nest",
    "rerank": {"enabled": True, "keda": {"enabled": True}},
    "query": {"keda": {"enabled": True}, "extraEnv": [{"name": "A", "value": "b"}]},
    "ingest": {"autoscaling": {"enabled": True}},
    "crossEncoder": {"enabled": True, "model": {"model": "cross"}, "gpus": 1},
    "config": {
        "classes": {"search": {"coarse_dim": 256, "k": 10, "candidates": 1000, "cross_encode": 20}}
    },
    "encoder": {
        "in": "cluster",
        "model": {"model": "nomic-embed-text-v1.5"},
        "gpus": 1,
        "autoscaling": {"enabled": True},
    },
    "coarse": {
        "layouts": [
            {"pool": "default", "shards": 2, "replicas": 2},
            {"pool": "default", "shards": 3, "replicas": 1},
            {"pool": "docs", "shards": 1, "replicas": 2},
        ],
        "antiAffinity": "hard",
        "snapshots": {"kind": "shared"},
    },
    "redis": {
        "bundled": False,
        "url": "rediss+sentinel://a.example:26379,b.example:26379/main",
        "passwordSecret": "redis",
        "sentinelUser": "watcher",
        "tlsSecret": "redis-tls",
        "tlsClientCertificate": True,
        "cidrs": ["10.1.0.0/16"],
    },
    "security": {
        "clientCertificates": False,
        "tokens": {"key_files": ["/etc/nestvec-auth/keys.json"], "audience": "nestvec"},
        "filesSecret": "keys",
        "grants": [{"subjects": ["me"], "verbs": ["search"], "collections": ["docs"]}],
        "tls": {"certManager": {"enabled": True, "issuer": "own"}},
    },
    "tests": {"tokenSecret": "tester"},
    "telemetry": {
        "traces": {
            "endpoint": "https://collector.tracing:4317",
            "attributes": {"team": "search"},
            "headersSecret": "collector",
            "tlsSecret": "collector-tls",
            "tlsClientCertificate": True,
        }
    },
    "priorityClass": {"create": True},
    "monitoring": {
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
# One process of a kind, nothing asked: as small as it gets.
_OPEN: Object = {
    "security": {"insecure": True},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "query": {"autoscaling": {"enabled": False}},
    "coarse": {"snapshots": {"kind": "none"}},
    "tests": {"enabled": False},
}
# Name -> files of values, values.
PROFILES: Mapping[str, tuple[Sequence[str], Object]] = {
    "default": ((), {}),
    "cpu": (("values-cpu.yaml",), {}),
    "gpu": (("values-gpu.yaml",), {}),
    "multiregion": (("values-multiregion.yaml",), {}),
    "all": ((), _ALL),
    "open": ((), _OPEN),
}

# Rendered for a test of its own: Ray, with models in the front ends.
_OTHERS: Mapping[str, tuple[Sequence[str], Object]] = {
    "ray": (
        (),
        {
            "runtime": "kuberay",
            "coarse": {"snapshots": {"kind": "none"}},
        },
    )
}


def run_helm(
    helm: str, what: Sequence[str], files: Sequence[str] = (), values: Object | None = None
) -> subprocess.CompletedProcess[str]:
    """With the chart; `values` outrank those of its files."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "values.yaml"
        given.write_text(yaml.safe_dump(values or {}))
        options = [option for name in files for option in ("-f", str(CHART / name))]
        return subprocess.run(
            [str(_FOLDER / helm), *what, str(CHART), *options, "-f", str(given)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": folder},
        )


def template(
    helm: str, files: Sequence[str] = (), values: Object | None = None, crds: Sequence[str] = _CRDS
) -> subprocess.CompletedProcess[str]:
    """As for a cluster that has `crds`."""
    apis = [option for one in crds for option in ("--api-versions", one)]
    return run_helm(
        helm,
        ["template", "nv", "--namespace", "search", "--kube-version", f"{OLDEST}.0", *apis],
        files,
        values,
    )


@functools.cache
def rendered(profile: str, helm: str = "helm4") -> tuple[Object, ...]:
    """All objects."""
    files, values = {**PROFILES, **_OTHERS}[profile]
    done = template(helm, files, values)
    assert done.returncode == 0, done.stderr
    return tuple(one for one in documents(done.stdout) if one)


def documents(text: str) -> list[Any]:
    """What YAML says, read by the fast reader where there is one."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def of_kind(profile: str, *kinds: str) -> dict[str, Object]:
    """Name -> object."""
    return {one["metadata"]["name"]: one for one in rendered(profile) if one["kind"] in kinds}


@dataclass(frozen=True, slots=True)
class Pod:
    """What some object makes pods from. owner: KIND/NAME."""

    owner: str
    labels: Mapping[str, str]
    spec: Object
    annotations: Mapping[str, str]

    @property
    def containers(self) -> list[Object]:
        """Those that start it too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(profile: str) -> list[Pod]:
    """Of every workload, Ray's too."""
    found = []
    for one in rendered(profile):
        owner = f"{one['kind']}/{one['metadata']['name']}"
        for place, made in _templates(one):
            told = made.get("metadata", {})
            found.append(
                Pod(
                    f"{owner}{place}",
                    told.get("labels", {}),
                    made["spec"],
                    told.get("annotations", {}),
                )
            )
    return found


def _templates(one: Object) -> Iterator[tuple[str, Object]]:
    if one["kind"] == "Pod":
        yield "", one
    elif one["kind"] == "RayCluster":
        yield "/head", one["spec"]["headGroupSpec"]["template"]
        for group in one["spec"]["workerGroupSpecs"]:
            yield f"/{group['groupName']}", group["template"]
    elif "template" in one.get("spec", {}):
        yield "", one["spec"]["template"]


@functools.cache
def known_samples() -> Mapping[str, tuple[str, ...]]:
    """Names that Prometheus sees of our metrics -> their labels."""
    found: dict[str, tuple[str, ...]] = {}
    for one in vars(metrics).values():
        name, labels = getattr(one, "_name", None), getattr(one, "_labelnames", None)
        if name is None or labels is None:
            continue
        kind = getattr(one, "_type", "")
        if kind == "counter":
            found[f"{name}_total"] = tuple(labels)
        elif kind == "histogram":
            found |= {f"{name}_sum": tuple(labels), f"{name}_count": tuple(labels)}
            found[f"{name}_bucket"] = (*labels, "le")
        else:
            found[name] = tuple(labels)
    return found
