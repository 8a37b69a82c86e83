"""What operators are told of regions arrives as it was sent."""

from __future__ import annotations

from nestvec.core.region_reports import RegionDifference, RegionStatus, ReplicationStatus
from nestvec.core.regions import HeldCollection
from nestvec.rpc.region_admin_wire import (
    differences_from_wire,
    differences_to_wire,
    statuses_from_wire,
    statuses_to_wire,
)


def test_statuses_survive_the_wire() -> None:
    ways = (
        ReplicationStatus("docs", 3, None, 2, "no model", 0, 99),
        ReplicationStatus("wiki", staleness_s=0.25, prefix_dim=128, documents=7, stored_bytes=900),
    )
    held = HeldCollection("docs", 2, "abc", 768, 10, {"us": 1.5}, (128, 256))
    statuses = [
        RegionStatus("eu", True, ("a:1", "b:2"), True, collections=(held,)),
        RegionStatus("us", False, ("c:3",), False, "it is away", 0.25, -1.5, (), ways),
    ]
    assert statuses_from_wire(statuses_to_wire(statuses)) == statuses


def test_differences_survive_the_wire() -> None:
    found = [
        RegionDifference("us", 5, 4, 1, 2, 3, ("d1", "d2")),
        RegionDifference("ap", said="it is away"),
        RegionDifference("eu", 7, 7, prefix_dim=128),
        RegionDifference("sa", 7, 7, contents=6, other_contents=1),
    ]
    arrived = differences_from_wire(differences_to_wire(found))
    assert arrived == found
    assert [one.clean for one in arrived] == [False, False, True, False]
