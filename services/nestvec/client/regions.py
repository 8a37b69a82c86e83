"""Calls about the regions, as the server that is asked sees them. As in calls.py."""

from __future__ import annotations

from nestvec.client.calls import Call, as_invalid
from nestvec.core.region_reports import RegionDifference, RegionStatus
from nestvec.rpc.region_admin_wire import differences_from_wire, statuses_from_wire
from nestvec.v1 import region_pb2


def describe() -> Call[list[RegionStatus]]:
    """Every region of the map, the server's own first."""
    request = region_pb2.DescribeRegionsRequest()
    return Call("regions", "DescribeRegions", request, _read_statuses)


def verify(collection: str) -> Call[list[RegionDifference]]:
    """Against every other region."""
    with as_invalid("collection"):
        request = region_pb2.VerifyRegionsRequest(collection=collection)
    return Call("regions", "VerifyRegions", request, _read_differences)


def _read_statuses(response: region_pb2.DescribeRegionsResponse) -> list[RegionStatus]:
    return statuses_from_wire(response.regions)


def _read_differences(response: region_pb2.VerifyRegionsResponse) -> list[RegionDifference]:
    return differences_from_wire(response.regions)
