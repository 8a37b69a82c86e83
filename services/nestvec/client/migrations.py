"""Calls that move a collection to another model. As in calls.py."""

from __future__ import annotations

from typing import Literal

from nestvec.client.calls import Call, as_invalid
from nestvec.core.errors import InvalidRequest
from nestvec.core.migration import Gate, MigrationStatus, MigrationWish
from nestvec.rpc.migration_wire import gate_to_wire, status_from_wire, wish_to_wire
from nestvec.v1 import migration_pb2

# Models are loaded, and generations drained and dropped.
LONG_S = 300.0

StepName = Literal["pause", "resume", "switch", "rollback", "abort", "finish"]
_STEPS = {
    "pause": migration_pb2.MIGRATION_STEP_PAUSE,
    "resume": migration_pb2.MIGRATION_STEP_RESUME,
    "switch": migration_pb2.MIGRATION_STEP_SWITCH,
    "rollback": migration_pb2.MIGRATION_STEP_ROLL_BACK,
    "abort": migration_pb2.MIGRATION_STEP_ABORT,
    "finish": migration_pb2.MIGRATION_STEP_FINISH,
}


def begin(collection: str, wish: MigrationWish) -> Call[MigrationStatus]:
    """Returns when it has begun."""
    with as_invalid("migration"):
        request = wish_to_wire(collection, wish)
    return Call("migration", "BeginMigration", request, _read_begun)


def status(collection: str) -> Call[MigrationStatus]:
    """As it stands."""
    with as_invalid("collection"):
        request = migration_pb2.DescribeMigrationRequest(collection=collection)
    return Call("migration", "DescribeMigration", request, _read_status)


def record_gate(collection: str, gate: Gate) -> Call[MigrationStatus]:
    """What was measured here."""
    with as_invalid("gate"):
        request = migration_pb2.RecordGateRequest(collection=collection, gate=gate_to_wire(gate))
    return Call("migration", "RecordGate", request, _read_recorded)


def step(
    collection: str, name: StepName, rate: float | None, override: str
) -> Call[MigrationStatus]:
    """One step of it."""
    if name not in _STEPS:
        raise InvalidRequest("step", f"{name!r}, expected one of {', '.join(_STEPS)}")
    with as_invalid("step"):
        request = migration_pb2.StepMigrationRequest(
            collection=collection, step=_STEPS[name], rate=rate, override=override
        )
    return Call("migration", "StepMigration", request, _read_stepped)


def _read_begun(response: migration_pb2.BeginMigrationResponse) -> MigrationStatus:
    return status_from_wire(response.migration)


def _read_status(response: migration_pb2.DescribeMigrationResponse) -> MigrationStatus:
    return status_from_wire(response.migration)


def _read_recorded(response: migration_pb2.RecordGateResponse) -> MigrationStatus:
    return status_from_wire(response.migration)


def _read_stepped(response: migration_pb2.StepMigrationResponse) -> MigrationStatus:
    return status_from_wire(response.migration)
