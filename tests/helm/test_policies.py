"""What holds for every container and pod, whatever the values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.chart import PROFILES, Object, of_kind, pods, rendered, with_helm

pytestmark = [with_helm, pytest.mark.parametrize("profile", PROFILES)]
_ONCE = ("Job/", "Pod/")


def test_every_container_has_limits_and_requests(profile: str) -> None:
    for pod in pods(profile):
        for container in pod.containers:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), pod.owner


def test_every_container_may_do_nothing_but_run(profile: str) -> None:
    for pod in pods(profile):
        for container in pod.containers:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, pod.owner
            assert security["allowPrivilegeEscalation"] is False, pod.owner
            assert security["privileged"] is False, pod.owner
            assert security["capabilities"] == {"drop": ["ALL"]}, pod.owner
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for shared in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            assert not pod.spec.get(shared), pod.owner
        assert not [one for one in pod.spec["volumes"] if "hostPath" in one], pod.owner


def test_every_container_that_stays_is_probed_and_drained(profile: str) -> None:
    for pod in pods(profile):
        if pod.owner.startswith(_ONCE):
            continue
        for container in pod.spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert probe in container, f"{pod.owner}: no {probe}"
            assert "preStop" in container.get("lifecycle", {}) or container["name"] == "ray-head"


def test_processes_of_nestvec_are_asked_by_grpc_and_have_time_to_drain(profile: str) -> None:
    ours = [
        (pod, one)
        for pod in pods(profile)
        for one in pod.spec["containers"]
        if str(one["command"][-1]).startswith("nestvec.")
    ]
    assert len(ours) >= 2
    for pod, container in ours:
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert container["readinessProbe"]["grpc"] == {"port": ports["health"]}
        # preStop, two heartbeats, calls in flight, closing.
        assert pod.spec["terminationGracePeriodSeconds"] >= 5 + 1 + 20 + 10, pod.owner


def test_nobody_speaks_to_the_kubernetes_api(profile: str) -> None:
    accounts = of_kind(profile, "ServiceAccount")
    for pod in pods(profile):
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert pod.spec["serviceAccountName"] in accounts, pod.owner
    assert all(one["automountServiceAccountToken"] is False for one in accounts.values())
    assert not of_kind(profile, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_images_have_a_version(profile: str) -> None:
    for pod in pods(profile):
        for container in pod.containers:
            assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", container["image"])


def test_secrets_come_as_files(profile: str) -> None:
    """Ray's token is the exception: its init containers know no other way."""
    for pod in pods(profile):
        for container in pod.containers:
            secret = [one["name"] for one in container["env"] if "secretKeyRef" in str(one)]
            assert secret in ([], ["RAY_AUTH_TOKEN"]), pod.owner
            assert "password" not in str([*container["command"], *container.get("args", [])])


def test_what_is_mounted_is_there(profile: str) -> None:
    """Or told by the values: a Secret of the operator's."""
    given = {"redis", "redis-tls", "keys", "tester", "collector", "collector-tls"}
    made = {one["spec"]["secretName"] for one in rendered(profile) if one["kind"] == "Certificate"}
    there = {
        "configMap": of_kind(profile, "ConfigMap").keys(),
        "secret": of_kind(profile, "Secret").keys() | made | given,
        "persistentVolumeClaim": of_kind(profile, "PersistentVolumeClaim").keys(),
    }
    for pod in pods(profile):
        volumes = {one["name"] for one in pod.spec["volumes"]}
        owner = of_kind(profile, "StatefulSet").get(pod.owner.partition("/")[2])
        if owner is not None:
            claims = owner["spec"].get("volumeClaimTemplates", [])
            volumes |= {one["metadata"]["name"] for one in claims}
        for container in pod.containers:
            assert {one["name"] for one in container["volumeMounts"]} <= volumes, pod.owner
        for kind, name in _named(pod.spec["volumes"]):
            assert name in there[kind], f"{pod.owner}: no {kind} {name}"


def test_services_budgets_and_scalers_find_what_they_are_for(profile: str) -> None:
    every = pods(profile)
    for name, service in of_kind(profile, "Service").items():
        chosen = [pod for pod in every if _chosen(service["spec"]["selector"], pod.labels)]
        assert chosen, name
        for pod in chosen:
            ports = {one["name"] for one in pod.spec["containers"][0]["ports"]}
            assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports, name
    for budget in of_kind(profile, "PodDisruptionBudget").values():
        assert any(_chosen(budget["spec"]["selector"]["matchLabels"], pod.labels) for pod in every)
    workloads = of_kind(profile, "Deployment").keys()
    for name, scaler in of_kind(profile, "HorizontalPodAutoscaler", "ScaledObject").items():
        assert scaler["spec"]["scaleTargetRef"]["name"] in workloads, name
        # A number of replicas would be set again at every upgrade.
        assert "replicas" not in of_kind(profile, "Deployment")[name]["spec"]


def test_every_workload_has_a_budget_and_is_spread(profile: str) -> None:
    budgets = of_kind(profile, "PodDisruptionBudget").values()
    for pod in pods(profile):
        if pod.owner.startswith(_ONCE):
            continue
        assert pod.spec["topologySpreadConstraints"], pod.owner
        if profile != "open":
            fitting = [
                one
                for one in budgets
                if _chosen(one["spec"]["selector"]["matchLabels"], pod.labels)
            ]
            assert len(fitting) == 1, f"{pod.owner}: {len(fitting)} budgets"


def test_replicas_of_a_shard_keep_apart(profile: str) -> None:
    for name, one in of_kind(profile, "StatefulSet").items():
        if "-coarse-" not in name:
            continue
        terms = one["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
        (kind,) = terms
        (term,) = terms[kind]
        assert kind.startswith("required" if profile == "all" else "preferred")
        term = term.get("podAffinityTerm", term)
        assert _chosen(
            term["labelSelector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"]
        )
        assert one["spec"]["template"]["metadata"]["labels"]["nestvec/shard"] in name


def _chosen(selector: Object, labels: Any) -> bool:
    """pod-index is given by Kubernetes."""
    wanted = {key: value for key, value in selector.items() if "pod-index" not in key}
    return wanted.items() <= dict(labels).items()


def _named(volumes: list[Object]) -> list[tuple[str, str]]:
    found = []
    for volume in volumes:
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            for kind in ("configMap", "secret", "persistentVolumeClaim"):
                if kind in source:
                    told = source[kind]
                    found.append(
                        (kind, told.get("name") or told.get("secretName") or told["claimName"])
                    )
    return found
