"""Several regions on this machine: an engine and a store each, with a wide-area network between.

Each is a process of its own, as `nestvec serve` runs it. Between any two of them stand two delaying
proxies, one a direction, so that either way can be cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from nestvec_cluster.bench_server import child
from nestvec_cluster.ports import free_ports
from nestvec_cluster.wan import DelayingProxy, wide_area


@dataclass(frozen=True, slots=True)
class RegionSpec:
    """A region to run. round_trips_s: to others, by name, given once for each pair. settings:
    further ones, dotted. shared: its `regions.collections`.
    """

    name: str
    round_trips_s: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunningRegion:
    """address: of its engine, without any delay. ways: to each other region, by name."""

    name: str
    address: str
    ways: Mapping[str, DelayingProxy]


@contextmanager
def running_regions(specs: Sequence[RegionSpec]) -> Iterator[dict[str, RunningRegion]]:
    """By name, in the order given. Raises ConfigError where one does not start."""
    names = [one.name for one in specs]
    ways = {
        name: {
            other: DelayingProxy(_round_trip_s(specs, name, other) / 2)
            for other in names
            if other != name
        }
        for name in names
    }
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with ExitStack() as stack:
        stack.enter_context(wide_area([one for row in ways.values() for one in row.values()]))
        running = {}
        for spec in specs:
            overrides = {
                "server.port": ports[spec.name],
                "regions": _section(spec, specs, ways[spec.name], ports[spec.name]),
                **spec.settings,
            }
            address, _ = stack.enter_context(child("engine", json.dumps(overrides)))
            running[spec.name] = RunningRegion(spec.name, address, ways[spec.name])
            for name, row in ways.items():
                if name != spec.name:
                    row[spec.name].target = address
        yield running


def cut_off(regions: Mapping[str, RunningRegion], name: str) -> None:
    """Let nothing through between one region and all others."""
    for way in _ways_of(regions, name):
        way.cut()


def heal(regions: Mapping[str, RunningRegion], name: str) -> None:
    """Let everything through again."""
    for way in _ways_of(regions, name):
        way.heal()


def _ways_of(regions: Mapping[str, RunningRegion], name: str) -> list[DelayingProxy]:
    there = [one.ways[name] for one in regions.values() if one.name != name]
    return [*regions[name].ways.values(), *there]


def _section(
    spec: RegionSpec, specs: Sequence[RegionSpec], ways: Mapping[str, DelayingProxy], port: int
) -> dict[str, Any]:
    """Its `regions`, itself first and then the nearest."""
    nearest = sorted(specs, key=lambda one: _round_trip_s(specs, spec.name, one.name))
    numbers = {one.name: number for number, one in enumerate(specs, start=1)}
    return {
        "here": spec.name,
        "map": [
            {
                "name": one.name,
                "number": numbers[one.name],
                "endpoints": [
                    f"127.0.0.1:{port}" if one.name == spec.name else ways[one.name].address
                ],
                "rtt_ms": 1e3 * _round_trip_s(specs, spec.name, one.name),
            }
            for one in nearest
        ],
        "collections": {name: dict(one) for name, one in spec.shared.items()},
    }


def _round_trip_s(specs: Sequence[RegionSpec], one: str, other: str) -> float:
    given = {spec.name: spec.round_trips_s for spec in specs}
    return given[one].get(other, given[other].get(one, 0.0))
