"""The replicas of one shard as one shard.

Reading takes one answer of one replica. What changes or describes what a shard holds concerns every
replica that answers queries: a document is searchable once all of them find it, since any of them
may be asked next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, NestvecError, WorkerUnavailable
from nestvec.core.inspection import Inspection, InspectionRequest, worst
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseQuery,
    CoarseSearcher,
    ShardVerification,
    SnapshotInfo,
    TierDifference,
    TierStatus,
)
from nestvec.core.watermark import Watermark
from nestvec.fanout.asking import ReplicaGroup
from nestvec.fanout.race import Question
from nestvec.fanout.replica import Replica
from nestvec.telemetry.logs import logger

Result = TypeVar("Result")
Shard = Replica[CoarseSearcher]

_STAGE = "coarse"
# For what is not on a query's path: building and reading a whole collection may take long.
_MANAGE_TIMEOUT_S = 600.0
# A look-up in memory. Whoever cannot wait so long cancels the call.
_NAMES_TIMEOUT_S = 5.0
_STATUS_TIMEOUT_S = 10.0
# Between two tries of a replica that failed and is still a member: it will be well, or leave.
_AGAIN_S = 0.1
_log = logger()


class _Left(WorkerUnavailable):
    """A replica that was waited for is no member any more."""


class ReplicatedShard:
    """Fills ports.CoarseSearcher over a group of replicas."""

    def __init__(self, group: ReplicaGroup[CoarseSearcher]) -> None:
        self.group = group

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """See ports.CoarseSearcher. One replica's answer."""
        kind = (
            query.collection,
            query.coarse_dim,
            query.bound_z is not None,
            # Within a factor of two they take about as long.
            query.count.bit_length(),
            len(query.queries).bit_length(),
            query.filter is not None,
            query.watermark is not None,
            query.certified_k > 0,
        )
        return await self.group.ask(
            Question(
                lambda peer, left_s: peer.search(query, left_s),
                kind,
                _STAGE,
                waits=query.watermark is not None,
            ),
            timeout_s,
        )

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        """See ports.CoarseSearcher. One replica's, as `search`."""
        return await self._of_one(
            ("names", collection.name, len(ids).bit_length()),
            _NAMES_TIMEOUT_S,
            lambda peer: peer.names(collection, ids),
        )

    # --- what all must do -----------------------------------------------------------------------

    async def open(self, collection: Collection) -> int:
        """See ports.CoarseSearcher. Every replica is told, whatever its state; one that fails finds
        out by itself. The greatest number of documents among them.
        """
        opened = await self._tell_all("open", lambda peer: peer.open(collection))
        if not opened:
            raise self.group.missing()
        return max(opened)

    async def drop(self, name: str, generation: int) -> None:
        """See ports.CoarseSearcher. As `open`; where no replica lives, there is nothing to free."""
        await self._tell_all("drop", lambda peer: peer.drop(name, generation))

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        """See ports.CoarseSearcher. Every replica that is ready has reached it; one that leaves
        meanwhile no longer counts, and one that becomes ready meanwhile does.
        """
        deadline_s = self.group.clock() + timeout_s
        reached: set[Shard] = set()
        while True:
            ready = self._ready()
            waiting = [one for one in ready if one not in reached]
            if not waiting:
                return
            await _all(self._reach(one, collection, watermark, deadline_s) for one in waiting)
            reached.update(one for one in waiting if not one.gone.done())

    async def progress(self, collection: Collection) -> Watermark:
        """See ports.CoarseSearcher. What every ready replica has passed: the least of each
        partition. Raises WorkerUnavailable where one of them does not say and is still a member.
        """
        marks = await self._of_all_ready(lambda peer: peer.progress(collection))
        least = dict(marks[0].sequences)
        for mark in marks[1:]:
            least = {p: min(s, mark.sequences[p]) for p, s in least.items() if p in mark.sequences}
        return Watermark(collection.generation, least)

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        """See ports.CoarseSearcher. Every ready replica is compared (and repaired); of each figure
        the worst one, and every document that any of them found damaged.
        """
        found = await self._of_all_ready(lambda peer: peer.verify(collection, repair, sample))
        return _worst(found)

    async def settle(self, collection: Collection) -> None:
        """See ports.CoarseSearcher. Every ready replica."""
        await self._of_all_ready(lambda peer: peer.settle(collection))

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        """See ports.CoarseSearcher. Every ready replica: any may have answered the search."""
        return worst(await self._of_all_ready(lambda peer: peer.inspect(collection, request)))

    # --- what one can say for all ---------------------------------------------------------------

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        """See ports.CoarseSearcher. One replica writes it: all of them start from the same place.
        Another one where that one cannot be reached.
        """
        return await self._of_one(
            "snapshot", _MANAGE_TIMEOUT_S, lambda peer: peer.snapshot(collection), hedged=False
        )

    async def status(self, collection: Collection) -> list[TierStatus]:
        """See ports.CoarseSearcher. One ready replica's: a document counts once."""
        return await self._of_one("status", _STATUS_TIMEOUT_S, lambda peer: peer.status(collection))

    # --- how ------------------------------------------------------------------------------------

    async def _of_one(
        self,
        kind: Hashable,
        timeout_s: float,
        call: Callable[[CoarseSearcher], Awaitable[Result]],
        hedged: bool = True,
    ) -> Result:
        question: Question[CoarseSearcher, Result] = Question(
            lambda peer, _: call(peer), kind, _STAGE, hedged, waits=not hedged
        )
        return await self.group.ask(question, timeout_s)

    def _ready(self) -> list[Shard]:
        ready = self.group.ready()
        if not ready:
            raise self.group.missing()
        return ready

    async def _of_all_ready(
        self, call: Callable[[CoarseSearcher], Awaitable[Result]]
    ) -> list[Result]:
        """What those said that are still members, one at least. Raises the first other error."""
        outcomes = await _all(_unless_gone(one, call) for one in self._ready())
        results = [one for one in outcomes if not isinstance(one, NestvecError)]
        errors = [one for one in outcomes if isinstance(one, NestvecError)]
        for error in errors:
            if not isinstance(error, _Left) or not results:
                raise error
        return results

    async def _tell_all(
        self, what: str, call: Callable[[CoarseSearcher], Awaitable[Result]]
    ) -> list[Result]:
        """What those said that succeeded. Raises the first error when all that there are failed."""
        members = list(self.group.members)
        outcomes = await _all(_unless_gone(one, call) for one in members)
        errors = {}
        for replica, outcome in zip(members, outcomes, strict=True):
            if isinstance(outcome, NestvecError):
                errors[replica.name] = outcome
                _log.warning("fanout.not_told", what=what, member=replica.name, why=str(outcome))
        if errors and len(errors) == len(members):
            raise next(iter(errors.values()))
        return [one for one in outcomes if not isinstance(one, NestvecError)]

    async def _reach(
        self, replica: Shard, collection: Collection, watermark: Watermark, deadline_s: float
    ) -> None:
        """Until it is there or has left. A failure may be the beginning of its leaving."""
        while not replica.gone.done():
            left_s = deadline_s - self.group.clock()
            if left_s <= 0.0:
                raise BudgetSpent("reach")

            async def reach(peer: CoarseSearcher, left_s: float = left_s) -> None:
                await peer.reach(collection, watermark, left_s)

            outcome = await _unless_gone(replica, reach)
            if outcome is None or isinstance(outcome, _Left):
                return
            if not isinstance(outcome, WorkerUnavailable):
                raise outcome
            if left_s <= _AGAIN_S:
                raise outcome
            await asyncio.wait((replica.gone,), timeout=_AGAIN_S)


async def _all(calls: Iterable[Awaitable[Result]]) -> list[Result]:
    """Of all; where one raises, the others are cancelled first."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(call)) for call in calls]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _awaited(call: Awaitable[Result]) -> Result:
    return await call


async def _unless_gone(
    replica: Shard, call: Callable[[CoarseSearcher], Awaitable[Result]]
) -> Result | NestvecError:
    """What it answers, or how it failed; _Left as soon as it is no member any more."""
    task = asyncio.ensure_future(call(replica.peer))
    try:
        await asyncio.wait((task, replica.gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    if task.cancelled():
        return _Left(f"{replica.name} has left the cluster")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, NestvecError):
        return error
    raise error


def _worst(found: Sequence[ShardVerification]) -> ShardVerification:
    by_dim: dict[int, list[TierDifference]] = {}
    for tier in (tier for one in found for tier in one.tiers):
        by_dim.setdefault(tier.dim, []).append(tier)
    tiers = [
        TierDifference(
            dim=dim,
            documents=min(one.documents for one in tiers),
            missing=max(one.missing for one in tiers),
            surplus=max(one.surplus for one in tiers),
            compared=max(one.compared for one in tiers),
            different=max(one.different for one in tiers),
        )
        for dim, tiers in sorted(by_dim.items())
    ]
    damaged = np.unique(np.concatenate([one.damaged for one in found]))
    return ShardVerification(tiers, max(one.store_documents for one in found), damaged)
