"""A failover of Redis under writes and searches: Sentinel's after kill -9 and SIGSTOP, a cluster's.

Every write waits for a replica. Afterwards all that was acknowledged is there as it was
acknowledged, no number came twice, no search names a document twice or by an old text, and the same
process goes on without a restart.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.ports import StoreDeletion, StoreRecord
from tests.fault.history import History
from tests.support.long_runs import takes_long
from tests.support.redis_servers import LocalCluster, Server, Watched
from tests.support.stores import a_collection

PATIENCE_S = 40.0
WRITERS = 3
NAMES_PER_WRITER = 40
# Acknowledged writes, of all writers together: before the fault, and after it.
ENOUGH = 60
SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261124"))

Fault = Callable[[], None]


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


class Load:
    """Writers of disjoint documents, and a reader of all of them, on one store."""

    def __init__(self, store: RedisStore, docs: Collection) -> None:
        self._store = store
        self._docs = docs
        self._stopping = False
        self._versions = iter(range(1, 1 << 40))
        self.history = History()
        self.numbers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.wrong: list[str] = []
        self.longest_s = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(self._write(number))
            tasks.create_task(self._read())
            try:
                yield
            finally:
                self._stopping = True

    async def acknowledged(self, more: int) -> None:
        """Until so many further writes were."""
        target = self.history.acknowledged + more
        async with asyncio.timeout(PATIENCE_S):
            await eventually(lambda: self.history.acknowledged >= target)

    async def _write(self, number: int) -> None:
        chosen = random.Random(SEED + number)
        names = [f"w{number}-{i}" for i in range(NAMES_PER_WRITER)]
        while not self._stopping:
            some = chosen.sample(names, chosen.choice([1, 3, 10]))
            started = time.monotonic()
            try:
                await self._change(some, delete=chosen.random() < 0.2)
            except StoreUnavailable as error:
                self.failures.append(str(error))
                await asyncio.sleep(0.02)
            self.longest_s = max(self.longest_s, time.monotonic() - started)

    async def _change(self, names: list[str], *, delete: bool) -> None:
        version = next(self._versions)
        texts: dict[str, str | None] = {n: None if delete else f"{n} {version}" for n in names}
        self.history.begin(texts)
        if delete:
            await self._store.delete(self._docs, [StoreDeletion(n, version) for n in names])
        else:
            records = [
                StoreRecord(n, str(text).encode(), str(text).encode(), version)
                for n, text in texts.items()
            ]
            self.numbers.update(
                one.internal_id for one in await self._store.put(self._docs, records)
            )
        self.history.acknowledge(texts)

    async def _read(self) -> None:
        """What a search does: ids, then their vectors and payloads. Each is the document's own."""
        names = [f"w{number}-{i}" for number in range(WRITERS) for i in range(NAMES_PER_WRITER)]
        while not self._stopping:
            with suppress(StoreUnavailable):
                self.wrong += await wrong_hits(self._store, self._docs, names)
            await asyncio.sleep(0.005)


async def wrong_hits(store: RedisStore, docs: Collection, names: list[str]) -> list[str]:
    ids = await store.find(docs, names)
    present = ids >= 0
    found = ids[present]
    if len(set(found.tolist())) != len(found):
        return ["one number stands for two documents"]
    vectors = await store.vectors(docs, found)
    payloads = await store.payloads(docs, found)
    owners = np.array(names)[present].tolist()
    return [
        f"{name}: {vector!r}, {payload!r}"
        for name, vector, payload in zip(owners, vectors, payloads, strict=True)
        if vector != payload or vector is None or vector.split()[0] != name.encode()
    ]


async def settled(store: RedisStore, docs: Collection, history: History) -> list[str]:
    """What is wrong with what is there now."""
    names = history.names()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(StoreUnavailable):
            await store.find(docs, names)
            break
        assert time.monotonic() < deadline, "the store never came back"
        await asyncio.sleep(0.05)
    ids = await store.find(docs, names)
    texts = await store.vectors(docs, ids[ids >= 0])
    wrong = await wrong_hits(store, docs, names)
    there = [name for name, one in zip(names, ids.tolist(), strict=True) if one >= 0]
    found = {name: (text or b"").decode() for name, text in zip(there, texts, strict=True)}
    return history.settle(found) + wrong


async def survives(url: str, fault: Callable[[Collection], Fault], *, timeout_s: float) -> None:
    """Load, the fault in the middle of it, and load again until it is plain that all goes on.

    fault: breaks something and returns what mends it again. timeout_s: of one round trip.
    """
    settings = RedisSettings(
        url, command_timeout_s=timeout_s, wait_replicas=1, wait_timeout_s=timeout_s / 2
    )
    store = RedisStore(settings)
    mend: Fault = lambda: None  # noqa: E731
    try:
        docs = await store.create_collection(a_collection(), {})
        load = Load(store, docs)
        async with load.running():
            await load.acknowledged(ENOUGH)
            mend = await asyncio.to_thread(fault, docs)
            # First what was under way when it happened, then what came after.
            async with asyncio.timeout(PATIENCE_S):
                await eventually(lambda: bool(load.failures))
            await load.acknowledged(ENOUGH)
            mend()
            mend = lambda: None  # noqa: E731
            await load.acknowledged(ENOUGH)
        problems = await settled(store, docs, load.history)
        assert not problems, "\n".join(problems[:20])
        assert not load.wrong, "\n".join(load.wrong[:20])
        twice = [number for number, times in load.numbers.items() if times > 1 and number >= 0]
        assert not twice
        # Connections are bounded by the deadline, and a put is a few round trips at most.
        assert load.longest_s < PATIENCE_S
    finally:
        mend()
        await store.close()


def killed(server: Server) -> Fault:
    os.kill(server.pid, signal.SIGKILL)
    return lambda: None


def stopped(server: Server) -> Fault:
    os.kill(server.pid, signal.SIGSTOP)
    return lambda: os.kill(server.pid, signal.SIGCONT)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "breaks",
    [pytest.param(killed, id="killed"), pytest.param(stopped, id="stopped", marks=takes_long)],
)
async def test_sentinels_failover_loses_nothing_acknowledged(
    tmp_path: Path, breaks: Callable[[Server], Fault]
) -> None:
    # Two replicas: after the failover one of them still confirms.
    with Watched(tmp_path, replicas=2, sentinels=3) as watched:
        await survives(watched.url, lambda _: breaks(watched.primary), timeout_s=1.5)


@pytest.mark.timeout(150)
async def test_a_clusters_failover_loses_nothing_acknowledged() -> None:
    with LocalCluster(replicas=2) as cluster:

        def fault(docs: Collection) -> Fault:
            key = f"nestvec:{{{docs.name}:{docs.generation}:0}}:sequence"
            return killed(cluster.owner(key))

        await survives(cluster.url, fault, timeout_s=1.5)
