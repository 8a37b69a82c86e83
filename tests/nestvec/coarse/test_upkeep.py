"""What a pause in writing is used for."""

from __future__ import annotations

import asyncio

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
