"""What an operator is told of the regions, as messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nestvec.core.region_reports import RegionDifference, RegionStatus, ReplicationStatus
from nestvec.rpc.region_wire import (
    held_from_wire,
    held_to_wire,
    staleness_from_wire,
    staleness_to_wire,
)
from nestvec.v1 import region_pb2


def statuses_to_wire(statuses: Sequence[RegionStatus]) -> list[region_pb2.RegionStatus]:
    """One a region."""
    return [
        region_pb2.RegionStatus(
            region=one.name,
            here=one.here,
            endpoints=one.endpoints,
            reachable=one.reachable,
            said=one.said,
            round_trip_ms=one.round_trip_s * 1e3,
            clock_skew_s=one.clock_skew_s,
            collections=[held_to_wire(held) for held in one.collections],
            replication=[_way_to_wire(way) for way in one.replication],
        )
        for one in statuses
    ]


def statuses_from_wire(messages: Iterable[region_pb2.RegionStatus]) -> list[RegionStatus]:
    """Reverse of `statuses_to_wire`."""
    return [
        RegionStatus(
            name=one.region,
            here=one.here,
            endpoints=tuple(one.endpoints),
            reachable=one.reachable,
            said=one.said,
            round_trip_s=one.round_trip_ms / 1e3,
            clock_skew_s=one.clock_skew_s,
            collections=tuple(held_from_wire(held) for held in one.collections),
            replication=tuple(_way_from_wire(way) for way in one.replication),
        )
        for one in messages
    ]


def _way_to_wire(one: ReplicationStatus) -> region_pb2.ReplicationStatus:
    return region_pb2.ReplicationStatus(
        collection=one.collection,
        lag=one.lag,
        staleness_s=staleness_to_wire(one.staleness_s),
        refused=one.refused,
        said=one.said,
        prefix_dim=one.prefix_dim,
        bytes=one.nbytes,
        documents=one.documents,
        stored_bytes=one.stored_bytes,
    )


def _way_from_wire(one: region_pb2.ReplicationStatus) -> ReplicationStatus:
    return ReplicationStatus(
        collection=one.collection,
        lag=one.lag,
        staleness_s=staleness_from_wire(one.staleness_s),
        refused=one.refused,
        said=one.said,
        prefix_dim=one.prefix_dim,
        nbytes=one.bytes,
        documents=one.documents,
        stored_bytes=one.stored_bytes,
    )


def differences_to_wire(found: Iterable[RegionDifference]) -> list[region_pb2.RegionDifference]:
    """One a region."""
    return [
        region_pb2.RegionDifference(
            region=one.region,
            documents_here=one.documents_here,
            documents_there=one.documents_there,
            missing_here=one.missing_here,
            missing_there=one.missing_there,
            different=one.different,
            examples=one.examples,
            said=one.said,
            contents=one.contents,
            other_contents=one.other_contents,
            prefix_dim=one.prefix_dim,
        )
        for one in found
    ]


def differences_from_wire(
    messages: Iterable[region_pb2.RegionDifference],
) -> list[RegionDifference]:
    """Reverse of `differences_to_wire`."""
    return [
        RegionDifference(
            region=one.region,
            documents_here=one.documents_here,
            documents_there=one.documents_there,
            missing_here=one.missing_here,
            missing_there=one.missing_there,
            different=one.different,
            examples=tuple(one.examples),
            said=one.said,
            contents=one.contents,
            other_contents=one.other_contents,
            prefix_dim=one.prefix_dim,
        )
        for one in messages
    ]
