"""AdminService over AdminApp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from nestvec.admin.app import AdminApp, CollectionWish
from nestvec.core.ports import Encoders
from nestvec.rpc.calibration_wire import calibration_from_wire
from nestvec.rpc.evidence_wire import code_from_wire, evidence_from_wire
from nestvec.rpc.field_wire import schema_from_wire
from nestvec.rpc.server import Mounted
from nestvec.rpc.wire import collection_to_wire, dtype_from_wire, space_to_wire, tier_to_wire
from nestvec.telemetry.logs import logger
from nestvec.v1 import admin_pb2, admin_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_log = logger()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself. classes and limits: as the messages take them.
    cross_encoder: its name; empty where there is none.
    """

    version: str
    encoders: Encoders
    classes: tuple[Mapping[str, Any], ...]
    limits: Mapping[str, int]
    cross_encoder: str = ""


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Collections and the server itself."""

    def __init__(self, app: AdminApp, facts: ServerFacts) -> None:
        self._app = app
        self._facts = facts

    async def CreateCollection(
        self,
        request: admin_pb2.CreateCollectionRequest,
        context: Context,
    ) -> admin_pb2.CreateCollectionResponse:
        """See admin.proto."""
        wish = CollectionWish(
            name=request.name,
            tiers=tuple(request.tiers),
            store_dim=request.store_dim,
            store_dtype=dtype_from_wire(request.store_dtype),
            fields=schema_from_wire(request.fields),
            coarse_code=code_from_wire(request.coarse_code),
            evidence=evidence_from_wire(request.evidence),
            model=request.model,
        )
        collection, created = await self._app.create(wish, request.exist_ok)
        if created:
            _log.info(
                "collection.created",
                collection=collection.name,
                space=collection.space.fingerprint,
                tiers=list(collection.tiers),
                store_dim=collection.store_dim,
            )
        return admin_pb2.CreateCollectionResponse(
            collection=collection_to_wire(collection), created=created
        )

    async def ListCollections(
        self,
        request: admin_pb2.ListCollectionsRequest,
        context: Context,
    ) -> admin_pb2.ListCollectionsResponse:
        """See admin.proto."""
        collections = await self._app.collections()
        return admin_pb2.ListCollectionsResponse(
            collections=[collection_to_wire(collection) for collection in collections]
        )

    async def DescribeCollection(
        self,
        request: admin_pb2.DescribeCollectionRequest,
        context: Context,
    ) -> admin_pb2.DescribeCollectionResponse:
        """See admin.proto."""
        report = await self._app.describe(request.name)
        return admin_pb2.DescribeCollectionResponse(
            collection=collection_to_wire(report.collection),
            tiers=[tier_to_wire(tier) for tier in report.tiers],
            store=admin_pb2.StoreDescription(
                documents=report.store.documents,
                vector_bytes_per_document=report.store.vector_bytes_per_document,
                payload_bytes_per_document=report.store.payload_bytes_per_document,
                used_memory_bytes=report.store.used_memory_bytes,
                tombstones=report.store.tombstones,
                log_entries=report.store.log_entries,
            ),
            shards=report.shards,
        )

    async def DropCollection(
        self,
        request: admin_pb2.DropCollectionRequest,
        context: Context,
    ) -> admin_pb2.DropCollectionResponse:
        """See admin.proto."""
        await self._app.drop(request.name)
        _log.info("collection.dropped", collection=request.name)
        return admin_pb2.DropCollectionResponse()

    async def AddTier(
        self,
        request: admin_pb2.AddTierRequest,
        context: Context,
    ) -> admin_pb2.AddTierResponse:
        """See admin.proto."""
        evidence = evidence_from_wire(request.evidence)
        collection, added = await self._app.add_tier(request.name, request.dim, evidence)
        if added:
            _log.info("tier.added", collection=request.name, dim=request.dim)
        return admin_pb2.AddTierResponse(collection=collection_to_wire(collection), added=added)

    async def DropTier(
        self,
        request: admin_pb2.DropTierRequest,
        context: Context,
    ) -> admin_pb2.DropTierResponse:
        """See admin.proto."""
        collection, dropped = await self._app.drop_tier(request.name, request.dim)
        if dropped:
            _log.info("tier.dropped", collection=request.name, dim=request.dim)
        return admin_pb2.DropTierResponse(
            collection=collection_to_wire(collection), dropped=dropped
        )

    async def SetCalibration(
        self,
        request: admin_pb2.SetCalibrationRequest,
        context: Context,
    ) -> admin_pb2.SetCalibrationResponse:
        """See admin.proto."""
        calibration = calibration_from_wire(request.calibration)
        collection = await self._app.set_calibration(request.name, calibration)
        _log.info(
            "calibration.set",
            collection=request.name,
            classes=[one.name for one in calibration.classes],
            queries=calibration.queries,
            documents=calibration.documents,
        )
        return admin_pb2.SetCalibrationResponse(collection=collection_to_wire(collection))

    async def DropCalibration(
        self,
        request: admin_pb2.DropCalibrationRequest,
        context: Context,
    ) -> admin_pb2.DropCalibrationResponse:
        """See admin.proto."""
        collection, dropped = await self._app.drop_calibration(request.name)
        if dropped:
            _log.info("calibration.dropped", collection=request.name)
        return admin_pb2.DropCalibrationResponse(
            collection=collection_to_wire(collection), dropped=dropped
        )

    async def VerifyCollection(
        self,
        request: admin_pb2.VerifyCollectionRequest,
        context: Context,
    ) -> admin_pb2.VerifyCollectionResponse:
        """See admin.proto."""
        report = await self._app.verify(request.name, request.repair, request.sample)
        _log.info(
            "collection.verified",
            collection=request.name,
            clean=report.clean,
            damaged=report.damaged,
            repaired=report.repaired,
        )
        return admin_pb2.VerifyCollectionResponse(
            tiers=[
                admin_pb2.TierVerification(
                    shard=shard,
                    dim=tier.dim,
                    documents=tier.documents,
                    missing=tier.missing,
                    surplus=tier.surplus,
                    compared=tier.compared,
                    different=tier.different,
                )
                for shard, tier in report.tiers
            ],
            store_documents=report.store_documents,
            damaged_ids=report.damaged_ids,
            damaged=report.damaged,
            clean=report.clean,
            repaired=report.repaired,
        )

    async def SnapshotShards(
        self,
        request: admin_pb2.SnapshotShardsRequest,
        context: Context,
    ) -> admin_pb2.SnapshotShardsResponse:
        """See admin.proto."""
        snapshots = await self._app.snapshot(request.name)
        return admin_pb2.SnapshotShardsResponse(
            snapshots=[
                admin_pb2.ShardSnapshot(
                    shard=shard,
                    location=one.location,
                    documents=one.documents,
                    bytes=one.nbytes,
                )
                for shard, one in enumerate(snapshots)
            ]
        )

    async def BackUpCollection(
        self,
        request: admin_pb2.BackUpCollectionRequest,
        context: Context,
    ) -> admin_pb2.BackUpCollectionResponse:
        """See admin.proto."""
        backup = await self._app.back_up(request.name, request.location)
        _log.info("collection.backed_up", collection=request.name, documents=backup.documents)
        return admin_pb2.BackUpCollectionResponse(documents=backup.documents, bytes=backup.nbytes)

    async def RestoreCollection(
        self,
        request: admin_pb2.RestoreCollectionRequest,
        context: Context,
    ) -> admin_pb2.RestoreCollectionResponse:
        """See admin.proto."""
        collection, documents = await self._app.restore(request.location, request.name)
        _log.info("collection.restored", collection=collection.name, documents=documents)
        return admin_pb2.RestoreCollectionResponse(
            collection=collection_to_wire(collection), documents=documents
        )

    async def DescribeServer(
        self,
        request: admin_pb2.DescribeServerRequest,
        context: Context,
    ) -> admin_pb2.DescribeServerResponse:
        """See admin.proto."""
        return admin_pb2.DescribeServerResponse(
            version=self._facts.version,
            space=space_to_wire(self._facts.encoders.default.space),
            spaces=[space_to_wire(one.encoder.space) for one in self._facts.encoders.open_now],
            search_classes=[admin_pb2.SearchClassDescription(**one) for one in self._facts.classes],
            cross_encoder=self._facts.cross_encoder,
            **self._facts.limits,
        )


def mount(app: AdminApp, facts: ServerFacts) -> Mounted:
    """For a server."""
    return Mounted(
        admin_pb2.DESCRIPTOR,
        "AdminService",
        AdminServicer(app, facts),
        admin_pb2_grpc.add_AdminServiceServicer_to_server,
    )
