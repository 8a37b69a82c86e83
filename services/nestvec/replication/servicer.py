"""MigrationService over MigrationApp, and RegionAdminService over RegionalApp."""

from __future__ import annotations

from typing import Any

import grpc

from nestvec.core.errors import InvalidRequest
from nestvec.replication.app import MigrationApp
from nestvec.replication.regional import RegionalApp
from nestvec.rpc.decoding import require_known
from nestvec.rpc.migration_wire import gate_from_wire, status_to_wire, wish_from_wire
from nestvec.rpc.region_admin_wire import differences_to_wire, statuses_to_wire
from nestvec.rpc.server import Mounted
from nestvec.v1 import migration_pb2, migration_pb2_grpc, region_pb2, region_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class MigrationServicer(migration_pb2_grpc.MigrationServiceServicer):
    """Every call answers with the migration as it stands afterwards."""

    def __init__(self, app: MigrationApp) -> None:
        self._app = app

    async def BeginMigration(
        self, request: migration_pb2.BeginMigrationRequest, context: Context
    ) -> migration_pb2.BeginMigrationResponse:
        """See migration.proto."""
        require_known(request, "")
        await self._app.begin(request.collection, wish_from_wire(request))
        return migration_pb2.BeginMigrationResponse(migration=await self._told(request.collection))

    async def DescribeMigration(
        self, request: migration_pb2.DescribeMigrationRequest, context: Context
    ) -> migration_pb2.DescribeMigrationResponse:
        """See migration.proto."""
        return migration_pb2.DescribeMigrationResponse(
            migration=await self._told(request.collection)
        )

    async def RecordGate(
        self, request: migration_pb2.RecordGateRequest, context: Context
    ) -> migration_pb2.RecordGateResponse:
        """See migration.proto."""
        await self._app.record_gate(request.collection, gate_from_wire(request.gate))
        return migration_pb2.RecordGateResponse(migration=await self._told(request.collection))

    async def StepMigration(
        self, request: migration_pb2.StepMigrationRequest, context: Context
    ) -> migration_pb2.StepMigrationResponse:
        """See migration.proto."""
        await self._step(request)
        return migration_pb2.StepMigrationResponse(migration=await self._told(request.collection))

    async def _step(self, request: migration_pb2.StepMigrationRequest) -> None:
        app, name = self._app, request.collection
        if request.step == migration_pb2.MIGRATION_STEP_RESUME:
            rate = request.rate if request.HasField("rate") else None
            await app.resume(name, rate, request.override.strip())
            return
        steps = {
            migration_pb2.MIGRATION_STEP_PAUSE: app.pause,
            migration_pb2.MIGRATION_STEP_SWITCH: app.switch,
            migration_pb2.MIGRATION_STEP_ROLL_BACK: app.roll_back,
            migration_pb2.MIGRATION_STEP_ABORT: app.abort,
            migration_pb2.MIGRATION_STEP_FINISH: app.finish,
        }
        if request.step not in steps:
            raise InvalidRequest("step", f"no step has number {request.step} here")
        await steps[request.step](name)

    async def _told(self, name: str) -> migration_pb2.MigrationDescription:
        return status_to_wire(await self._app.status(name))


class RegionAdminServicer(region_pb2_grpc.RegionAdminServiceServicer):
    """For operators of this region."""

    def __init__(self, app: RegionalApp) -> None:
        self._app = app

    async def DescribeRegions(
        self, request: region_pb2.DescribeRegionsRequest, context: Context
    ) -> region_pb2.DescribeRegionsResponse:
        """See region.proto."""
        return region_pb2.DescribeRegionsResponse(
            regions=statuses_to_wire(await self._app.status())
        )

    async def VerifyRegions(
        self, request: region_pb2.VerifyRegionsRequest, context: Context
    ) -> region_pb2.VerifyRegionsResponse:
        """See region.proto."""
        found = await self._app.verify(request.collection)
        return region_pb2.VerifyRegionsResponse(regions=differences_to_wire(found))


def mount(app: MigrationApp) -> Mounted:
    """For a server."""
    return Mounted(
        migration_pb2.DESCRIPTOR,
        "MigrationService",
        MigrationServicer(app),
        migration_pb2_grpc.add_MigrationServiceServicer_to_server,
    )


def mount_regional(app: RegionalApp) -> Mounted:
    """For a server."""
    return Mounted(
        region_pb2.DESCRIPTOR,
        "RegionAdminService",
        RegionAdminServicer(app),
        region_pb2_grpc.add_RegionAdminServiceServicer_to_server,
    )
