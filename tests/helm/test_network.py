"""NetworkPolicies let through the ways of ARCHITECTURE.md, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chart import Object, of_kind, pods, with_helm

pytestmark = with_helm
_WORKERS = ("coarse", "encoder", "rerank", "cross")
_PODS = {
    ("query", "coarse"), ("query", "ingest"), ("ingest", "coarse"), ("test", "query"),
    *((one, "redis") for one in ("query", "ingest", "coarse", "check", "redis")),
}  # fmt: skip
# With everything on; the store is elsewhere.
_ALL = {
    ("query", "ingest"), ("test", "query"), *(("query", one) for one in _WORKERS),
    ("ingest", "coarse"), ("ingest", "encoder"),
}  # fmt: skip
_RAY = {
    ("query", "ray"), ("ingest", "ray"), ("ray", "ray"), ("ray", "query"), ("ray", "ingest"),
    ("query", "ingest"), ("test", "query"),
    *((one, "redis") for one in ("query", "ingest", "ray", "redis")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "ways"), [("default", _PODS), ("cpu", _PODS), ("all", _ALL), ("gpu", _RAY)]
)
def test_the_ways_are_those_and_both_ends_agree(profile: str, ways: set[tuple[str, str]]) -> None:
    assert edges(profile, "ingress", "from") == ways
    assert edges(profile, "egress", "to") == ways


@pytest.mark.parametrize("profile", ["default", "gpu", "multiregion", "all"])
def test_every_pod_is_closed_to_what_is_not_named(profile: str) -> None:
    policies = of_kind(profile, "NetworkPolicy").values()
    for pod in pods(profile):
        closed = {
            kind
            for one in policies
            if one["spec"]["podSelector"]["matchLabels"].items() <= dict(pod.labels).items()
            for kind in one["spec"]["policyTypes"]
        }
        assert closed == {"Ingress", "Egress"}, pod.owner


@pytest.mark.parametrize("profile", ["default", "gpu", "multiregion", "all"])
def test_nothing_is_let_in_from_or_out_to_everywhere(profile: str) -> None:
    """A rule without peers is a rule for all: only where the values name no addresses."""
    for name, policy in of_kind(profile, "NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], name
            assert rule["ports"], name
        for rule in policy["spec"].get("egress", []):
            assert rule["ports"], name
            if "to" not in rule:
                assert profile == "multiregion"
                assert [one["port"] for one in rule["ports"]] == [7700]


def test_other_regions_reach_the_front_ends_and_are_reached() -> None:
    spec = of_kind("multiregion", "NetworkPolicy")["nv-nestvec-query"]["spec"]
    peers = [peer for rule in spec["ingress"] for peer in rule["from"]]
    assert {"ipBlock": {"cidr": "10.0.0.0/8"}} in peers
    for role in ("query", "ingest"):
        spec = of_kind("multiregion", "NetworkPolicy")[f"nv-nestvec-{role}"]["spec"]
        assert [rule for rule in spec["egress"] if "to" not in rule]


def edges(profile: str, kind: str, peers: str) -> set[tuple[str, str]]:
    """(who calls, who is called), by component, as one of the two ends has it."""
    found = set()
    for policy in of_kind(profile, "NetworkPolicy").values():
        own = component(policy["spec"]["podSelector"])
        for rule in policy["spec"].get(kind) or []:
            for peer in rule.get(peers, []):
                other = component(peer.get("podSelector", {}))
                if other is not None and own is not None:
                    found.add((other, own) if kind == "ingress" else (own, other))
    return found


def component(selector: Object) -> Any:
    return selector.get("matchLabels", {}).get("app.kubernetes.io/component")
