"""Changing the number of shards of a collection while it serves and takes writes.

Whole partitions move, and no document is encoded again: workers of the wanted layout are started
beside those that serve, fill themselves from the store and then follow the same log. Only when each
of its shards has a replica that has caught up are the front ends told, in one step. The layout
before goes on following the log, so going back is one step as well, until it is given up.

    begin     current A                                B is filled beside it
    switch    current B, previous A                    one compare-and-set in the registry
    back      current A, previous B                    the same, at any time before the end
    finish    current B                                the workers of A may go

Each step may be repeated after a crash of whoever takes it: what was done is seen in the registry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, ConfigError
from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    ClusterView,
    Layout,
    MemberState,
    documents_key,
)
from nestvec.core.ports import Registry

_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard of a layout that is being filled. ready: replicas that serve every collection that
    moves and owe no change.
    """

    shard: int
    workers: int
    ready: int
    documents: int
    lag: int


class Resharding:
    """The steps for one collection, or with EVERY_COLLECTION for all that have no layout of their
    own. collections: those that move. start_workers: has all workers of a layout started, and
    returns when that is under way; stop_workers: the reverse.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        collections: Sequence[Collection],
        start_workers: Callable[[Layout], Awaitable[None]],
        stop_workers: Callable[[Layout], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._name = name
        self._collections = collections
        self._start_workers = start_workers
        self._stop_workers = stop_workers

    async def begin(self, shards: int) -> Layout:
        """Have the wanted layout filled beside the current one. Raises ConfigError."""
        self._check_shards(shards)
        assignment = await self._own_assignment()
        wanted = Layout(self._pool(assignment.current), shards)
        if wanted == assignment.current:
            raise ConfigError(f"{self._named()} has {shards} shards already; nothing to do")
        if assignment.previous is not None or assignment.coming not in (None, wanted):
            other = assignment.coming or assignment.previous
            raise ConfigError(
                f"{self._named()} is being moved to, or was moved from, {other}; finish that "
                f"(--finish), or go back (--rollback), before another number of shards"
            )
        await self._start_workers(wanted)
        if assignment.coming is None:
            await self._change(assignment, Assignment(assignment.current, coming=wanted))
        return wanted

    async def wait_until_filled(
        self,
        layout: Layout,
        timeout_s: float,
        tell: Callable[[Sequence[ShardState]], None] = lambda _: None,
    ) -> None:
        """Return once each shard has a replica that has caught up. Raises BudgetSpent; asking again
        goes on where this ended.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            states = self.states(await self._registry.view(), layout)
            tell(states)
            if all(one.ready for one in states):
                return
            if time.monotonic() >= deadline:
                raise BudgetSpent("reshard")
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def switch(self) -> Assignment:
        """Have front ends ask the layout that was filled. Raises ConfigError where there is none,
        or one of its shards has nobody to answer.
        """
        view = await self._registry.view()
        assignment = self._in(view)
        wanted = assignment.coming
        if wanted is None:
            raise ConfigError(f"{self._named()} is not being moved; begin with a number of shards")
        return await self._switch(view, assignment, wanted)

    async def roll_back(self) -> Assignment:
        """Back to the layout before, at once; or, before the switch, give the new one up."""
        view = await self._registry.view()
        assignment = self._in(view)
        if assignment.coming is not None:
            after = Assignment(assignment.current)
            await self._change(assignment, after)
            await self._give_up(assignment.coming)
            return after
        if assignment.previous is None:
            raise ConfigError(
                f"{self._named()} has no layout to go back to: it was not moved, or the move is "
                f"finished; move it again"
            )
        return await self._switch(view, assignment, assignment.previous)

    async def finish(self) -> Assignment:
        """Give up the layout before. Raises ConfigError while another one is being filled."""
        assignment = self._in(await self._registry.view())
        if assignment.coming is not None:
            raise ConfigError(
                f"{self._named()} still asks {assignment.current}; switch to {assignment.coming} "
                f"first, or go back"
            )
        if assignment.previous is None:
            return assignment
        after = Assignment(assignment.current)
        await self._change(assignment, after)
        await self._give_up(assignment.previous)
        return after

    def states(self, view: ClusterView, layout: Layout) -> list[ShardState]:
        """One a shard."""
        return [self._state(view, layout, shard) for shard in range(layout.shards)]

    def _state(self, view: ClusterView, layout: Layout, shard: int) -> ShardState:
        workers = view.workers(layout, shard)
        wanted = [documents_key(one.name, one.generation) for one in self._collections]
        ready = [
            one
            for one in workers
            if one.state is MemberState.READY and all(k in one.facts.documents for k in wanted)
        ]
        return ShardState(
            shard,
            len(workers),
            len(ready),
            max((sum(one.facts.documents.get(k, 0) for k in wanted) for one in workers), default=0),
            min((one.facts.lag for one in ready), default=0),
        )

    async def _switch(
        self, view: ClusterView, assignment: Assignment, wanted: Layout
    ) -> Assignment:
        empty = [one.shard for one in self.states(view, wanted) if not one.ready]
        if empty:
            raise ConfigError(
                f"shard {empty[0]} of {wanted} has no replica that is ready for {self._named()}; "
                f"wait until it is filled, or see `nestvec status`"
            )
        after = Assignment(wanted, previous=assignment.current)
        await self._change(assignment, after)
        return after

    async def _give_up(self, layout: Layout) -> None:
        """Where no other collection needs its workers."""
        view = await self._registry.view()
        if any(layout in one.layouts() for one in view.assignments.values()):
            return
        await self._stop_workers(layout)
        await self._registry.forget(layout)

    async def _own_assignment(self) -> Assignment:
        return self._in(await self._registry.view())

    def _in(self, view: ClusterView) -> Assignment:
        assignment = view.assignment(self._name)
        if assignment is None:
            raise ConfigError(f"no workers are assigned to {self._named()}; run `nestvec up` first")
        return assignment

    async def _change(self, before: Assignment, after: Assignment) -> None:
        view = await self._registry.view()
        # A collection that shares every collection's layout gets its own with its first move.
        own = view.assignments.get(self._name)
        if own is not None and own != before:
            raise ConfigError(
                f"the layout of {self._named()} was changed by somebody else just now; look at "
                f"`nestvec status` and try again"
            )
        await self._registry.assign(self._name, own, after)

    def _pool(self, current: Layout) -> str:
        """A collection that leaves a shared pool takes its workers under its own name."""
        return current.pool if self._name == EVERY_COLLECTION else self._name

    def _named(self) -> str:
        if self._name == EVERY_COLLECTION:
            return "the pool of all collections"
        return f"collection {self._name!r}"

    def _check_shards(self, shards: int) -> None:
        most = min((one.partitions for one in self._collections), default=64)
        if not 1 <= shards <= most:
            raise ConfigError(
                f"{shards} shards: expected 1 to {most}, the number of partitions, which move whole"
            )
