"""Calls that look after collections: tiers, calibrations, comparing, backups. As in calls.py."""

from __future__ import annotations

from dataclasses import dataclass

from nestvec.client import responses
from nestvec.client.calls import Call, as_invalid
from nestvec.client.values import CollectionInfo
from nestvec.core.calibration import Calibration
from nestvec.core.measured import Evidence
from nestvec.rpc.calibration_wire import calibration_to_wire
from nestvec.rpc.evidence_wire import evidence_to_wire
from nestvec.v1 import admin_pb2

# Every stored vector is read, and a backup is written somewhere.
LONG_S = 3600.0


@dataclass(frozen=True, slots=True)
class TierChange:
    """changed: False when the tier was, or was not, served already."""

    collection: CollectionInfo
    changed: bool


@dataclass(frozen=True, slots=True)
class TierVerification:
    """One tier of one shard. missing: stored and not found by a search. surplus: found and not
    stored. compared: code by code; different: how many of these differ.
    """

    shard: int
    dim: int
    documents: int
    missing: int
    surplus: int
    compared: int
    different: int


@dataclass(frozen=True, slots=True)
class Verification:
    """The store and the coarse tiers compared: as found, before any repair.

    damaged: documents whose stored vector or payload cannot be used; ingest them again.
    damaged_ids: the first 1,000 of them. repaired: whether something differed and was mended.
    """

    tiers: tuple[TierVerification, ...]
    store_documents: int
    damaged_ids: tuple[str, ...]
    damaged: int
    clean: bool
    repaired: bool


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """location: where it was written, as the server names it."""

    shard: int
    location: str
    documents: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written."""

    documents: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The collection that a backup became."""

    collection: CollectionInfo
    documents: int


def add_tier(name: str, dim: int, evidence: Evidence | None = None) -> Call[TierChange]:
    """Serve one more."""
    with as_invalid("dim"):
        request = admin_pb2.AddTierRequest(name=name, dim=dim)
    if evidence is not None:
        request.evidence.CopyFrom(evidence_to_wire(evidence))
    return Call("admin", "AddTier", request, _added)


def drop_tier(name: str, dim: int) -> Call[TierChange]:
    """Serve one less."""
    with as_invalid("dim"):
        request = admin_pb2.DropTierRequest(name=name, dim=dim)
    return Call("admin", "DropTier", request, _dropped)


def set_calibration(name: str, calibration: Calibration) -> Call[CollectionInfo]:
    """Keep what was measured."""
    with as_invalid("calibration"):
        request = admin_pb2.SetCalibrationRequest(
            name=name, calibration=calibration_to_wire(calibration)
        )
    return Call("admin", "SetCalibration", request, _of_collection)


def drop_calibration(name: str) -> Call[bool]:
    """Forget it."""
    with as_invalid("name"):
        request = admin_pb2.DropCalibrationRequest(name=name)
    return Call("admin", "DropCalibration", request, _was_dropped)


def verify(name: str, repair: bool, sample: int) -> Call[Verification]:
    """Compare with the store."""
    with as_invalid("sample"):
        request = admin_pb2.VerifyCollectionRequest(name=name, repair=repair, sample=sample)
    return Call("admin", "VerifyCollection", request, _verification)


def snapshot(name: str) -> Call[list[ShardSnapshot]]:
    """Of every shard."""
    with as_invalid("name"):
        request = admin_pb2.SnapshotShardsRequest(name=name)
    return Call("admin", "SnapshotShards", request, _snapshots)


def back_up(name: str, location: str) -> Call[Backup]:
    """Store included."""
    with as_invalid("location"):
        request = admin_pb2.BackUpCollectionRequest(name=name, location=location)
    return Call("admin", "BackUpCollection", request, _backup)


def restore(location: str, name: str | None) -> Call[Restored]:
    """name: None for the one that it was backed up under."""
    with as_invalid("location"):
        request = admin_pb2.RestoreCollectionRequest(location=location, name=name or "")
    return Call("admin", "RestoreCollection", request, _restored)


def _added(message: admin_pb2.AddTierResponse) -> TierChange:
    return TierChange(responses.collection_info(message.collection), message.added)


def _dropped(message: admin_pb2.DropTierResponse) -> TierChange:
    return TierChange(responses.collection_info(message.collection), message.dropped)


def _of_collection(message: admin_pb2.SetCalibrationResponse) -> CollectionInfo:
    return responses.collection_info(message.collection)


def _was_dropped(message: admin_pb2.DropCalibrationResponse) -> bool:
    return message.dropped


def _verification(message: admin_pb2.VerifyCollectionResponse) -> Verification:
    tiers = tuple(
        TierVerification(
            one.shard,
            one.dim,
            one.documents,
            one.missing,
            one.surplus,
            one.compared,
            one.different,
        )
        for one in message.tiers
    )
    return Verification(
        tiers=tiers,
        store_documents=message.store_documents,
        damaged_ids=tuple(message.damaged_ids),
        damaged=message.damaged,
        clean=message.clean,
        repaired=message.repaired,
    )


def _snapshots(message: admin_pb2.SnapshotShardsResponse) -> list[ShardSnapshot]:
    return [
        ShardSnapshot(one.shard, one.location, one.documents, one.bytes)
        for one in message.snapshots
    ]


def _backup(message: admin_pb2.BackUpCollectionResponse) -> Backup:
    return Backup(message.documents, message.bytes)


def _restored(message: admin_pb2.RestoreCollectionResponse) -> Restored:
    return Restored(responses.collection_info(message.collection), message.documents)
