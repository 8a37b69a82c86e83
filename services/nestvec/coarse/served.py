"""One collection as a shard serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.names import NameTable
from nestvec.coarse.progress import Progress
from nestvec.coarse.tier import Tier, TierState
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.placement import internal_id

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Served:
    """mine: the partitions of this shard. tiers: what is searched, by dim, ascending; replaced
    whole. building: tiers that follow the log and cannot be searched yet. table: the keywords of
    the declared fields, for all tiers. names: external ids, for all tiers; None keeps none.

    writing: held by whoever reads the log or the store and then changes tiers or positions, so that
    what was read still holds when it is applied.
    """

    collection: Collection
    mine: range
    tiers: dict[int, Tier]
    table: FieldTable
    names: NameTable | None = None
    building: dict[int, Tier] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed_at: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    # The positions of the newest snapshot; none where tiers changed by something else than the log.
    saved: dict[int, int] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def all_tiers(self) -> list[Tier]:
        """Those that every change goes to. The shortest first: what it can index, all can."""
        return sorted((*self.tiers.values(), *self.building.values()), key=lambda tier: tier.dim)

    @property
    def documents(self) -> int:
        """How many can be found."""
        return next(iter(self.tiers.values())).state.live

    @property
    def unsaved(self) -> bool:
        """Whether a snapshot made now would not be the same as the newest one."""
        return any(s != self.saved.get(p, 0) for p, s in self.progress.positions.items())

    def touch(self) -> None:
        """Something changed: there may be something to seal or merge."""
        self.changed_at = asyncio.get_running_loop().time()
        self.settled.clear()
        self.changed.set()


def indexed_ids(state: TierState, partition: int | None = None) -> Ids:
    """(n,) int64, ascending: what a search can find, in all or in one partition."""
    low, high = (0, np.iinfo(np.int64).max)
    if partition is not None:
        low, high = internal_id(partition, 0), internal_id(partition, 0) + (1 << 48)
    parts = []
    for view in state.views:
        ids = view.segment.columns.ids
        # Ids ascend within a segment.
        rows = slice(*np.searchsorted(ids, (low, high)))
        parts.append(ids[rows] if view.alive is None else ids[rows][view.alive[rows]])
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)


async def to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, even when cancelled: a thread goes on, and must not be outrun by what waits for
    the lock that is held here.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
