"""One shard of the coarse tier in a test: asking it, and waiting for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nestvec.coarse.app import CoarseApp
from nestvec.core.collection import Collection
from nestvec.core.ports import CoarseQuery
from nestvec.core.watermark import Watermark
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.faults import PATIENT_S

QUERY = unit(mrl_like(1, 64, seed=50))


def a_query(collection: Collection, count: int = 1000, **changes: object) -> CoarseQuery:
    """For everything that a shard has."""
    query = CoarseQuery(
        collection=collection.name,
        generation=collection.generation,
        fingerprint=collection.space.fingerprint,
        queries=QUERY[:, : collection.store_dim],
        coarse_dim=collection.tiers[0],
        count=count,
        bound_z=5.0,
    )
    return replace(query, **changes)  # type: ignore[arg-type]


async def found(app: CoarseApp, query: CoarseQuery) -> set[int]:
    """Internal ids. Fails where one is found twice."""
    answer = await app.search(query, PATIENT_S)
    (hits,) = answer.hits
    ids: list[int] = hits.ids.tolist()
    assert len(ids) == len(set(ids))
    return set(ids)


async def found_in_every_tier(app: CoarseApp, collection: Collection) -> set[int]:
    """Internal ids. Fails where tiers differ."""
    first, *others = [
        await found(app, a_query(collection, coarse_dim=dim)) for dim in collection.tiers
    ]
    assert all(one == first for one in others)
    return first


def mark_of(collection: Collection, ids: Iterable[int]) -> Watermark:
    """Reached when these can be found; deletions by their places in the log."""
    return Watermark.of_ids(collection.generation, [int(one) for one in ids])


async def reached(app: CoarseApp, collection: Collection, ids: Iterable[int]) -> None:
    """Wait until all of them can be found."""
    await app.reach(collection, mark_of(collection, ids), PATIENT_S)
