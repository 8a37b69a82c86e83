"""A gRPC server with what every nestvec process offers: health, reflection, limits, drain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from nestvec.core.errors import ConfigError
from nestvec.rpc.interceptors import GuardedServer
from nestvec.security.guard import Guard

_KIB = 1024
# A caller's metadata is an id and a token: what is larger is a mistake or an attack.
_MAX_METADATA_BYTES = 16 * _KIB
_KEEPALIVE_MS = 30_000
# Until a connection has said that it speaks HTTP/2, with TLS; one that dawdles is closed.
_HANDSHAKE_MS = 10_000
# Calls that run on a connection that has reached its age.
_LAST_CALLS_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """bytes of one message; calls and seconds. max_streams: calls at once over one connection; what
    is more waits at the client, or is refused by gRPC (REFUSED_STREAM, which becomes UNAVAILABLE)
    before it begins. max_connections: what is more is refused. connection_age_s: after it clients
    connect again, and show their certificates; None for no such bound. connection_idle_s: without
    a call.
    """

    max_message_bytes: int = 16 * _KIB * _KIB
    max_concurrent_calls: int = 1024
    drain_s: float = 10.0
    max_streams: int = 512
    max_connections: int = 16_384
    connection_age_s: float | None = None
    connection_idle_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """credentials: of the port; None for a plain one. guard: who may call; None where all may."""

    credentials: grpc.ServerCredentials | None = None
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Mounted:
    """A servicer and how generated code adds it to a server. leave: called when the server takes no
    more calls, for a servicer with streams that would stay open.
    """

    file: FileDescriptor
    service: str
    servicer: Any
    add: Callable[[Any, Any], None]
    leave: Callable[[], None] | None = None

    @property
    def full_name(self) -> str:
        """The service's name on the wire."""
        return str(self.file.services_by_name[self.service].full_name)


class Server:
    """Listens, tells its health, drains."""

    def __init__(
        self,
        mounted: Sequence[Mounted],
        limits: ServerLimits,
        security: ServerSecurity | None = None,
    ) -> None:
        self._limits = limits
        self._security = security or ServerSecurity()
        self._server = grpc.aio.server(
            options=_options(limits),
            maximum_concurrent_rpcs=limits.max_concurrent_calls,
        )
        self.health = health.aio.HealthServicer()
        names = [one.full_name for one in mounted]
        guarded = GuardedServer(self._server, self._security.guard)
        for one in mounted:
            one.add(one.servicer, guarded)
        # A probe has no credentials, and is told yes or no.
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(
                (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            ),
            self._server if self._security.guard is None else guarded,
        )
        self._names = ["", *names]
        self._leave = [one.leave for one in mounted if one.leave is not None]
        self.port = 0

    async def start(self, host: str, port: int, serving: bool = True) -> int:
        """Listen and report healthy, or not yet. Returns the port: the one given, or one that was
        free for 0.

        Raises ConfigError when the port is in use.
        """
        self.port = _bound(self._listen_at, f"{host}:{port}")
        await self._server.start()
        await self.tell_health(serving)
        return self.port

    def _listen_at(self, address: str) -> int:
        credentials = self._security.credentials
        if credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, credentials)

    async def tell_health(self, serving: bool) -> None:
        """Of this process and of each service. Calls are answered either way."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for name in self._names:
            await self.health.set(name, state)

    async def stop(self) -> None:
        """Report NOT_SERVING, let calls in flight finish, then close."""
        await self.health.enter_graceful_shutdown()
        for leave in self._leave:
            leave()
        await self._server.stop(self._limits.drain_s)


class HealthPort:
    """A plain port that answers for a server's health and for nothing else: for probes that know
    neither TLS nor credentials, as those of Kubernetes.
    """

    def __init__(self, server: Server) -> None:
        self._server = grpc.aio.server(
            options=_options(ServerLimits(max_message_bytes=_KIB, max_connections=256)),
            maximum_concurrent_rpcs=256,
        )
        health_pb2_grpc.add_HealthServicer_to_server(server.health, self._server)
        self.port = 0

    async def start(self, host: str, port: int) -> int:
        """As Server.start."""
        self.port = _bound(self._server.add_insecure_port, f"{host}:{port}")
        await self._server.start()
        return self.port

    async def stop(self) -> None:
        """Close. Health is told until then."""
        await self._server.stop(None)


def _bound(listen: Callable[[str], int], address: str) -> int:
    """The port. Raises ConfigError."""
    try:
        port = listen(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ConfigError(
            f"cannot listen on {address}: the port is in use, or the host is not this "
            f"machine's; stop what holds it, or choose another port (0 takes a free one)"
        )
    return port


def _options(limits: ServerLimits) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        # Without this a second server shares the port and takes half of the calls unnoticed.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        # A client that pings more often is sent away after the second time.
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 3),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", round(limits.connection_idle_s * 1e3)),
    ]
    if limits.connection_age_s is not None:
        options += [
            ("grpc.max_connection_age_ms", round(limits.connection_age_s * 1e3)),
            ("grpc.max_connection_age_grace_ms", _LAST_CALLS_MS),
        ]
    return options


def time_left_s(context: grpc.aio.ServicerContext[Any, Any], cap_s: float) -> float:
    """Seconds until the caller's deadline, at most the server's cap."""
    # The stubs say it always is a number; without a deadline it is None.
    remaining: Any = context.time_remaining()
    return cap_s if remaining is None else min(cap_s, float(remaining))
