"""Changing the number of shards of a collection while it serves and takes writes.

Whole partitions move, and no document is encoded again: workers of the wanted layout are started
beside those that serve, fill themselves from the store and then follow the same log. Only when each
of its shards has a replica that has caught up are the front ends told, in one step. The layout
before goes on following the log, so going back is one step as well, until it is given up.

    begin     current A, coming B                      B is filled beside it
    switch    current B, previous A                    one compare-and-set in the registry
    finish    current B                                the workers of A may go
    back      current A, left B                        as `switch`, at any time before the end;
                                                       `switch` again, or `finish`, follows

Each step may be repeated after a crash of whoever takes it: what was done is seen in the registry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, ConfigError, NestvecError
from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    ClusterView,
    Layout,
    MemberRole,
    documents_key,
)
from nestvec.core.ports import Registry
from nestvec_cluster.topology import DEFAULT_POOL

_LOOK_AGAIN_S = 0.2
_MOST_SHARDS = 64
# A worker that follows the log under writes is a few changes behind; one that owes more than this
# does not keep up yet.
_OWES_AT_MOST = 1_000


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard of a layout that is being filled. ready: replicas that serve every collection that
    moves and keep up with its log. lag: of the best of them, else of the best there is.
    """

    shard: int
    workers: int
    ready: int
    documents: int
    lag: int


class Resharding:
    """The steps for one collection, or with EVERY_COLLECTION for all that have no layout of their
    own. read: the catalogue, without what is only being restored. start_workers: has all workers of
    a layout started, and returns when that is under way; stop_workers: the reverse. notice_s: after
    so long every front end has seen a change of the registry.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        read: Callable[[], Awaitable[Sequence[Collection]]],
        start_workers: Callable[[Layout], Awaitable[None]],
        stop_workers: Callable[[Layout], Awaitable[None]],
        notice_s: float = 1.0,
    ) -> None:
        self._registry = registry
        self._name = name
        self._read = read
        self._start_workers = start_workers
        self._stop_workers = stop_workers
        self._notice_s = notice_s

    async def assignment(self) -> Assignment:
        """As it stands. Raises ConfigError where nobody holds this collection."""
        return self._in(await self._registry.view())

    async def begin(self, shards: int) -> Layout:
        """Have the wanted layout filled beside the current one. Where its workers cannot be
        started, everything is as it was before. Raises ConfigError.
        """
        view = await self._registry.view()
        assignment = self._in(view)
        self._check_shards(shards, await self._moving(view))
        wanted = Layout(self._pool(assignment.current), shards)
        self._require_free(assignment, wanted)
        begun = assignment.coming is None
        if begun:
            # Before its workers are: they are ready once they hold what is assigned to them.
            await self._change(assignment, Assignment(assignment.current, coming=wanted))
        try:
            await self._start_workers(wanted)
        except NestvecError:
            if begun:
                await self.roll_back()
            raise
        return wanted

    async def wait_until_filled(
        self,
        layout: Layout,
        timeout_s: float,
        tell: Callable[[Sequence[ShardState]], None] = lambda _: None,
    ) -> None:
        """Return once each shard has a replica that has caught up. Raises BudgetSpent; asking again
        goes on where this ended. Raises ConfigError where the move was given up meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            view = await self._registry.view()
            if self._in(view).coming != layout:
                raise ConfigError(
                    f"{self._named()} is not being moved to {layout} any more: somebody else has "
                    f"switched or gone back; see `nestvec status`"
                )
            states = self.states(view, layout, await self._moving(view))
            tell(states)
            if all(one.ready for one in states):
                return
            if time.monotonic() >= deadline:
                raise BudgetSpent("reshard")
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def switch(self) -> Assignment:
        """Have front ends ask the layout that was filled, or the one that was left. Raises
        ConfigError where there is none, or one of its shards has nobody to answer.
        """
        view = await self._registry.view()
        assignment = self._in(view)
        wanted = assignment.coming or assignment.left
        if wanted is None:
            raise ConfigError(f"{self._named()} is not being moved; begin with a number of shards")
        await self._require_filled(view, wanted)
        return await self._become(assignment, Assignment(wanted, previous=assignment.current))

    async def roll_back(self) -> Assignment:
        """Back to the layout before, at once; or, before the switch, give the new one up. Raises
        ConfigError where there is no way back, and where it was gone already.
        """
        view = await self._registry.view()
        assignment = self._in(view)
        if assignment.coming is not None:
            after = Assignment(assignment.current)
            await self._change(assignment, after)
            await self._give_up_unused(assignment.coming)
            return after
        if assignment.left is not None:
            raise ConfigError(
                f"{self._named()} was gone back from {assignment.left} to {assignment.current} "
                f"already; ask {assignment.left.shards} shards again to undo that, or give that "
                f"layout up (--finish)"
            )
        if assignment.previous is None:
            await self._give_up_unused()
            raise ConfigError(
                f"{self._named()} has no layout to go back to: it was not moved, or the move is "
                f"finished; move it again"
            )
        await self._require_filled(view, assignment.previous)
        return await self._become(
            assignment, Assignment(assignment.previous, left=assignment.current)
        )

    async def finish(self) -> Assignment:
        """Give up the layout that is not asked. Raises ConfigError while one is being filled."""
        assignment = await self.assignment()
        if assignment.coming is not None:
            raise ConfigError(
                f"{self._named()} still asks {assignment.current}; switch to {assignment.coming} "
                f"first, or go back"
            )
        unasked = assignment.previous or assignment.left
        if unasked is None:
            await self._give_up_unused()
            return assignment
        # A front end that has not seen the switch yet asks the other layout.
        await asyncio.sleep(self._notice_s)
        after = Assignment(assignment.current)
        await self._change(assignment, after)
        await self._give_up_unused(unasked)
        return after

    def states(
        self, view: ClusterView, layout: Layout, collections: Sequence[Collection]
    ) -> list[ShardState]:
        """One a shard. collections: those that move."""
        keys = [documents_key(one.name, one.generation) for one in collections]
        return [_state(view, layout, shard, keys) for shard in range(layout.shards)]

    # --- how ------------------------------------------------------------------------------------

    async def _require_filled(self, view: ClusterView, wanted: Layout) -> None:
        states = self.states(view, wanted, await self._moving(view))
        empty = [one.shard for one in states if not one.ready]
        if empty:
            raise ConfigError(
                f"shard {empty[0]} of {wanted} has no replica that is ready for {self._named()}; "
                f"wait until it is filled, or see `nestvec status`"
            )

    async def _become(self, before: Assignment, after: Assignment) -> Assignment:
        await self._change(before, after)
        return after

    async def _give_up_unused(self, layout: Layout | None = None) -> None:
        """A layout, and what is left of this pool's others, where no collection needs them."""
        view = await self._registry.view()
        needed = {one for each in view.assignments.values() for one in each.layouts()}
        pool = DEFAULT_POOL if self._name == EVERY_COLLECTION else self._name
        there = {one.place.layout for one in view.members if one.place is not None}
        there |= {one for one, _ in view.promised}
        unused = {one for one in there if one.pool == pool} | ({layout} if layout else set())
        for one in sorted(unused - needed, key=str):
            await self._stop_workers(one)
            await self._registry.forget(one)

    def _in(self, view: ClusterView) -> Assignment:
        assignment = view.assignment(self._name)
        if assignment is None:
            raise ConfigError(f"no workers are assigned to {self._named()}; run `nestvec up` first")
        return assignment

    async def _moving(self, view: ClusterView) -> list[Collection]:
        """Which collections move. Raises ConfigError where the one that was named is not there."""
        listed = await self._read()
        if self._name == EVERY_COLLECTION:
            return [one for one in listed if one.name not in view.assignments]
        moving = [one for one in listed if one.name == self._name]
        if not moving:
            known = ", ".join(sorted(one.name for one in listed)) or "none"
            raise ConfigError(f"{self._named()} does not exist; collections here: {known}")
        return moving

    async def _change(self, before: Assignment, after: Assignment) -> None:
        view = await self._registry.view()
        # A collection that shares every collection's layout gets its own with its first move.
        own = view.assignments.get(self._name)
        if self._in(view) != before:
            raise ConfigError(
                f"the layout of {self._named()} was changed by somebody else just now; look at "
                f"`nestvec status` and try again"
            )
        shared = view.assignments.get(EVERY_COLLECTION)
        # One that is back where it came from shares again what happens to all.
        back = self._name != EVERY_COLLECTION and shared == after
        await self._registry.assign(self._name, own, None if back else after)

    def _require_free(self, assignment: Assignment, wanted: Layout) -> None:
        kept = assignment.previous or assignment.left
        if kept is not None or assignment.coming not in (None, wanted):
            way = "is being moved to" if assignment.coming else "was moved from"
            back = "" if assignment.left else ", or go back (--rollback),"
            raise ConfigError(
                f"{self._named()} {way} {assignment.coming or kept} (pool/shards), and is held by "
                f"{assignment.current}; finish that (--finish){back} before another number of "
                f"shards"
            )
        if wanted == assignment.current:
            raise ConfigError(f"{self._named()} has {wanted.shards} shards already; nothing to do")

    def _pool(self, current: Layout) -> str:
        """A collection that leaves a shared pool takes its workers under its own name."""
        if self._name == EVERY_COLLECTION:
            return current.pool
        if self._name in (DEFAULT_POOL, *(role.value for role in MemberRole)):
            raise ConfigError(
                f"{self._name!r} names a kind of process already, so this collection cannot have "
                f"workers of its own; move all with '{EVERY_COLLECTION}'"
            )
        return self._name

    def _named(self) -> str:
        if self._name == EVERY_COLLECTION:
            return "the pool of all collections"
        return f"collection {self._name!r}"

    def _check_shards(self, shards: int, collections: Sequence[Collection]) -> None:
        most = min((one.partitions for one in collections), default=_MOST_SHARDS)
        if not 1 <= shards <= most:
            raise ConfigError(
                f"{shards} shards: expected 1 to {most}, the number of partitions, which move whole"
            )


def _state(view: ClusterView, layout: Layout, shard: int, keys: Sequence[str]) -> ShardState:
    workers = view.workers(layout, shard)
    holding = [
        one for one in workers if one.is_ready and all(key in one.facts.documents for key in keys)
    ]
    ready = [one for one in holding if one.facts.lag <= _OWES_AT_MOST]
    return ShardState(
        shard,
        len(workers),
        len(ready),
        max((sum(one.facts.documents.get(key, 0) for key in keys) for one in workers), default=0),
        min((one.facts.lag for one in ready or workers), default=0),
    )
