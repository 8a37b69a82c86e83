"""Served tiers: what each one draws, and changes of the list in one step of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from nestvec.admin.allowing import require_allowed
from nestvec.core import sketch
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.measured import Evidence
from nestvec.core.ports import VectorStore


def asset_names(collection: Collection, dims: Iterable[int]) -> list[str]:
    """Of what some tiers of a collection drew."""
    return sketch.asset_names(dims, collection.store_dim)


def drawn(collection: Collection, dims: Iterable[int]) -> dict[str, bytes]:
    """What a generation draws once: the rotation and the dither of each tier's codes."""
    assets: dict[str, bytes] = {}
    for dim in dims:
        assets |= sketch.drawn_assets(dim, collection.store_dim, collection.rotation_seed)
    return assets


async def draw(collection: Collection, dims: Iterable[int]) -> dict[str, bytes]:
    """As `drawn`, in a thread: seconds on a busy machine, in which others are served, and the
    process keeps its lease.
    """
    return await asyncio.to_thread(drawn, collection, dims)


async def with_tier(
    store: VectorStore, collection: Collection, dim: int, evidence: Evidence
) -> Collection:
    """`collection` with one more tier, in the store too. evidence: beside its own; the budget stays
    its own. Raises TierNotTrained, or InvalidRequest when it is longer than what is stored, or may
    not serve under the collection's code.
    """
    collection.require_searchable(dim, "dim")
    if evidence.budget not in (None, collection.evidence.budget):
        raise InvalidRequest("evidence.budget", "a collection's budget is set when it is created")
    if dim in collection.tiers:
        return collection
    known = collection.evidence.with_more(evidence)
    changed = replace(collection, tiers=(*collection.tiers, dim), evidence=known)
    require_allowed(changed, (dim,), evidence.override)
    await store.update_collection(changed, await draw(changed, (dim,)))
    return changed


async def without_tier(store: VectorStore, collection: Collection, dim: int) -> Collection:
    """`collection` with one tier less, in the store too. Raises InvalidRequest for the last one."""
    if dim not in collection.tiers:
        return collection
    if len(collection.tiers) == 1:
        raise InvalidRequest(
            "dim",
            f"tier {dim} is the only one that collection {collection.name!r} serves; add another "
            f"first, or drop the collection",
        )
    left = tuple(one for one in collection.tiers if one != dim)
    changed = replace(collection, tiers=left)
    await store.update_collection(changed, {}, asset_names(collection, (dim,)))
    return changed
