"""How far the shards are behind the store: waiting for them, and a bound on what they may owe.

Shards follow the log by themselves. What is stored and not yet found by every shard is counted for
each collection; where it is too much, writes wait, so that a slow shard slows acknowledgements and
fills no memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nestvec.core.collection import Collection
from nestvec.core.errors import (
    BudgetSpent,
    NestvecError,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.placement import partitions_of
from nestvec.core.ports import CoarseSearcher, Shards, VectorStore
from nestvec.core.watermark import Watermark

# A shard that is busy or restarts is asked again.
_PASSING = (WorkerUnavailable, StoreUnavailable, Overloaded, BudgetSpent)
_ASK_AGAIN_S = 0.2
# The longest that a layout beside the current one is waited for.
_BESIDE_S = 1.0
# The owed documents are kept in about this many pieces, however small the writes are.
_PIECES = 64


@dataclass(slots=True)
class _Piece:
    """Changes that stand together in what is owed."""

    watermark: Watermark
    documents: int


@dataclass(slots=True)
class _Backlog:
    """What shards owe to one collection, oldest first. passed: what all of them have passed."""

    passed: Watermark
    pieces: deque[_Piece] = field(default_factory=deque)
    documents: int = 0
    # Writers that wait take turns, so that they ask the shards once.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, watermark: Watermark, documents: int, piece_size: int) -> None:
        self.documents += documents
        if self.pieces and self.pieces[-1].documents < piece_size:
            last = self.pieces[-1]
            last.watermark = last.watermark.joined(watermark)
            last.documents += documents
        else:
            self.pieces.append(_Piece(watermark, documents))

    def pass_by(self, watermark: Watermark) -> None:
        self.passed = self.passed.joined(watermark)
        while self.pieces and self.pieces[0].watermark.reached_by(self.passed.sequences):
            self.documents -= self.pieces.popleft().documents


class Visibility:
    """All shards of all collections, as those who write see them."""

    def __init__(self, shards: Shards, store: VectorStore, max_lag_documents: int) -> None:
        self._shards = shards
        self._store = store
        self._max_lag = max_lag_documents
        self._backlogs: dict[tuple[str, int], _Backlog] = {}

    def wrote(self, collection: Collection, watermark: Watermark, documents: int) -> None:
        """Count what was stored just now."""
        self._backlog(collection).add(watermark, documents, max(1, self._max_lag // _PIECES))

    def lag(self, collection: Collection) -> int:
        """About how many changes are stored and not known to be found by every shard."""
        return self._backlog(collection).documents

    async def reach(
        self, collection: Collection, watermark: Watermark, patience_s: float
    ) -> dict[int, NestvecError]:
        """Wait until every shard has passed what the watermark says of its partitions.

        Returns why not, by partition: nothing when all are there.
        """
        others = [
            self._reach_all(shards, collection, watermark, min(patience_s, _BESIDE_S))
            for shards in self._shards.beside(collection.name)
        ]
        shards = self._shards.of(collection.name)
        # While a collection moves, a front end may be a moment ahead of this process or behind it.
        late, *_ = await asyncio.gather(
            self._reach_all(shards, collection, watermark, patience_s), *others
        )
        if not late:
            self._backlog(collection).pass_by(watermark)
        return late

    async def _reach_all(
        self,
        shards: Sequence[CoarseSearcher],
        collection: Collection,
        watermark: Watermark,
        patience_s: float,
    ) -> dict[int, NestvecError]:
        """Why not, by partition."""
        count = len(shards)
        waits = {}
        for number, shard in enumerate(shards):
            part = watermark.within(partitions_of(number, collection.partitions, count))
            if part.sequences:
                waits[number] = _reach(shard, collection, part, patience_s)
        errors = dict(zip(waits, await asyncio.gather(*waits.values()), strict=True))
        return {
            partition: error
            for number, error in errors.items()
            if error is not None
            for partition in partitions_of(number, collection.partitions, count)
        }

    async def progress(self, collection: Collection) -> Watermark:
        """What has been passed, for the partitions of all shards that answer. Raises the error of
        one of them when none does.
        """
        answers = await asyncio.gather(
            *(shard.progress(collection) for shard in self._shards.of(collection.name)),
            return_exceptions=True,
        )
        passed = Watermark(collection.generation)
        errors = []
        for answer in answers:
            if isinstance(answer, Watermark):
                passed = passed.joined(answer)
            elif isinstance(answer, NestvecError):
                errors.append(answer)
            else:
                raise answer
        if len(errors) == len(answers):
            raise errors[0]
        self._backlog(collection).pass_by(passed)
        return passed

    async def make_room(self, collection: Collection, patience_s: float) -> None:
        """Wait while shards owe more than they may. Raises Overloaded when it takes too long."""
        backlog = self._backlog(collection)
        if backlog.documents <= self._max_lag:
            return
        deadline = time.monotonic() + patience_s
        async with backlog.lock:
            while backlog.documents > self._max_lag:
                oldest = backlog.pieces[0].watermark
                late = await self.reach(collection, oldest, deadline - time.monotonic())
                if not late:
                    continue
                await self._forget_lost(collection, backlog)
                if backlog.documents > self._max_lag:
                    raise Overloaded(_owed(backlog.documents, self._max_lag, late))

    async def _forget_lost(self, collection: Collection, backlog: _Backlog) -> None:
        """What the store lost in a crash is waited for in vain: expect no more than it has."""
        there = await self._store.positions(collection, range(collection.partitions))
        for piece in backlog.pieces:
            kept = {p: s for p, s in piece.watermark.sequences.items() if s <= there.get(p, 0)}
            piece.watermark = Watermark(collection.generation, kept)
        backlog.pass_by(Watermark(collection.generation))

    def _backlog(self, collection: Collection) -> _Backlog:
        key = collection.name, collection.generation
        backlog = self._backlogs.get(key)
        if backlog is None:
            backlog = self._backlogs[key] = _Backlog(Watermark(collection.generation))
        return backlog


async def _reach(
    shard: CoarseSearcher, collection: Collection, watermark: Watermark, patience_s: float
) -> NestvecError | None:
    """None once it is there. Asks again while that can help."""
    deadline = time.monotonic() + patience_s
    while True:
        left = deadline - time.monotonic()
        try:
            await shard.reach(collection, watermark, max(left, 0.001))
        except _PASSING as error:
            if deadline - time.monotonic() <= _ASK_AGAIN_S:
                return error
            await asyncio.sleep(_ASK_AGAIN_S)
        except NestvecError as error:
            return error
        else:
            return None


def _owed(documents: int, limit: int, late: dict[int, NestvecError]) -> str:
    partition, error = next(iter(late.items()))
    return (
        f"{documents:,} changes are stored and not searchable yet, more than the {limit:,} of "
        f"ingest.max_lag_documents; the shard of partition {partition}: {error}; "
        f"send the document again later"
    )
