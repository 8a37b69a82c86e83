"""Shards over a real Valkey: they follow it through restarts, lost writes and a trimmed log."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.admin.tiers import drawn
from nestvec.coarse.app import CoarseApp
from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, StoreUnavailable
from nestvec.core.ports import ShardVerification, VectorStore
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import PATIENT_S, a_collection, created, deleted, eventually, written
from tests.support.shards import a_query, found, found_in_every_tier, mark_of, reached
from tests.support.store_server import StoreServer
from tests.support.stores import own_store

NEVER_S = 1000.0


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as running:
        yield running


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def store(server: EmbeddedValkey, stack: AsyncExitStack) -> RedisStore:
    opened = own_store(server)
    stack.push_async_callback(opened.close)
    return opened


def shards_over(
    store: VectorStore, stack: AsyncExitStack, count: int = 1, poll_s: float = NEVER_S
) -> list[CoarseApp]:
    apps = [
        CoarseApp(store, NumpyFactory(), number, count, load_batch=32, poll_s=poll_s)
        for number in range(count)
    ]
    for app in apps:
        stack.push_async_callback(app.close)
    return apps


def clean(found: ShardVerification) -> bool:
    return not len(found.damaged) and not any(
        tier.missing or tier.surplus or tier.different for tier in found.tiers
    )


@dataclass
class Writer:
    """Writes at random, and knows what must be found. live: name -> internal id."""

    store: VectorStore
    docs: Collection
    random: random.Random = field(default_factory=lambda: random.Random(1))
    live: dict[str, int] = field(default_factory=dict)

    async def write(self) -> list[int]:
        """One batch. Returns what to wait for."""
        names = self.random.sample([f"d{number}" for number in range(60)], 8)
        if self.random.random() < 0.3:
            places = await deleted(self.store, self.docs, names)
            for name in names:
                self.live.pop(name, None)
            return [one for one in places if one >= 0]
        vectors = mrl_like(len(names), 64, seed=self.random.randrange(1000))
        ids = await written(self.store, self.docs, vectors, names)
        self.live |= zip(names, ids.tolist(), strict=True)
        return list(ids.tolist())


async def test_every_write_is_found_right_after_it_by_whoever_names_it(
    store: RedisStore, stack: AsyncExitStack
) -> None:
    docs = await created(store, a_collection(tiers=(8, 32)))
    apps = shards_over(store, stack, count=2)
    for app in apps:
        await app.open(docs)
    writer = Writer(store, docs)
    for _ in range(40):
        query = a_query(docs, watermark=mark_of(docs, await writer.write()))
        seen = [await found(app, query) for app in apps]
        assert not seen[0] & seen[1]
        assert seen[0] | seen[1] == {*writer.live.values()}
    for app in apps:
        assert clean(await app.verify(docs, repair=False, sample=100))


async def test_more_shards_than_partitions_leave_some_with_nothing(
    store: RedisStore, stack: AsyncExitStack
) -> None:
    docs = await created(store, a_collection(partitions=2))
    apps = shards_over(store, stack, count=3)
    for app in apps:
        await app.open(docs)
    ids = await written(store, docs, mrl_like(20, 64, seed=1))
    held: set[int] = set()
    for app in apps:
        await reached(app, docs, ids)
        held |= await found(app, a_query(docs))
        await app.settle(docs)
        assert clean(await app.verify(docs, repair=True, sample=10))
    assert held == {*ids.tolist()}


async def test_tiers_change_and_comparisons_run_beside_writes_and_all_is_clean_in_the_end(
    store: RedisStore, stack: AsyncExitStack
) -> None:
    docs = await created(store, a_collection(tiers=(16,), partitions=4))
    apps = shards_over(store, stack, count=2, poll_s=0.002)
    for app in apps:
        await app.open(docs)
    writer = Writer(store, docs)
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await writer.write()
            # As ingest does, not far behind.
            told = [(await app.progress(docs)).sequences for app in apps]
            await store.tidy(docs, {**told[0], **told[1]}, keep=5)

    writing = asyncio.create_task(write())
    after = docs
    for tiers in ((8, 16), (8, 16, 64), (8, 64), (32, 64)):
        changed = replace(after, tiers=tiers)
        await store.update_collection(changed, drawn(changed, {*tiers} - {*after.tiers}))
        after = changed
        for app in apps:
            await app.open(after)
            found_now = await app.verify(after, repair=False, sample=30)
            assert clean(found_now), found_now
    stop.set()
    await writing
    held: set[int] = set()
    for app in apps:
        await app.settle(after)
        assert clean(await app.verify(after, repair=False, sample=100))
        held |= await found_in_every_tier(app, after)
    assert held == {*writer.live.values()}


async def test_a_worker_that_was_away_while_the_log_was_trimmed_is_brought_in_line(
    store: RedisStore, stack: AsyncExitStack
) -> None:
    docs = await created(store, a_collection(partitions=2))
    (app,) = shards_over(store, stack)
    await app.open(docs)
    writer = Writer(store, docs)
    await reached(app, docs, await writer.write())
    for _ in range(30):
        await writer.write()
    await store.tidy(docs, await store.positions(docs, range(2)), keep=1)
    await app.settle(docs)
    assert await found(app, a_query(docs)) == {*writer.live.values()}
    await reached(app, docs, await writer.write())
    assert await found(app, a_query(docs)) == {*writer.live.values()}


async def test_a_restart_of_the_store_stops_no_search_and_loses_nothing(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    with StoreServer(tmp_path) as server:
        store = RedisStore(RedisSettings(server.url, command_timeout_s=2.0))
        stack.push_async_callback(store.close)
        docs = await created(store, a_collection())
        (app,) = shards_over(store, stack, poll_s=0.01)
        await app.open(docs)
        ids = await written(store, docs, mrl_like(20, 64, seed=1))
        await reached(app, docs, ids)
        server.kill()
        with pytest.raises(BudgetSpent):
            await app.reach(docs, mark_of(docs, [int(ids[0]) + 1000]), 0.3)
        assert await found(app, a_query(docs)) == {*ids.tolist()}
        server.start_again()
        more = await _written_at_last(store, docs)
        await reached(app, docs, more)
        assert await found(app, a_query(docs)) == {*ids.tolist(), *more}
        assert clean(await app.verify(docs, repair=False, sample=100))
        await app.close()


@pytest.mark.parametrize("rewritten", [0, 3, 12, 40])
async def test_writes_that_a_crash_took_back_are_no_longer_found(
    tmp_path: Path, stack: AsyncExitStack, rewritten: int
) -> None:
    """The server comes back with an older file, and goes on under counts it gave out before."""
    with StoreServer(tmp_path / "data") as server:
        store = RedisStore(RedisSettings(server.url, command_timeout_s=2.0))
        stack.push_async_callback(store.close)
        docs = await created(store, a_collection(tiers=(8, 32), partitions=1))
        (app,) = shards_over(store, stack, poll_s=0.01)
        await app.open(docs)
        kept = await written(store, docs, mrl_like(20, 64, seed=1))
        shutil.copytree(tmp_path / "data", tmp_path / "older")
        lost = [
            *await written(store, docs, mrl_like(5, 64, seed=2)),
            *await written(store, docs, mrl_like(7, 64, seed=3), [f"l{row}" for row in range(7)]),
        ]
        await reached(app, docs, lost)
        assert {int(one) for one in lost} <= await found(app, a_query(docs))
        server.kill()
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(tmp_path / "older", tmp_path / "data")
        server.start_again()
        new: list[int] = []
        if rewritten:
            new = await _written_at_last(store, docs, rewritten)
            await reached(app, docs, new)

        async def forgotten() -> bool:
            # Nobody waits for what is gone: the shard sees it at its next look, which may come
            # between two searches here. Under load the first looks may find the server still
            # starting.
            try:
                await app.settle(docs)
            except StoreUnavailable:
                return False
            answers = [await found(app, a_query(docs, coarse_dim=dim)) for dim in docs.tiers]
            return all(answer == {*kept.tolist(), *new} for answer in answers)

        await eventually(forgotten)
        assert clean(await app.verify(docs, repair=False, sample=100))
        await app.close()


async def _written_at_last(store: RedisStore, docs: Collection, count: int = 5) -> list[int]:
    """Under new names, once the server is there again. Each tried once more must replace."""
    names = [f"new{row}" for row in range(count)]
    ids: list[int] = []

    async def taken() -> bool:
        try:
            placed = await written(store, docs, mrl_like(count, 64, seed=7), names)
        except Exception:  # noqa: BLE001  whatever a server that starts answers
            return False
        ids.extend(placed.tolist())
        return True

    async with asyncio.timeout(PATIENT_S):
        await eventually(taken)
    return ids
