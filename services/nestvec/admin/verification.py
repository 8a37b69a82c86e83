"""The store and the coarse tiers compared, shard by shard, and put into one report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.placement import internal_id, split_id
from nestvec.core.ports import CoarseSearcher, TierDifference, VectorStore

DEFAULT_SAMPLE = 1000
# Damaged documents that a report names.
_NAMED = 1000


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """As found, before any repair. tiers: (shard, what differs in one tier of it). damaged_ids: of
    the first of the `damaged` documents whose stored vector or payload cannot be used.
    """

    tiers: list[tuple[int, TierDifference]]
    store_documents: int
    damaged_ids: list[str]
    damaged: int
    repaired: bool

    @property
    def consistent(self) -> bool:
        """Whether every tier held what the store holds."""
        return not any(one.missing or one.surplus or one.different for _, one in self.tiers)

    @property
    def clean(self) -> bool:
        """Whether there is nothing to mend and nothing that cannot be."""
        return self.consistent and not self.damaged


async def verify(
    store: VectorStore,
    shards: Sequence[CoarseSearcher],
    collection: Collection,
    repair: bool,
    sample: int,
) -> VerificationReport:
    """sample: rows a tier and shard whose codes are made again."""
    found = await asyncio.gather(*(shard.verify(collection, repair, sample) for shard in shards))
    damaged = np.concatenate([one.damaged for one in found])
    report = VerificationReport(
        tiers=[(number, tier) for number, one in enumerate(found) for tier in one.tiers],
        store_documents=sum(one.store_documents for one in found),
        damaged_ids=await _named(store, collection, damaged[:_NAMED]),
        damaged=len(damaged),
        repaired=False,
    )
    return replace(report, repaired=repair and not report.consistent)


async def _named(store: VectorStore, collection: Collection, ids: Ids) -> list[str]:
    """External ids. Where the payload, which holds it, is gone, the id map is looked through."""
    names: dict[int, str | None] = dict(
        zip(ids.tolist(), await store.external_ids(collection, ids), strict=True)
    )
    nameless = {internal for internal, name in names.items() if name is None}
    for partition in sorted({split_id(internal)[0] for internal in nameless}):
        async for batch in store.documents(collection, partition):
            for document in batch:
                internal = internal_id(partition, document.sequence)
                if internal in nameless:
                    names[internal] = document.external_id
    return [
        f"(deleted meanwhile: {internal})" if name is None else name
        for internal, name in names.items()
    ]
