"""A map of regions that cannot be: refused before anything starts, by what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from nestvec.config import load_settings
from nestvec.core.errors import ConfigError


def region(name: str, number: int, *endpoints: str) -> dict[str, Any]:
    return {"name": name, "number": number, "endpoints": endpoints or [f"{name}.example:1"]}


EU, US = region("eu", 1), region("us", 2)


def copied(mode: str, *homes: str) -> dict[str, Any]:
    shared = {"mode": mode, "prefixes_of": homes}
    return {"here": "eu", "map": [EU, US], "collections": {"docs": shared}}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        # This region, listed once more, under its own name or another.
        ({"here": "eu", "map": [EU, US, EU]}, "`map` has region names twice: eu"),
        (
            {"here": "eu", "map": [EU, US, region("ap", 3, "eu.example:1")]},
            "`map` has endpoints twice: eu.example:1",
        ),
        ({"here": "eu", "map": [EU, US, region("us", 3, "ap.example:1")]}, "names twice: us"),
        ({"here": "eu", "map": [EU, region("us", 1)]}, "`map` has region numbers twice: 1"),
        ({"here": "ap", "map": [EU, US]}, "here is 'ap'; `map` has eu, us"),
        ({"here": "eu"}, "`map` has no region"),
        ({"map": [EU, US]}, "`map` and `collections` need `here`"),
        (copied("partitioned", "eu"), "prefixes_of names 'eu'; expected another region of eu, us"),
        (copied("partitioned", "us", "ap"), "prefixes_of names 'ap'"),
        (copied("replicated", "us"), "a replicated collection is here whole"),
    ],
)
def test_a_map_that_cannot_be_is_refused_by_name(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(None, {"regions": section})
    assert message in str(refused.value)


def test_a_map_that_can_be_is_taken() -> None:
    settings = load_settings(None, {"regions": {"here": "us", "map": [EU, US]}})
    assert [one.name for one in settings.regions.map] == ["eu", "us"]
