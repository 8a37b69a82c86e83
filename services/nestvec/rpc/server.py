"""A gRPC server with what every nestvec process offers: health, reflection, limits, drain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nestvec.core.errors import ConfigError
from nestvec.rpc.interceptors import GuardedServer

_KIB = 1024
# A caller's metadata is an id and a token: what is larger is a mistake or an attack.
_MAX_METADATA_BYTES = 16 * _KIB
_KEEPALIVE_MS = 30_000


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """bytes of one message; calls and seconds."""

    max_message_bytes: int = 16 * _KIB * _KIB
    max_concurrent_calls: int = 1024
    drain_s: float = 10.0


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

    def __init__(self, mounted: Sequence[Mounted], limits: ServerLimits) -> None:
        self._limits = limits
        self._server = grpc.aio.server(
            options=_options(limits),
            maximum_concurrent_rpcs=limits.max_concurrent_calls,
        )
        self._health = health.aio.HealthServicer()
        names = [one.full_name for one in mounted]
        for one in mounted:
            one.add(one.servicer, GuardedServer(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self._names = ["", *names]
        self._leave = [one.leave for one in mounted if one.leave is not None]
        self.port = 0

    async def start(self, host: str, port: int, serving: bool = True) -> int:
        """Listen and report healthy, or not yet. Returns the port: the one given, or one that was
        free for 0.

        Raises ConfigError when the port is in use.
        """
        address = f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            self.port = 0
        if self.port == 0:
            raise ConfigError(
                f"cannot listen on {address}: the port is in use, or the host is not this "
                f"machine's; stop what holds it, or choose another port (0 takes a free one)"
            )
        await self._server.start()
        await self.tell_health(serving)
        return self.port

    async def tell_health(self, serving: bool) -> None:
        """Of this process and of each service. Calls are answered either way."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for name in self._names:
            await self._health.set(name, state)

    async def stop(self) -> None:
        """Report NOT_SERVING, let calls in flight finish, then close."""
        await self._health.enter_graceful_shutdown()
        for leave in self._leave:
            leave()
        await self._server.stop(self._limits.drain_s)


def _options(limits: ServerLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        # Without this a second server shares the port and takes half of the calls unnoticed.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 3),
    ]


def time_left_s(context: grpc.aio.ServicerContext[Any, Any], cap_s: float) -> float:
    """Seconds until the caller's deadline, at most the server's cap."""
    # The stubs say it always is a number; without a deadline it is None.
    remaining: Any = context.time_remaining()
    return cap_s if remaining is None else min(cap_s, float(remaining))
