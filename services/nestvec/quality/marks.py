"""Since when what can be found: the positions of every shard, as they were before a query came.

A document below such a position could be found by any replica when the query was asked; one above
it may have been written later, and is no miss.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.ports import CoarseSearcher, Shards
from nestvec.core.watermark import Watermark
from nestvec.quality.reservoir import Source

# A query may take as long as its deadline, and needs a mark of before it began.
_KEPT = 16
# What was not asked for so long is no longer looked at.
_IDLE_S = 60.0
_TIMEOUT_S = 10.0
_MOST = 64


@dataclass(slots=True)
class _Known:
    collection: Collection
    wanted_s: float
    # (since when, what).
    marks: deque[tuple[float, Watermark]] = field(default_factory=lambda: deque(maxlen=_KEPT))


class Marks:
    """Of the collections that are asked."""

    def __init__(self, shards: Shards, clock: Callable[[], float] = time.monotonic) -> None:
        self._shards = shards
        self._clock = clock
        self._known: dict[Source, _Known] = {}

    def before(self, collection: Collection, began_s: float) -> Watermark | None:
        """The newest one that was known at `began_s`; None where there is none yet."""
        source = collection.name, collection.generation
        known = self._known.get(source)
        if known is None:
            if len(self._known) < _MOST:
                self._known[source] = _Known(collection, self._clock())
            return None
        known.wanted_s = self._clock()
        return next((mark for since, mark in reversed(known.marks) if since <= began_s), None)

    async def refresh(self) -> None:
        """Ask every shard how far it is. A shard that does not say keeps what it said before."""
        self._forget_idle()
        await asyncio.gather(*(self._refresh(one) for one in list(self._known.values())))

    def _forget_idle(self) -> None:
        now = self._clock()
        self._known = {s: k for s, k in self._known.items() if now - k.wanted_s < _IDLE_S}

    async def _refresh(self, known: _Known) -> None:
        collection = known.collection
        parts = await asyncio.gather(
            *(_progress(shard, collection) for shard in self._shards.of(collection.name))
        )
        mark = known.marks[-1][1] if known.marks else Watermark(collection.generation)
        for part in parts:
            if part is not None and part.generation == mark.generation:
                mark = mark.joined(part)
        if mark.sequences:
            known.marks.append((self._clock(), mark))


async def _progress(shard: CoarseSearcher, collection: Collection) -> Watermark | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await shard.progress(collection)
    except (NestvecError, TimeoutError):
        return None
