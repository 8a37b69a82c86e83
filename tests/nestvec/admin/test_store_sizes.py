"""What collections cost in the store is measured in the background, and told until it is closed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from nestvec.adapters.memory_store import MemoryStore
from nestvec.admin import store_sizes
from nestvec.admin.main import open_store_sizes
from nestvec.admin.store_sizes import StoreSizes
from nestvec.config import load_settings
from nestvec.core.collection import Collection
from nestvec.core.errors import StoreUnavailable
from nestvec.core.ports import StoreUsage, VectorStore
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import SpyLog, a_collection, created, eventually, written
from tests.support.scrape import all_series, value

NAME = "sized-collection"


async def test_each_collection_is_told_as_the_store_counts_it(kept: VectorStore) -> None:
    collection = await created(kept, a_collection(name=NAME))
    await written(kept, collection, mrl_like(40, collection.store_dim, seed=1))
    sizes = StoreSizes(kept, rest_s=0.0)
    assert value("nestvec_store_documents", collection=NAME) is None
    await sizes.round()
    usage = await kept.usage(collection)
    assert value("nestvec_store_documents", collection=NAME) == 40.0
    vectors = value("nestvec_store_bytes", collection=NAME, part="vectors")
    payloads = value("nestvec_store_bytes", collection=NAME, part="payloads")
    assert vectors == pytest.approx(40 * usage.vector_bytes_per_document, rel=0.1)
    assert payloads == pytest.approx(40 * usage.payload_bytes_per_document, rel=0.1)
    assert vectors is not None
    assert (value("nestvec_store_used_bytes") or 0.0) > vectors
    await kept.drop_collection(collection)
    await sizes.round()
    assert value("nestvec_store_documents", collection=NAME) is None
    await sizes.close()


class AwayStore(MemoryStore):
    """One that cannot be asked what it uses while `away`."""

    def __init__(self) -> None:
        super().__init__()
        self.away, self.asked = True, 0

    async def was_asked(self) -> bool:
        return self.asked > 0

    async def usage(self, collection: Collection) -> StoreUsage:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("the store is away")
        return await super().usage(collection)


async def test_a_store_that_is_away_is_complained_of_once_and_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = SpyLog()
    monkeypatch.setattr(store_sizes, "_log", log)
    store = AwayStore()
    await created(store, a_collection(name=NAME))
    sizes = StoreSizes(store, every_s=0.005, rest_s=0.0)

    async def asked_again() -> bool:
        return store.asked > 2

    async def told() -> bool:
        return value("nestvec_store_documents", collection=NAME) == 0.0

    sizes.start()
    await eventually(asked_again)
    assert len(log.named("store.not_measured")) == 1
    store.away = False
    await eventually(told)
    await sizes.close()
    assert not any(("collection", NAME) in labels for _, labels in all_series())


@pytest.mark.parametrize("port", [None, 9100])
async def test_nothing_is_measured_where_nobody_can_ask(port: int | None) -> None:
    store = AwayStore()
    store.away = False
    await created(store, a_collection(name=NAME))
    settings = load_settings(None, {} if port is None else {"server.metrics_port": port})
    async with AsyncExitStack() as stack:
        open_store_sizes(settings, store, stack)
        if port is None:
            # A task that had been begun would have asked by then.
            await asyncio.sleep(0.01)
            assert store.asked == 0
        else:
            await eventually(store.was_asked)
