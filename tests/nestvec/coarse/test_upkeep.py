"""What a pause in writing is used for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse import upkeep
from nestvec.coarse.app import CoarseApp
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import PATIENT_S, FaultyStore, a_collection, created, written
from tests.support.shards import reached


async def test_freed_memory_is_given_back_once_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_IDLE_S", 0.01)
    times: list[None] = []
    monkeypatch.setattr(upkeep, "give_back", lambda: times.append(None))
    store = FaultyStore()
    app = CoarseApp(store, NumpyFactory())
    docs = await created(store, a_collection())
    await app.open(docs)
    await asyncio.wait_for(app.settle(docs), PATIENT_S)
    before = len(times)
    await reached(app, docs, await written(store, docs, mrl_like(20, 64, seed=1)))
    await asyncio.wait_for(app.settle(docs), PATIENT_S)
    given = len(times)
    assert given > before
    # Nothing is written, and nothing is freed.
    await asyncio.sleep(0.1)
    assert len(times) == given
    await app.close()


async def test_what_comes_while_segments_are_looked_at_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    served: Any = SimpleNamespace(
        changed_at=loop.time() - 1.0, changed=asyncio.Event(), settled=asyncio.Event()
    )
    merged_of: list[float] = []
    settled: list[bool] = []

    async def compact(of: Any, threads: object, idle: bool) -> bool:
        settled.append(of.settled.is_set())
        if idle:
            merged_of.append(of.changed_at)
        if len(settled) == 1:
            # A write, and then this takes longer than any pause.
            of.changed_at = loop.time()
            await asyncio.sleep(5 * upkeep._IDLE_S)
        return False

    monkeypatch.setattr(upkeep, "_IDLE_S", 0.01)
    monkeypatch.setattr(upkeep, "_compact", compact)
    task = asyncio.create_task(upkeep.keep_up(served, SimpleNamespace()))  # type: ignore[arg-type]
    await asyncio.wait_for(served.settled.wait(), 10.0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert merged_of[-1] == served.changed_at
    assert settled == [False, False]
