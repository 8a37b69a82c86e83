"""What the chart writes into nestvec.yaml and cluster.yaml is what nestvec takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nestvec.adapters.redis_acl import StoreRole
from nestvec.config import Settings, load_settings
from nestvec.core.members import Layout
from nestvec.security.settings import require_guarded
from nestvec_cluster.layouts import parsed_layout
from nestvec_cluster.topology import Topology, load_topology
from tests.support.chart import (
    PROFILES,
    Object,
    documents,
    of_kind,
    pods,
    template,
    with_helm,
)

_NAMES = {"default": "nv-nestvec", "all": "nv-nest"}


@with_helm
@pytest.mark.parametrize("profile", PROFILES)
def test_every_process_can_start_with_its_settings(profile: str, tmp_path: Path) -> None:
    """With what its arguments say beside the file; and it may listen where it is told to."""
    begun = 0
    for pod in pods(profile):
        for container in pod.spec["containers"]:
            if "--config=/etc/nestvec/nestvec.yaml" not in container.get("args", []):
                continue
            settings = settings_of(profile, pod.spec, container, tmp_path)
            require_guarded(
                settings.server.host, "server.host", settings.security, settings.server.insecure
            )
            assert settings.server.insecure is (profile == "open")
            assert (settings.server.port, settings.server.health_port) == (7700, 7701)
            begun += 1
    # Front ends, and with pods coarse workers.
    assert begun >= (2 if profile == "gpu" else 3)


@with_helm
def test_workers_know_their_place(tmp_path: Path) -> None:
    places = set()
    for pod in pods("cpu"):
        for container in pod.spec["containers"]:
            if container["name"] == "coarse":
                settings = settings_of("cpu", pod.spec, container, tmp_path)
                places.add((settings.coarse.pool, settings.coarse.shards, settings.coarse.shard))
                assert settings.coarse.replica == 3
                assert settings.cluster.advertise == "10.1.2.3:7700"
                (assign,) = pod.spec["initContainers"]
                assert assign["args"][-2:] == ["*", "default/2"]
                assert parsed_layout(assign["args"][-1]) == Layout("default", 2)
    assert places == {("default", 2, 0), ("default", 2, 1)}


@with_helm
def test_front_ends_find_models_and_callers(tmp_path: Path) -> None:
    query = load("all", "query", tmp_path)
    assert query.encoder.from_cluster
    assert query.rerank.address == "nv-nest-rerank:7700"
    assert query.cross_encoder.address == "nv-nest-cross:7700"
    assert query.classes["search"].cross_encode == 20
    security = query.security
    assert security.tls is not None
    assert security.tls.client_ca_file is None
    assert security.tokens is not None
    assert [one.subjects for one in security.grants][-1] == ("me",)
    # Processes among each other have certificates all the same, and take nobody else's calls.
    coarse = load("all", "coarse-docs-1-0", tmp_path)
    assert coarse.security.tls is not None
    assert coarse.security.tls.client_ca_file == Path("/etc/nestvec/tls/ca.crt")
    assert [one.verbs for one in coarse.security.grants] == [("internal",)]
    assert load("all", "encoder", tmp_path).encoder.model == "nomic-embed-text-v1.5"
    assert load("all", "cross", tmp_path).cross_encoder.model == "cross"


@with_helm
def test_the_store_is_reached_as_the_values_say(tmp_path: Path) -> None:
    store = load("all", "query", tmp_path).store
    assert store.url == "rediss+sentinel://a.example:26379,b.example:26379/main"
    assert (store.user, store.sentinel_user) == ("nestvec-query", "watcher")
    assert store.tls is not None
    assert store.tls.cert_file == Path("/etc/nestvec/redis-tls/tls.crt")
    assert load("cpu", "ingest", tmp_path).store.wait_replicas == 1


@with_helm
def test_a_region_knows_the_others(tmp_path: Path) -> None:
    settings = load("multiregion", "query", tmp_path)
    assert settings.regions.here == "eu"
    assert settings.region_number == 1
    assert settings.regions.collections["docs"].mode == "partitioned"
    (server, _) = of_kind("multiregion", "Certificate").values()
    assert "eu.regions.nestvec" in server["spec"]["dnsNames"]


@with_helm
def test_ray_is_told_of_workers_and_not_of_front_ends(tmp_path: Path) -> None:
    topology = topology_of("gpu", tmp_path)
    assert (topology.query.count, topology.ingest.count) == (0, 0)
    assert topology.layouts() == {Layout("default", 2): 2}
    assert topology.ray.address == "nv-nestvec-head-svc:6379"
    assert topology.security.tls is not None
    # What one replica takes is what one pod of its group has, and the other group has not.
    groups = {
        one["groupName"]: one
        for one in of_kind("gpu", "RayCluster")["nv-nestvec"]["spec"]["workerGroupSpecs"]
    }
    assert groups["coarse"]["replicas"] == 4
    assert groups["coarse"]["rayStartParams"]["num-cpus"] == f"{topology.coarse.num_cpus:g}"
    assert groups["encoder"]["replicas"] == topology.encoder.replicas.max
    assert (
        groups["encoder"]["rayStartParams"]["num-cpus"] == f"{topology.encoder.num_cpus:g}" == "0"
    )
    assert (
        groups["encoder"]["rayStartParams"]["num-gpus"] == f"{topology.encoder.num_gpus:g}" == "1"
    )
    (container,) = groups["encoder"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].startswith("nestvec-gpu:")


@with_helm
def test_changed_settings_restart_those_whom_they_concern() -> None:
    changed = stamps({"query": {"config": {"limits": {"max_k": 50}}}})
    before = stamps({})
    assert {name for name in before if before[name] != changed[name]} == {"nv-nestvec-query"}
    every = stamps({"config": {"log": {"level": "debug"}}})
    assert {name for name in before if before[name] == every[name]} == {"nv-nestvec-redis"}


@with_helm
@pytest.mark.parametrize("profile", PROFILES)
def test_every_role_has_its_own_user_and_no_password_of_another(
    profile: str, tmp_path: Path
) -> None:
    """What is mounted is the password of the user that the settings name."""
    found = set()
    for pod in pods(profile):
        for container in pod.spec["containers"]:
            if "--config=/etc/nestvec/nestvec.yaml" not in container.get("args", []):
                continue
            store = settings_of(profile, pod.spec, container, tmp_path).store
            keys = passwords_of(pod.spec)
            if store.password_file is None:
                assert not keys
                continue
            (key,) = keys
            assert store.user == f"nestvec-{key}"
            found.add(key)
    assert found <= {str(one) for one in StoreRole}
    assert {"query", "ingest"} <= found or not found


@with_helm
def test_who_is_revoked_and_what_is_granted_may_stand_in_files(tmp_path: Path) -> None:
    folder = "/etc/nestvec-auth"
    security = {
        "filesSecret": "auth",
        "grantsFile": f"{folder}/grants.yaml",
        "tls": {"crlFile": f"{folder}/ca.crl", "deniedFile": f"{folder}/denied"},
    }
    done = template("helm4", values={"security": security})
    assert done.returncode == 0, done.stderr
    found = {}
    for one in documents(done.stdout):
        if one and one["kind"] == "ConfigMap" and "nestvec.yaml" in one["data"]:
            path = tmp_path / "nestvec.yaml"
            path.write_text(one["data"]["nestvec.yaml"])
            found[one["metadata"]["name"].split("-")[2]] = load_settings(path).security
    assert found["query"].grants_file == Path(folder) / "grants.yaml"
    assert found["coarse"].grants_file is None, "only front ends have callers of their own"
    for section in found.values():
        assert section.tls is not None
        assert section.tls.crl_file == Path(folder) / "ca.crl"
        assert section.tls.denied_file == Path(folder) / "denied"
    done = template("helm4", values={"security": {**security, "filesSecret": ""}})
    assert "name it in security.filesSecret" in done.stderr


@with_helm
def test_one_user_may_do_for_all_roles(tmp_path: Path) -> None:
    done = template("helm4", values={"redis": {"userPerRole": False}})
    assert done.returncode == 0, done.stderr
    rendered = [one for one in documents(done.stdout) if one]
    text = next(
        one["data"]["nestvec.yaml"]
        for one in rendered
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "nv-nestvec-query"
    )
    path = tmp_path / "nestvec.yaml"
    path.write_text(text)
    assert load_settings(path).store.user == "nestvec"
    deployments = [one for one in rendered if one["kind"] in ("Deployment", "StatefulSet")]
    keys = {key for one in deployments for key in passwords_of(one["spec"]["template"]["spec"])}
    assert keys == {"password"}


def passwords_of(pod: Object) -> set[str]:
    """The Secret's keys that a pod sees as its password of the store."""
    return {
        item["key"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        for item in source.get("secret", {}).get("items", [])
        if item["path"] == "redis/password"
    }


def settings_of(profile: str, pod: Object, container: Object, folder: Path) -> Settings:
    """As the process sees them, in a pod of address 10.1.2.3 and index 3."""
    (name,) = [
        source["configMap"]["name"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "configMap" in source
    ]
    told = {"POD_IP": "10.1.2.3", "NODE_NAME": "node", "POD_INDEX": "3"}
    known = {one["name"] for one in container["env"]}
    said = {}
    for argument in container["args"]:
        if argument.startswith("--set="):
            key, _, value = argument.removeprefix("--set=").partition("=")
            for variable in re.findall(r"\$\((\w+)\)", value):
                assert variable in known
                value = value.replace(f"$({variable})", told[variable])
            said[key] = value
    return load(profile, name, folder, said)


def load(profile: str, name: str, folder: Path, said: Any = None) -> Settings:
    maps = of_kind(profile, "ConfigMap")
    text = maps.get(name) or maps[f"{_NAMES.get(profile, 'nv-nestvec')}-{name}"]
    path = folder / "nestvec.yaml"
    path.write_text(text["data"]["nestvec.yaml"])
    return load_settings(path, said)


def topology_of(profile: str, folder: Path) -> Topology:
    path = folder / "cluster.yaml"
    path.write_text(of_kind(profile, "ConfigMap")["nv-nestvec-ray"]["data"]["cluster.yaml"])
    return load_topology(path)


def stamps(values: Object) -> dict[str, str]:
    done = template("helm4", values=values)
    assert done.returncode == 0, done.stderr
    return {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["annotations"][
            "nestvec/settings"
        ]
        for one in documents(done.stdout)
        if one and one["kind"] in ("Deployment", "StatefulSet")
    }
