"""Which regions answer a search, and what became of each: messages <-> core types."""

from __future__ import annotations

from nestvec.core.regions import RegionOutcome, RegionPolicy, RegionState
from nestvec.v1 import query_pb2

_POLICY_TO_WIRE = {
    one: query_pb2.RegionPolicy.Value(f"REGION_POLICY_{one.name}") for one in RegionPolicy
}
_POLICY_FROM_WIRE = {value: one for one, value in _POLICY_TO_WIRE.items()}
_STATE_TO_WIRE = {
    one: query_pb2.RegionState.Value(f"REGION_STATE_{one.name}") for one in RegionState
}
_STATE_FROM_WIRE = {value: one for one, value in _STATE_TO_WIRE.items()}


def policy_to_wire(policy: RegionPolicy | None) -> query_pb2.RegionPolicy.ValueType:
    """None: as the class says."""
    return query_pb2.REGION_POLICY_UNSPECIFIED if policy is None else _POLICY_TO_WIRE[policy]


def policy_from_wire(value: query_pb2.RegionPolicy.ValueType) -> RegionPolicy | None:
    """None: as the class says. Raises KeyError for one that only a newer client knows."""
    return None if value == query_pb2.REGION_POLICY_UNSPECIFIED else _POLICY_FROM_WIRE[value]


def told_policy(value: query_pb2.RegionPolicy.ValueType) -> RegionPolicy | None:
    """None where the server did not say, or says one that only a newer client knows."""
    return _POLICY_FROM_WIRE.get(value)


def outcome_to_wire(outcome: RegionOutcome) -> query_pb2.RegionOutcome:
    """One region's part in an answer."""
    return query_pb2.RegionOutcome(
        region=outcome.name,
        state=_STATE_TO_WIRE[outcome.state],
        documents=outcome.documents,
        said=outcome.said,
        milliseconds=outcome.milliseconds,
        staleness_s=outcome.staleness_s,
    )


def outcome_from_wire(message: query_pb2.RegionOutcome) -> RegionOutcome:
    """A state that only a newer server knows is read as MISSING: nothing is known of its part."""
    return RegionOutcome(
        message.region,
        _STATE_FROM_WIRE.get(message.state, RegionState.MISSING),
        message.documents,
        message.said,
        message.milliseconds,
        message.staleness_s if message.HasField("staleness_s") else None,
    )
