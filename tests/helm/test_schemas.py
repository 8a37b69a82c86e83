"""Every object against the schemas of the oldest and the newest Kubernetes, and of the CRDs."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from kubernetes_validate.utils import schema_contents

from tests.support.chart import NEWEST, OLDEST, PROFILES, Object, documents, rendered, with_helm

pytestmark = with_helm
_CRDS = os.environ.get("NESTVEC_CRDS")
_FOREIGN = re.compile(r"^(ray\.io|keda\.sh|monitoring\.coreos\.com|cert-manager\.io)/")


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("profile", PROFILES)
def test_kubernetes_would_take_every_object(profile: str, version: str) -> None:
    ours = [one for one in rendered(profile) if not _FOREIGN.match(one["apiVersion"])]
    assert len(ours) > 10
    for one in ours:
        require_valid(one, validator_of(version, one["apiVersion"], one["kind"]))


@pytest.mark.skipif(_CRDS is None, reason="NESTVEC_CRDS names no folder of CRDs")
@pytest.mark.parametrize(
    ("profile", "kinds"),
    [
        ("gpu", {"RayCluster"}),
        ("multiregion", {"Certificate"}),
        ("all", {"Certificate", "PodMonitor", "PrometheusRule", "ScaledObject"}),
    ],
)
def test_operators_would_take_their_objects(profile: str, kinds: set[str]) -> None:
    theirs = [one for one in rendered(profile) if _FOREIGN.match(one["apiVersion"])]
    assert {one["kind"] for one in theirs} == kinds
    for one in theirs:
        require_valid(one, crd_validator(one["apiVersion"], one["kind"]))


@pytest.mark.parametrize(
    ("kind", "broken"),
    [("Deployment", {"replica": 2}), ("PodDisruptionBudget", {"maxUnavailable": [1]})],
)
def test_what_kubernetes_does_not_know_is_found(kind: str, broken: Object) -> None:
    one = next(each for each in rendered("default") if each["kind"] == kind)
    wrong = one | {"spec": one["spec"] | broken}
    with pytest.raises(AssertionError, match=next(iter(broken))):
        require_valid(wrong, validator_of(OLDEST, one["apiVersion"], kind))


@pytest.mark.skipif(_CRDS is None, reason="NESTVEC_CRDS names no folder of CRDs")
def test_what_an_operator_does_not_know_is_found() -> None:
    one = next(each for each in rendered("gpu") if each["kind"] == "RayCluster")
    wrong = one | {"spec": one["spec"] | {"workerGroups": []}}
    with pytest.raises(AssertionError, match="workerGroups"):
        require_valid(wrong, crd_validator(one["apiVersion"], "RayCluster"))


def require_valid(one: Object, validator: jsonschema.Draft202012Validator) -> None:
    wrong = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(one)]
    assert not wrong, f"{one['kind']} {one['metadata']['name']}: {wrong}"


@functools.cache
def validator_of(version: str, api: str, kind: str) -> jsonschema.Draft202012Validator:
    """Strict: an unknown key is an error."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    # As the files are called: apps-v1, networking-v1 of networking.k8s.io/v1.
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = schema_contents(f"{folder}/{kind.lower()}-{short}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=definitions(version))


@functools.cache
def definitions(version: str) -> referencing.Registry[Any]:
    path = f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    shared: referencing.Resource[Any] = referencing.Resource.from_contents(
        schema_contents(path, version),
        default_specification=referencing.jsonschema.DRAFT202012,
    )
    empty: referencing.Registry[Any] = referencing.Registry()
    made: referencing.Registry[Any] = (shared @ empty).crawl()
    return made


@functools.cache
def crd_validator(api: str, kind: str) -> jsonschema.Draft202012Validator:
    assert _CRDS is not None
    group, version = api.split("/")
    for path in sorted(Path(_CRDS).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if f"kind: {kind}\n" not in text:
            continue
        definition = documents(text)[0]["spec"]
        if (definition["group"], definition["names"]["kind"]) == (group, kind):
            schema = next(
                one["schema"]["openAPIV3Schema"]
                for one in definition["versions"]
                if one["name"] == version
            )
            strict(schema)
            # Kubernetes's own, which a CRD does not describe.
            schema["properties"]["metadata"] = {"type": "object"}
            return jsonschema.Draft202012Validator(schema)
    raise AssertionError(f"no CRD of {api} {kind} in {_CRDS}")


def strict(schema: Any) -> None:
    """As a server with strict validation: keys that the schema does not know are errors."""
    if isinstance(schema, list):
        for one in schema:
            strict(one)
    if not isinstance(schema, dict):
        return
    closed = "properties" in schema and "additionalProperties" not in schema
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    for one in list(schema.values()):
        strict(one)
