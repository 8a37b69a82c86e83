"""Channels that go on with new certificates and tokens when their files change.

gRPC takes a channel's credentials once, as it is made. So a channel with files behind it is made
anew when they change; calls under way finish on the one before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc

from nestvec.security.certificates import Material, channel_credentials
from nestvec.security.files import ReloadedFiles, TokenFile

Options: TypeAlias = Sequence[tuple[str, Any]]
AUTHORIZATION = "authorization"
# Calls on a channel that was replaced; streams that outlast it are opened again by whoever has one.
_OLD_CALLS_S = 600.0


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """How a process proves who it is to another, and checks whom it speaks to.

    tls: None for plain connections. authorization: makes the metadata of that name; None for none.
    server_name: the name that the other's certificate must bear; None for the host that is called.
    """

    tls: ReloadedFiles[Material] | None = None
    authorization: Callable[[], str] | None = None
    server_name: str | None = None

    def named(self, server_name: str) -> ChannelSecurity:
        """For servers that bear another name."""
        return ChannelSecurity(self.tls, self.authorization, server_name)


PLAIN = ChannelSecurity()


def token_header(token_file: TokenFile) -> Callable[[], str]:
    """For ChannelSecurity."""
    return lambda: token_file.header


def open_channel(
    address: str, options: Options, security: ChannelSecurity = PLAIN
) -> grpc.aio.Channel:
    """For asyncio. A plain one is gRPC's own."""
    make = _maker(address, options, security, grpc.aio.insecure_channel, grpc.aio.secure_channel)
    if security.tls is None and security.authorization is None:
        return cast("grpc.aio.Channel", make())
    return cast("grpc.aio.Channel", _AsyncRenewed(make, security))


def open_blocking_channel(
    address: str, options: Options, security: ChannelSecurity = PLAIN
) -> grpc.Channel:
    """As `open_channel`, for threads."""
    make = _maker(address, options, security, grpc.insecure_channel, grpc.secure_channel)
    if security.tls is None and security.authorization is None:
        return cast("grpc.Channel", make())
    return cast("grpc.Channel", _BlockingRenewed(make, security))


def _maker(
    address: str, options: Options, security: ChannelSecurity, plain: Any, secure: Any
) -> Callable[[], Any]:
    tls, named = security.tls, list(options)
    if tls is None:
        return lambda: plain(address, options=named)
    if security.server_name is not None:
        named.append(("grpc.ssl_target_name_override", security.server_name))
    return lambda: secure(address, channel_credentials(tls.value), options=named)


class _Renewed:
    """A channel whose place another takes when its files change."""

    def __init__(self, make: Callable[[], Any], security: ChannelSecurity) -> None:
        self._make = make
        self._tls = security.tls
        self._authorization = security.authorization
        self._version = 0 if self._tls is None else self._tls.version
        self._lock = threading.Lock()
        self._channel = make()

    def __getattr__(self, name: str) -> Any:
        # What is asked of a channel that is no call: its state.
        return getattr(self.current(), name)

    def unary_unary(self, path: str, *serializers: Any, **named: Any) -> _Method:
        """See grpc.Channel."""
        return _Method(self, "unary_unary", path, serializers, named)

    def unary_stream(self, path: str, *serializers: Any, **named: Any) -> _Method:
        """See grpc.Channel."""
        return _Method(self, "unary_stream", path, serializers, named)

    def stream_unary(self, path: str, *serializers: Any, **named: Any) -> _Method:
        """See grpc.Channel."""
        return _Method(self, "stream_unary", path, serializers, named)

    def stream_stream(self, path: str, *serializers: Any, **named: Any) -> _Method:
        """See grpc.Channel."""
        return _Method(self, "stream_stream", path, serializers, named)

    def current(self) -> Any:
        """The channel of today's files."""
        if self._tls is not None:
            self._tls.refresh_if_due()
            if self._tls.version != self._version:
                self._renew(self._tls.version)
        return self._channel

    def _renew(self, version: int) -> None:
        with self._lock:
            if version == self._version:
                return
            self._version = version
            before, self._channel = self._channel, self._make()
        self._retire(before)

    def metadata(self, given: Any) -> Any:
        """Of a call: with this process's own token in place of any that is passed on."""
        if self._authorization is None:
            return given
        kept = [(key, value) for key, value in given or () if key != AUTHORIZATION]
        return (*kept, (AUTHORIZATION, self._authorization()))

    def _retire(self, channel: Any) -> None:
        raise NotImplementedError


class _Method:
    """What generated code keeps of a channel for one method."""

    def __init__(
        self, channel: _Renewed, kind: str, path: str, serializers: Any, named: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._made_with = (path, serializers, named)
        self._on: Any = None
        self._method: Any = None

    @property
    def renewed(self) -> object:
        """Another one after each renewal."""
        return self._channel.current()

    def __call__(self, *requests: Any, metadata: Any = None, **call: Any) -> Any:
        method, metadata = self._current(), self._channel.metadata(metadata)
        return method(*requests, metadata=metadata, **call)

    def future(self, *requests: Any, metadata: Any = None, **call: Any) -> Any:
        """See grpc.UnaryUnaryMultiCallable."""
        method, metadata = self._current(), self._channel.metadata(metadata)
        return method.future(*requests, metadata=metadata, **call)

    def _current(self) -> Any:
        channel = self._channel.current()
        if channel is not self._on:
            path, serializers, named = self._made_with
            self._method = getattr(channel, self._kind)(path, *serializers, **named)
            self._on = channel
        return self._method


class _AsyncRenewed(_Renewed):
    def __init__(self, make: Callable[[], Any], security: ChannelSecurity) -> None:
        super().__init__(make, security)
        self._retiring: dict[asyncio.Task[None], Any] = {}

    def _retire(self, channel: Any) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(_OLD_CALLS_S))
        self._retiring[task] = channel
        task.add_done_callback(lambda _: self._retiring.pop(task))

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        retiring = list(self._retiring.items())
        for task, _ in retiring:
            task.cancel()
        await asyncio.gather(*(task for task, _ in retiring), return_exceptions=True)
        for channel in (*(channel for _, channel in retiring), self._channel):
            await channel.close(grace)

    async def __aenter__(self) -> _AsyncRenewed:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _BlockingRenewed(_Renewed):
    def __init__(self, make: Callable[[], Any], security: ChannelSecurity) -> None:
        super().__init__(make, security)
        self._before: Any = None

    def _retire(self, channel: Any) -> None:
        # Closing one ends its calls: it is kept until the next, which is hours later.
        before, self._before = self._before, channel
        if before is not None:
            before.close()

    def close(self) -> None:
        """See grpc.Channel."""
        for channel in (self._before, self._channel):
            if channel is not None:
                channel.close()

    def __enter__(self) -> _BlockingRenewed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
