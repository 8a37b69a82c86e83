"""Servers that ask who calls, on real sockets; their services answer without doing anything."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

import nestvec.v1
from nestvec.rpc.channels import PLAIN, ChannelSecurity, open_channel
from nestvec.rpc.server import Mounted, Server, ServerLimits, ServerSecurity
from nestvec.security.certificates import Material, client_material, server_credentials
from nestvec.security.files import ReloadedFiles
from nestvec.security.opening import open_security
from nestvec.security.settings import SecuritySection

PATIENT_S = 20.0
Call = Callable[[MethodDescriptor, Any], Any]


def methods() -> dict[str, MethodDescriptor]:
    """Every method of every .proto, by its path."""
    found = {}
    for module in pkgutil.iter_modules(nestvec.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"nestvec.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                for method in service.methods:
                    found[f"/{service.full_name}/{method.name}"] = method
    return found


def message(method: MethodDescriptor, **fields: Any) -> Any:
    """A request, with those of the fields that it has; `collection.name` where it is a message."""
    request = GetMessageClass(method.input_type)()
    known = method.input_type.fields_by_name
    for name, value in fields.items():
        if name not in known:
            continue
        if known[name].message_type is not None:
            getattr(request, name).name = value
        else:
            setattr(request, name, value)
    return request


def answers(method: MethodDescriptor, response: Any = None) -> Any:
    """A handler's behaviour: one answer, `response` or an empty one."""
    empty = GetMessageClass(method.output_type)() if response is None else response

    async def unary(request: Any, context: Any) -> Any:
        return empty

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield empty

    async def streams(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield empty

    if method.client_streaming:
        return streams
    return stream if method.server_streaming else unary


def every_service(behaviours: Mapping[str, Any] | None = None) -> list[Mounted]:
    """All services of all .proto files. behaviours: of some methods, by path."""
    given, found = behaviours or {}, []
    for module in pkgutil.iter_modules(nestvec.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        file = importlib.import_module(f"nestvec.v1.{module.name}").DESCRIPTOR
        stubs = importlib.import_module(f"nestvec.v1.{module.name}_grpc")
        for name, service in file.services_by_name.items():
            servicer: Any = type(name, (), {})()
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                setattr(servicer, method.name, given.get(path) or answers(method))
            add = getattr(stubs, f"add_{name}Servicer_to_server")
            found.append(Mounted(file, name, servicer, add))
    return found


@asynccontextmanager
async def secured_server(
    security: Mapping[str, Any],
    mounted: Sequence[Mounted] | None = None,
    limits: ServerLimits | None = None,
    others: Sequence[str] = (),
    shared: Sequence[str] = (),
) -> AsyncIterator[str]:
    """host:port of one with this section `security`."""
    opened = open_security(SecuritySection.model_validate(security), others, shared)
    credentials = None if opened.tls is None else server_credentials(opened.tls)
    server = Server(
        every_service() if mounted is None else mounted,
        limits or ServerLimits(drain_s=1.0),
        ServerSecurity(credentials, opened.guard),
    )
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop()


def shown(
    ca: Path | None = None, pair: tuple[Path, Path] | None = None, server_name: str | None = None
) -> ChannelSecurity:
    """What a client shows and checks."""
    if ca is None:
        return PLAIN
    chain, key = pair or (None, None)
    return ChannelSecurity(client_material(chain=chain, key=key, ca=ca), None, server_name)


def unchecked(ca: Path, pair: tuple[Path, Path] | None) -> ChannelSecurity:
    """As `shown`; the pair is read without a look at its dates: the server must refuse it."""
    chain, key = (None, None) if pair is None else (pair[0].read_bytes(), pair[1].read_bytes())
    read = ReloadedFiles("", (ca,), lambda data: Material(chain, key, data[0], None))
    return ChannelSecurity(read)


_LOST = "Internal error from Core"


async def call(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: Any, token: str | None = None
) -> tuple[grpc.StatusCode, str]:
    """Status and message of one call, whatever its kind. gRPC's own client now and then says that
    it could not write, where a server has refused the call by then: that is asked again.
    """
    answered = await _call(channel, method, request, token)
    for _ in range(3):
        if answered[1] != _LOST:
            break
        answered = await _call(channel, method, request, token)
    return answered


async def _call(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: Any, token: str | None
) -> tuple[grpc.StatusCode, str]:
    stub = stub_of(channel, method)
    metadata = None if token is None else (("authorization", f"Bearer {token}"),)
    asked = _once(request) if method.client_streaming else request
    try:
        if method.server_streaming:
            async for _ in stub(asked, timeout=PATIENT_S, metadata=metadata):
                pass
        else:
            await stub(asked, timeout=PATIENT_S, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def stub_of(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """Of one method."""
    kind = "stream" if method.client_streaming else "unary"
    kind += "_stream" if method.server_streaming else "_unary"
    made: Any = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return made


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


@asynccontextmanager
async def connected(
    address: str, security: ChannelSecurity = PLAIN
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with a connection of its own, closed in the end."""
    channel = open_channel(address, [("grpc.use_local_subchannel_pool", 1)], security)
    try:
        yield channel
    finally:
        await channel.close()
