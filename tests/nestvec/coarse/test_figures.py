"""What a scrape tells of a shard: documents, bytes and lag, and nothing once it is closed."""

from __future__ import annotations

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse.app import CoarseApp
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import FaultyStore, a_collection, created, written
from tests.support.scrape import all_series, value

NAME = "scraped-shard"
NEVER_S = 1000.0


async def test_a_shard_tells_its_tiers_and_how_far_it_is() -> None:
    store = FaultyStore()
    collection = await created(store, a_collection(name=NAME, tiers=(16, 32)))
    app = CoarseApp(store, NumpyFactory(), poll_s=NEVER_S)
    await written(store, collection, mrl_like(30, collection.store_dim, seed=1))
    await app.open(collection)
    status = {str(one.dim): one for one in await app.status(collection)}
    assert len(status) > 1
    for dim, one in status.items():
        assert value("nestvec_coarse_documents", collection=NAME, coarse_dim=dim) == 30.0
        assert value("nestvec_coarse_bytes", collection=NAME, coarse_dim=dim) == one.nbytes > 0
    names = {one.name_nbytes for one in status.values()}
    assert names == {value("nestvec_coarse_names_bytes", collection=NAME)}
    assert value("nestvec_coarse_lag_changes", collection=NAME) == 0.0
    await app.close()
    assert not any(("collection", NAME) in labels for _, labels in all_series())
