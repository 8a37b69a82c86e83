"""The processes behind a port, as long as they are members: connections, load and health of each.

A replica is one incarnation of a member at one address. What is known of it (its breaker, its calls
under way) stays from one view of the cluster to the next; a process that comes back is another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nestvec.core.balance import CircuitBreaker
from nestvec.core.members import Member
from nestvec.telemetry.logs import logger

Peer = TypeVar("Peer")
_log = logger()


@dataclass(frozen=True, slots=True)
class Connection(Generic[Peer]):
    """A member as a port, and how to hang up. `close` lets calls under way finish for a while."""

    peer: Peer
    close: Callable[[], Awaitable[None]]


Connect = Callable[[Member], Connection[Peer]]


class Replica(Generic[Peer]):
    """One process that is asked. under_way: calls that it has not answered yet."""

    def __init__(self, member: Member, connection: Connection[Peer]) -> None:
        self.member = member
        self.connection = connection
        self.breaker = CircuitBreaker()
        self.under_way = 0
        loop = asyncio.get_running_loop()
        # Done when it is no member any more.
        self.gone: asyncio.Future[None] = loop.create_future()
        # Done when nobody should go on waiting for it: gone, or its breaker has opened.
        self.lost: asyncio.Future[None] = loop.create_future()

    @property
    def peer(self) -> Peer:
        return self.connection.peer

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def is_ready(self) -> bool:
        return self.member.is_ready

    def answered(self) -> None:
        """It answers: whatever was held against it is over."""
        if not self.breaker.closed:
            _log.info("fanout.breaker_closed", member=self.name, address=self.member.address)
            if self.lost.done() and not self.gone.done():
                self.lost = asyncio.get_running_loop().create_future()
        self.breaker.succeeded()

    def failed(self, now_s: float, why: str) -> None:
        """It cannot be reached, or was too late."""
        if self.breaker.failed(now_s):
            _log.warning(
                "fanout.breaker_opened", member=self.name, address=self.member.address, why=why
            )
            _finish(self.lost)

    def leave(self) -> None:
        """It is no member any more; those who wait for it turn to another."""
        _finish(self.gone)
        _finish(self.lost)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Replicas(Generic[Peer]):
    """A replica for each member of interest, by address and incarnation."""

    def __init__(self, connect: Connect[Peer]) -> None:
        self._connect = connect
        self._open: dict[tuple[str, int], Replica[Peer]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, members: Iterable[Member]) -> list[Replica[Peer]]:
        """One for each member, in order. Those of others are hung up."""
        kept: dict[tuple[str, int], Replica[Peer]] = {}
        for member in members:
            key = member.address, member.incarnation
            replica = self._open.pop(key, None)
            if replica is None:
                replica = Replica(member, self._connect(member))
            # Its state may have changed.
            replica.member = member
            kept[key] = replica
        for replica in self._open.values():
            self._hang_up(replica)
        self._open = kept
        return list(kept.values())

    async def close(self) -> None:
        """Hang up all of them."""
        self.follow(())
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _hang_up(self, replica: Replica[Peer]) -> None:
        replica.leave()
        task = asyncio.ensure_future(_closed(replica))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(replica: Replica[Peer]) -> None:
    await replica.connection.close()
