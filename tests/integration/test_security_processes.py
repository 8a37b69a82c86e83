"""nestvec's own processes among each other, with one certificate for both directions."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nestvec.adapters.models.memory import HashModel
from nestvec.config import Settings
from nestvec.core.errors import ConfigError, Forbidden, WorkerUnavailable
from nestvec.core.members import Member, MemberRole
from nestvec.core.space import Role
from nestvec.encoder import servicer
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.fanout.main import connect_encoder
from nestvec.regions.main import _channel as region_channel
from nestvec.rpc.clients import RemoteEncoder
from nestvec.rpc.region_clients import RemoteRegion
from nestvec.rpc.securing import channel_security
from nestvec.rpc.server import Mounted
from nestvec.security.files import read_file
from nestvec.security.identity import Identity, caller_identity
from nestvec.serving import host, open_channel
from tests.support.certificates import Authority
from tests.support.secured import connected, secured_server
from tests.support.stores import free_port

PATIENT_S = 20.0


def settings_of(authority: Authority, name: str, **server: Any) -> Settings:
    """Of a process that is called `name`; those of `nestvec.internal` may do all."""
    certificate, key = authority.sign(name, f"DNS:{name}", "DNS:nestvec.internal")
    if name == "stranger":
        certificate, key = authority.sign(name, f"DNS:{name}")
    return Settings.model_validate(
        {
            "server": {"port": 0, **server},
            "security": {
                "tls": {
                    "cert_file": certificate,
                    "key_file": key,
                    "ca_file": authority.file,
                    "client_ca_file": authority.file,
                    "server_name": "nestvec.internal",
                },
                "grants": [
                    {
                        "certificates": ["nestvec.internal"],
                        "verbs": ["internal"],
                        "collections": ["*"],
                    }
                ],
            },
        }
    )


class Watched(EncoderApp):
    """Keeps who called."""

    def __init__(self) -> None:
        super().__init__(HashModel(64))
        self.callers: list[Identity | None] = []

    async def encode(self, texts: Any, role: Role, timeout_s: float) -> Any:
        self.callers.append(caller_identity())
        return await super().encode(texts, role, timeout_s)


def opener_of(encoder: EncoderApp) -> Any:
    async def opener(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
        return [servicer.mount(FixedEncoders(encoder), PATIENT_S)]

    return opener


async def test_processes_speak_to_each_other_and_to_nobody_else(tmp_path: Path) -> None:
    authority, encoder = Authority(tmp_path), Watched()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(encoder.close)
        served = await host(settings_of(authority, "encoder"), opener_of(encoder), stack)
        mine = settings_of(authority, "front-end")
        there = await RemoteEncoder.connect(await open_channel(mine, served.address, stack))
        vectors = await there.encode(["a", "b"], Role.QUERY, PATIENT_S)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        caller = encoder.callers[-1]
        assert caller is not None
        assert caller.names == ("front-end", "nestvec.internal")
        # As a cluster's front end does it, by the address in the registry.
        member = Member("encoder/0", MemberRole.ENCODER, served.address)
        by_lease = connect_encoder(mine, encoder.space, member)
        assert (await by_lease.peer.encode(["a"], Role.QUERY, PATIENT_S)).shape == (1, 64)
        await by_lease.close()
        # One that the authority has signed, and that is no process of nestvec's.
        other = settings_of(authority, "stranger")
        with pytest.raises(Forbidden, match="certificate:stranger"):
            await RemoteEncoder.connect(await open_channel(other, served.address, stack), 5.0)
        plain = Settings.model_validate({})
        channel = await open_channel(plain, served.address, stack)
        with pytest.raises(WorkerUnavailable):
            await RemoteEncoder(channel, encoder.space).encode(["a"], Role.QUERY, 5.0)


async def test_health_is_told_in_the_clear_where_the_settings_say(tmp_path: Path) -> None:
    port, encoder = free_port(), Watched()
    settings = settings_of(Authority(tmp_path), "encoder", health_port=port)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(encoder.close)
        await host(settings, opener_of(encoder), stack)
        async with connected(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_nothing_is_opened_for_a_port_that_may_not_listen() -> None:
    opened = []

    async def opener(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
        opened.append(settings)
        return []

    settings = Settings.model_validate({"server": {"host": "0.0.0.0", "port": 0}})
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match="beyond this machine"):
            await host(settings, opener, stack)
    assert opened == []


async def test_a_process_reads_each_file_once_as_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encoder = [], Watched()

    def counting(path: Path, what: str) -> bytes:
        read.append(path.name)
        return read_file(path, what)

    monkeypatch.setattr("nestvec.security.files.read_file", counting)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(encoder.close)
        await host(settings_of(Authority(tmp_path), "encoder"), opener_of(encoder), stack)
        # The authority stands for both who is called and who calls.
        assert sorted(read) == ["authority.crt", "authority.crt", "encoder.crt", "encoder.key"]


async def test_a_region_that_is_another_one_is_not_spoken_to(tmp_path: Path) -> None:
    """Whatever stands at the address: its certificate must name the region that is meant."""
    authority = Authority(tmp_path)
    settings = settings_of(authority, "eu.regions.nestvec")
    for region, answered in (("us", True), ("ap", False)):
        certificate, key = authority.sign(region, f"DNS:{region}.regions.nestvec")
        server = {
            "tls": {"cert_file": certificate, "key_file": key, "client_ca_file": authority.file},
            "grants": [{"certificates": ["x"], "verbs": ["search"], "collections": ["x"]}],
        }
        async with (
            secured_server(server, others=["eu"], shared=["docs"]) as address,
            AsyncExitStack() as stack,
        ):
            us = RemoteRegion(region_channel(settings, address, "us", stack), "us", "eu")
            with pytest.raises(WorkerUnavailable) as raised:
                await us.describe(PATIENT_S)
            # A server that does nothing answers with an empty message, which is no region's.
            assert ("says that it is ''" in str(raised.value)) is answered, raised.value


def test_channels_of_one_process_share_what_they_read(tmp_path: Path) -> None:
    settings = settings_of(Authority(tmp_path), "front-end")
    one, other = channel_security(settings), channel_security(settings, "us")
    assert one.tls is other.tls
    assert (one.server_name, other.server_name) == ("nestvec.internal", "us.regions.nestvec")
