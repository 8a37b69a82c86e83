"""The processes that take writes and administration, for front ends that pass those calls on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Generic, TypeVar

from nestvec.core.errors import WorkerUnavailable
from nestvec.core.members import ClusterView, MemberRole
from nestvec.fanout.following import Follower, Views
from nestvec.fanout.replica import Connect, Replica, Replicas

Peer = TypeVar("Peer")


class Writers(Generic[Peer]):
    """A connection to each; `pick` gives one that is ready. A call is passed on once: whether a
    write that failed was done is for its caller to find out.
    """

    def __init__(
        self,
        views: Views,
        connect: Connect[Peer],
        draw: Callable[[int], int] = random.randrange,
    ) -> None:
        self._replicas: Replicas[Peer] = Replicas(connect)
        self._follower = Follower(views, self._take)
        self._members: list[Replica[Peer]] = []
        self._draw = draw

    def start(self) -> None:
        """Follow until `close`."""
        self._follower.start()

    async def close(self) -> None:
        """Hang up. Safe to repeat."""
        await self._follower.close()
        await self._replicas.close()

    def pick(self) -> Peer:
        """Raises WorkerUnavailable where nobody is ready."""
        self._follower.catch_up()
        ready = [one for one in self._members if one.is_ready]
        if not ready:
            there = ", ".join(f"{one.name} is {one.member.state}" for one in self._members)
            raise WorkerUnavailable(
                f"no process of this cluster takes writes and administration now "
                f"({there or 'none has joined'}); try again, or see `nestvec status`"
            )
        return ready[self._draw(len(ready))].peer

    def _take(self, view: ClusterView) -> None:
        self._members = self._replicas.follow(view.of_role(MemberRole.INGEST))
