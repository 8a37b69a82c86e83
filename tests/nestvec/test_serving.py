"""How a process belongs to a cluster: it joins once it listens, and leaves when calls are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.opening import open_registry
from nestvec.config import Settings
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError
from nestvec.core.members import Member, MemberRole, MemberState
from nestvec.core.ports import Registry
from nestvec.core.space import Role
from nestvec.encoder import servicer as encoder_servicer
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.membership.lease import Lease
from nestvec.rpc.clients import RemoteEncoder, channel_to
from nestvec.serving import Hosted, Offer, advertised, host, member_of
from tests.support.registries import PATIENT_S, until
from tests.support.store_server import StoreServer

HEARTBEAT_S = 0.3
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def settings(server: StoreServer) -> Settings:
    server.redis.flushall()
    return settings_of(server)


def settings_of(store: StoreServer, /, **sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(
        {
            "server": {"port": 0, "drain_s": PATIENT_S, **sections.get("server", {})},
            "store": {"url": store.url},
            "cluster": {
                "name": "green",
                "heartbeat_s": HEARTBEAT_S,
                "node": "here",
                **sections.get("cluster", {}),
            },
        }
    )


class Gated(EncoderApp):
    """An encoder that answers when it is let."""

    def __init__(self) -> None:
        super().__init__(HashModel(64))
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def encode(self, texts: Any, role: Role, timeout_s: float) -> Floats:
        self.asked.set()
        await self.gate.wait()
        return await super().encode(texts, role, timeout_s)


@pytest.fixture
async def encoder() -> AsyncIterator[Gated]:
    encoder = Gated()
    yield encoder
    await encoder.close()


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[Registry]:
    async with AsyncExitStack() as stack:
        yield await open_registry(settings.store, settings.cluster, stack)


def opener_of(encoder: Gated) -> Any:
    async def opener(settings: Settings, stack: AsyncExitStack) -> Offer:
        service = encoder_servicer.mount(FixedEncoders(encoder), PATIENT_S)
        return Offer([service], fingerprint=encoder.space.fingerprint)

    return opener


async def health(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENT_S)
        return int(answer.status)


async def only_member(registry: Registry) -> Member:
    (member,) = (await registry.view()).members
    return member


async def test_a_process_joins_once_it_listens_and_is_ready_when_it_says_so(
    settings: Settings, encoder: Gated, registry: Registry
) -> None:
    async with AsyncExitStack() as stack:
        hosted = await host(settings, opener_of(encoder), stack, MemberRole.ENCODER)
        joined = await only_member(registry)
        assert joined.state is MemberState.STARTING
        assert await health(hosted.address) == NOT_SERVING
        await hosted.become_ready()
        ready = await only_member(registry)
        assert ready.state is MemberState.READY
        assert ready.name == f"encoder/{hosted.address}"
        assert (ready.address, ready.node) == (hosted.address, "here")
        assert ready.fingerprint == encoder.space.fingerprint
        assert ready.facts.memory_bytes > 1 << 20
        assert await health(ready.address) == SERVING
    assert (await registry.view()).members == ()


async def test_a_process_without_a_cluster_is_healthy_at_once_and_joins_nothing(
    server: StoreServer, encoder: Gated, registry: Registry
) -> None:
    alone = settings_of(server, cluster={"name": None})
    async with AsyncExitStack() as stack:
        hosted = await host(alone, opener_of(encoder), stack, MemberRole.ENCODER)
        assert hosted.lease is None
        assert await health(hosted.address) == SERVING
        assert (await registry.view()).members == ()


async def test_a_process_that_leaves_tells_answers_on_and_finishes_what_it_began(
    settings: Settings, encoder: Gated, registry: Registry
) -> None:
    stack = AsyncExitStack()
    hosted = await host(settings, opener_of(encoder), stack, MemberRole.ENCODER)
    await hosted.become_ready()
    channel = channel_to(hosted.address, 1 << 20)
    client = RemoteEncoder(channel, encoder.space)
    # It waits in the encoder until after everybody has been told, and after new calls are refused.
    slow = asyncio.create_task(client.encode(["slow"], Role.QUERY, PATIENT_S))
    await encoder.asked.wait()
    leaving = asyncio.create_task(stack.aclose())
    states = [MemberState.READY]

    async def look() -> None:
        states.append((await only_member(registry)).state)

    while states[-1] is MemberState.READY:
        await look()
    assert states[-1] is MemberState.DRAINING
    assert await health(hosted.address) == NOT_SERVING
    # Those who have not noticed yet are answered.
    encoder.gate.set()
    await client.encode(["late"], Role.QUERY, PATIENT_S)
    encoder.gate.clear()
    encoder.asked.clear()
    last = asyncio.create_task(client.encode(["last"], Role.QUERY, PATIENT_S))
    await encoder.asked.wait()
    await until_refused(hosted)
    # The lease is kept while a call is in flight.
    assert (await only_member(registry)).state is MemberState.DRAINING
    assert not leaving.done()
    encoder.gate.set()
    assert len(await last) == len(await slow) == 1
    await leaving
    assert (await registry.view()).members == ()
    await channel.close()


async def until_refused(hosted: Hosted) -> None:
    """Until no new connection is taken."""
    address, _, port = hosted.address.rpartition(":")
    async with asyncio.timeout(PATIENT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, int(port))
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_what_keeps_a_process_from_being_ready_keeps_it_from_being_asked(
    settings: Settings, encoder: Gated, registry: Registry
) -> None:
    gate = asyncio.Event()

    async def opener(settings: Settings, stack: AsyncExitStack) -> Offer:
        lease = Lease(
            registry,
            member_of(settings, MemberRole.ENCODER, "slot"),
            HEARTBEAT_S,
            until_ready=gate.wait,
        )
        return Offer([encoder_servicer.mount(FixedEncoders(encoder), PATIENT_S)], lease=lease)

    async with AsyncExitStack() as stack:
        hosted = await host(settings, opener, stack)
        readying = asyncio.create_task(hosted.become_ready())
        await asyncio.sleep(2 * HEARTBEAT_S)
        assert (await only_member(registry)).state is MemberState.STARTING
        assert await health(hosted.address) == NOT_SERVING
        gate.set()
        await readying
        assert (await only_member(registry)).state is MemberState.READY
        assert await health(hosted.address) == SERVING


async def test_becoming_ready_can_be_given_up(
    settings: Settings, encoder: Gated, registry: Registry
) -> None:
    """It is told to stop while it still reads its collections."""

    async def opener(settings: Settings, stack: AsyncExitStack) -> Offer:
        member = member_of(settings, MemberRole.ENCODER, "slot")
        never = asyncio.Event()
        lease = Lease(registry, member, HEARTBEAT_S, until_ready=never.wait)
        return Offer([encoder_servicer.mount(FixedEncoders(encoder), PATIENT_S)], lease=lease)

    async with AsyncExitStack() as stack:
        hosted = await host(settings, opener, stack)
        readying = asyncio.create_task(hosted.become_ready())
        await asyncio.sleep(0.05)
        readying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await readying
    assert (await registry.view()).members == ()


async def test_a_slot_keeps_its_name_and_a_second_process_takes_it_over(
    server: StoreServer, encoder: Gated, registry: Registry
) -> None:
    settings = settings_of(server, cluster={"slot": "encoder-a"})
    async with AsyncExitStack() as stack:
        first = await host(settings, opener_of(encoder), stack, MemberRole.ENCODER)
        async with AsyncExitStack() as other:
            second = await host(settings, opener_of(encoder), other, MemberRole.ENCODER)
            member = await only_member(registry)
            assert (member.name, member.address) == ("encoder-a", second.address)
            lease = first.lease
            assert lease is not None
            await until(lambda: not lease.answers, "the first one has noticed")
        await until(lambda: lease.answers, "the first one is back")
        assert (await only_member(registry)).address == first.address


@pytest.mark.parametrize(
    ("host_name", "given", "address"),
    [
        ("127.0.0.1", None, "127.0.0.1:9"),
        ("0.0.0.0", "worker.example:1234", "worker.example:1234"),
        ("0.0.0.0", "10.0.0.7:0", "10.0.0.7:9"),
    ],
)
def test_what_others_are_told_to_call(
    server: StoreServer, host_name: str, given: str | None, address: str
) -> None:
    settings = settings_of(server, server={"host": host_name}, cluster={"advertise": given})
    assert advertised(settings, 9) == address


@pytest.mark.parametrize(
    ("host_name", "given", "says"),
    [
        ("0.0.0.0", None, "cluster.advertise"),
        ("127.0.0.1", "nowhere", "expected host:port"),
        ("127.0.0.1", "nowhere:http", "expected host:port"),
        ("127.0.0.1", "nowhere:99999", "expected host:port"),
    ],
)
def test_an_address_that_nobody_can_call_is_refused(
    server: StoreServer, host_name: str, given: str | None, says: str
) -> None:
    settings = settings_of(server, server={"host": host_name}, cluster={"advertise": given})
    with pytest.raises(ConfigError, match=says):
        advertised(settings, 9)


async def test_a_registry_that_refuses_keeps_the_process_from_serving(
    server: StoreServer, encoder: Gated, registry: Registry
) -> None:
    blue = settings_of(server, cluster={"name": "blue"})
    with pytest.raises(ConfigError, match="belongs to cluster 'green'"):
        async with AsyncExitStack() as stack:
            await host(blue, opener_of(encoder), stack, MemberRole.ENCODER)
    assert (await registry.view()).members == ()
