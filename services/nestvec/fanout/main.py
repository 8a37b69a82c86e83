"""Open the shards and the encoder of a cluster for an application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from weakref import WeakKeyDictionary

import grpc

from nestvec.adapters.opening import open_registry
from nestvec.config import Settings
from nestvec.core.errors import ConfigError, NestvecError, WorkerUnavailable
from nestvec.core.members import Member, MemberRole, MemberState
from nestvec.core.ports import CoarseSearcher, Encoder, Shards
from nestvec.core.space import Space
from nestvec.fanout.cluster_shards import ClusterShards
from nestvec.fanout.replica import Connection
from nestvec.fanout.replicated_encoder import ReplicatedEncoder
from nestvec.fanout.writers import Writers
from nestvec.membership.watch import Watch
from nestvec.rpc.clients import (
    RECONNECT_MS,
    RemoteCoarse,
    RemoteEncoder,
    channel_to,
)
from nestvec.rpc.securing import channel_security
from nestvec.telemetry.logs import logger

# Calls of a member that is gone may still be answered for so long.
_HANG_UP_S = 1.0
_FIRST_ENCODER_S = 60.0
_DESCRIBE_S = 5.0
_log = logger()

Hangup = Callable[[], Awaitable[None]]

# One watch for all that one stack opens: a process looks at the registry once, not once a port.
_watches: WeakKeyDictionary[AsyncExitStack, Watch] = WeakKeyDictionary()


async def open_watch(settings: Settings, stack: AsyncExitStack) -> Watch:
    """The cluster's view; the same one for every call with this stack, which closes it.

    Raises ConfigError or StoreUnavailable.
    """
    if settings.cluster.name is None:
        raise ConfigError(
            "encoder.from_cluster is set and cluster.name is not; name the cluster whose encoders "
            "are meant, or remove from_cluster"
        )
    watch = _watches.get(stack)
    if watch is None:
        registry = await open_registry(settings.store, settings.cluster, stack)
        watch = Watch(registry, settings.cluster.heartbeat_s)
        await watch.start()
        stack.push_async_callback(watch.close)
        _watches[stack] = watch
    return watch


async def open_cluster_shards(settings: Settings, stack: AsyncExitStack) -> Shards:
    """The shards of every collection, wherever they are now."""
    watch = await open_watch(settings, stack)
    shards = ClusterShards(watch, partial(connect_coarse, settings))
    shards.start()
    stack.push_async_callback(shards.close)
    return shards


async def open_cluster_encoder(settings: Settings, stack: AsyncExitStack) -> Encoder:
    """All encoders of one space. Waits for the first. Raises WorkerUnavailable."""
    watch = await open_watch(settings, stack)
    space = await _learned_space(settings, watch)
    encoder = ReplicatedEncoder(watch, space, partial(connect_encoder, settings, space))
    encoder.start()
    stack.push_async_callback(encoder.close)
    return encoder


async def open_writers(settings: Settings, stack: AsyncExitStack) -> Writers[grpc.aio.Channel]:
    """Channels to the processes that take writes and administration."""
    watch = await open_watch(settings, stack)

    def connect(member: Member) -> Connection[grpc.aio.Channel]:
        channel, hang_up = _channel(settings, member)
        return Connection(channel, hang_up)

    writers = Writers(watch, connect)
    writers.start()
    stack.push_async_callback(writers.close)
    return writers


def _channel(settings: Settings, member: Member) -> tuple[grpc.aio.Channel, Hangup]:
    most = settings.server.max_message_bytes
    channel = channel_to(member.address, most, channel_security(settings), RECONNECT_MS)
    return channel, partial(channel.close, _HANG_UP_S)


def connect_coarse(settings: Settings, member: Member) -> Connection[CoarseSearcher]:
    """To one incarnation of a worker; no other one answers for it."""
    channel, close_channel = _channel(settings, member)
    peer = RemoteCoarse(channel, member.name, member.incarnation)

    async def hang_up() -> None:
        # First, since a stream that stays open would keep the channel waiting for it.
        await peer.close(_HANG_UP_S)
        await close_channel()

    return Connection(peer, hang_up)


def connect_encoder(settings: Settings, space: Space, member: Member) -> Connection[Encoder]:
    """To an encoder; an answer of another space is refused."""
    channel, hang_up = _channel(settings, member)
    return Connection(RemoteEncoder(channel, space), hang_up)


async def _learned_space(settings: Settings, watch: Watch) -> Space:
    """What one of the encoders says of itself: the first by name that answers."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _FIRST_ENCODER_S
    why = "no encoder has joined"
    while loop.time() < deadline_s:
        for member in watch.view.of_role(MemberRole.ENCODER):
            if member.state is not MemberState.READY:
                why = f"{member.name} is {member.state}"
                continue
            try:
                return await _described(settings, member)
            except NestvecError as error:
                why = f"{member.name}: {error}"
                _log.warning("fanout.encoder_not_described", member=member.name, why=str(error))
        await asyncio.sleep(settings.cluster.heartbeat_s)
    raise WorkerUnavailable(
        f"no encoder of cluster {settings.cluster.name!r} was ready within "
        f"{_FIRST_ENCODER_S:.0f} s ({why}); `nestvec status` shows who is there"
    )


async def _described(settings: Settings, member: Member) -> Space:
    channel, hang_up = _channel(settings, member)
    try:
        space = (await RemoteEncoder.connect(channel, _DESCRIBE_S)).space
    finally:
        await hang_up()
    space.require_same(member.fingerprint, f"encoder {member.name}, by its lease,")
    return space
