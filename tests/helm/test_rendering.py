"""Helm 3 and 4 take the chart in every profile, and make the same of it."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tests.support.chart import HELMS, PROFILES, Object, rendered, run_helm, with_helm

pytestmark = with_helm


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("profile", PROFILES)
def test_helm_finds_nothing_to_complain_of(helm: str, profile: str) -> None:
    files, values = PROFILES[profile]
    done = run_helm(helm, ["lint", "--strict"], files, values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_both_make_the_same_of_it(profile: str) -> None:
    """But for what Secrets hold, which is made by chance: so an upgrade with the same values
    restarts nothing.
    """
    one, other = (
        {
            (each["kind"], each["metadata"]["name"]): comparable(each)
            for each in rendered(profile, helm)
        }
        for helm in HELMS
    )
    assert one == other


def test_the_notes_tell_the_first_query() -> None:
    done = run_helm("helm4", ["install", "nv", "--dry-run=client", "--namespace", "search"])
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert 'nestvec search "navigation on a ship" --collection docs' in notes
    assert re.search(r"get secret nv-nestvec-client .*\{\{index \.data", notes)


def comparable(one: Object) -> Any:
    """Without what is made by chance."""
    one = copy.deepcopy(one)
    if one["kind"] == "Secret":
        one["data"] = sorted(one["data"])
    return one
