"""Encoder replicas in a real Ray: they join the registry, follow their queues, and lose no call."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nestvec.adapters.opening import open_registry
from nestvec.config import Settings
from nestvec.core.errors import NestvecError
from nestvec.core.members import Member, MemberRole, MemberState
from nestvec.core.space import Role
from nestvec.fanout.main import open_cluster_encoder
from nestvec_cluster.encoder_scaling import EncoderPlan
from tests.support.long_runs import takes_long
from tests.support.ray_cluster import RaySession

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
_PATIENCE_S = 60.0
_PLACE = "nestvec-encoders"


@dataclass
class Driver:
    """Calls functions of encoder_deployment in a process that is a driver of Ray."""

    process: subprocess.Popen[str]
    settings: dict[str, Any]

    def call(self, name: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, _PLACE, *arguments]) + "\n")
        self.process.stdin.flush()
        # Ray tells of dead workers on the same stream.
        line = next(line for line in self.process.stdout if line.startswith("{"))
        answer = json.loads(line)
        if "error" in answer:
            raise NestvecError(answer["error"])
        return answer["result"]

    async def acall(self, name: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(self.call, name, *arguments)

    def plan(self, minimum: int, maximum: int, **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"num_cpus": 0.25, "target_queue": 4.0, "down_after_s": 3.0}
        plan = EncoderPlan(self.settings, minimum, maximum, **{**given, **changes})
        return plan.to_dict()


@pytest.fixture(scope="module")
def driver(ray_session: RaySession) -> Iterator[Driver]:
    topology = ray_session.topology
    settings = Settings.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": 0, "drain_s": 5},
            "store": {"url": f"redis://127.0.0.1:{topology.store.port}", "prefix": "encoders"},
            "encoder": {"model": "hash:32", "threads": 1},
            "cluster": {"name": "encoders", "heartbeat_s": 0.5},
            "log": {"level": "warning"},
        }
    ).model_dump(mode="json")
    settings["server"]["host"] = ""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.encoder_driver", str(ray_session.file)],
        env={**os.environ, **ray_session.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    one = Driver(process, settings)
    # Closes both streams; the driver ends when it reads no more.
    with process:
        yield one
        one.call("remove_encoder")


def client_settings(driver: Driver) -> Settings:
    settings = {**driver.settings, "server": {**driver.settings["server"], "host": "127.0.0.1"}}
    settings["encoder"] = {**settings["encoder"], "from_cluster": True}
    return Settings.model_validate(settings)


async def members(driver: Driver) -> list[Member]:
    settings = client_settings(driver)
    async with AsyncExitStack() as stack:
        registry = await open_registry(settings.store, settings.cluster, stack)
        return (await registry.view()).of_role(MemberRole.ENCODER)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not await what():  # noqa: ASYNC110  what other processes do sets no event
            await asyncio.sleep(0.2)


@asynccontextmanager
async def load(driver: Driver, callers: int = 4, text: str = "some words") -> AsyncIterator[Any]:
    """Callers that ask without a pause; gives what failed, and how many were answered."""
    told: dict[str, Any] = {"wrong": [], "answered": 0}
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        encoder = await open_cluster_encoder(client_settings(driver), stack)
        expected = await encoder.encode([text], Role.QUERY, 10.0)

        async def caller() -> None:
            while not stop.is_set():
                try:
                    vectors = await encoder.encode([text], Role.QUERY, 10.0)
                except NestvecError as error:
                    told["wrong"].append(repr(error))
                else:
                    told["answered"] += 1
                    if (vectors != expected).any():
                        told["wrong"].append("another vector")
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(caller()) for _ in range(callers)]
        try:
            yield told
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def test_replicas_join_the_registry_with_their_space(driver: Driver) -> None:
    assert await driver.acall("deploy_encoder", driver.plan(2, 2)) == ["encoder/0", "encoder/1"]
    found = await members(driver)
    assert [one.name for one in found] == ["encoder/0", "encoder/1"]
    assert {one.state for one in found} == {MemberState.READY}
    assert len({one.fingerprint for one in found}) == 1
    assert all(one.facts.memory_bytes > 0 for one in found)
    before = [one.incarnation for one in found]
    await driver.acall("deploy_encoder", driver.plan(2, 2))
    assert [one.incarnation for one in await members(driver)] == before


@takes_long
async def test_a_rolling_restart_loses_no_call(driver: Driver) -> None:
    await driver.acall("deploy_encoder", driver.plan(2, 2))
    before = {one.incarnation for one in await members(driver)}
    async with load(driver) as told:
        assert len(await driver.acall("restart_encoder")) == 2
    after = {one.incarnation for one in await members(driver)}
    assert not before & after
    assert told["wrong"] == []
    assert told["answered"] > 50


@takes_long
async def test_one_replica_alone_is_replaced_without_a_gap(driver: Driver) -> None:
    assert len(await driver.acall("scale_encoder", 1, 1)) == 1
    async with load(driver) as told:
        await driver.acall("restart_encoder")
    assert told["wrong"] == []


@takes_long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_replica_that_dies_or_hangs_comes_back(driver: Driver, number: int) -> None:
    await driver.acall("deploy_encoder", driver.plan(2, 2))
    victim, other = random.sample(await members(driver), 2)
    pid = _listening(int(victim.address.rpartition(":")[2]))
    os.kill(pid, number)

    async def back() -> bool:
        found = {one.name: one for one in await members(driver)}
        one = found.get(victim.name)
        return (
            one is not None
            and one.incarnation != victim.incarnation
            and one.state is MemberState.READY
        )

    await until(back)
    kept = {one.name: one.incarnation for one in await members(driver)}
    assert kept[other.name] == other.incarnation


@takes_long
async def test_the_number_follows_the_queue_between_the_bounds(driver: Driver) -> None:
    slow = {**driver.settings, "encoder": {**driver.settings["encoder"], "model": "hash:4096"}}
    plan = EncoderPlan(slow, 1, 3, num_cpus=0.25, target_queue=1.0, down_after_s=2.0).to_dict()
    await driver.acall("deploy_encoder", plan)
    text = " ".join(f"word{number}" for number in range(3_000))
    most = 0

    async def grown() -> bool:
        nonlocal most
        ready = [one for one in await members(driver) if one.state is MemberState.READY]
        most = max(most, len(ready))
        return len(ready) == 3

    driver.settings, before = slow, driver.settings
    try:
        async with load(driver, 12, text) as told:
            await until(grown)
    finally:
        driver.settings = before
    assert told["answered"] > 0

    async def shrunk() -> bool:
        return len(await members(driver)) == 1

    await until(shrunk)
    assert most == 3


async def test_gpus_that_are_not_there_are_refused(driver: Driver) -> None:
    with pytest.raises(NestvecError, match="GPUs are asked for"):
        await driver.acall("deploy_encoder", driver.plan(1, 1, num_gpus=1.0))


@takes_long
async def test_removing_leaves_nothing_and_may_be_repeated(driver: Driver) -> None:
    slots = await driver.acall("deploy_encoder", driver.plan(1, 1))
    assert len(slots) == 1
    assert await driver.acall("remove_encoder") == slots
    assert await driver.acall("remove_encoder") == []
    assert await members(driver) == []
    assert await driver.acall("encoder_status") is None
    with pytest.raises(NestvecError, match="no encoder is deployed"):
        await driver.acall("scale_encoder", 1, 1)


def _listening(port: int) -> int:
    """Whose process it is."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    listening = (one for one in lines if one[3] == "0A" and one[1].endswith(f":{port:04X}"))
    inode = next(listening)[9]
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink().name == f"socket:[{inode}]":
                return int(link.parts[2])
    raise AssertionError(f"nobody listens on {port}")
