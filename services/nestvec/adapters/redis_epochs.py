"""In which epoch the server at the end of a connection writes (see core.watermark).

A server that restarted, or took another's place, may have lost the last writes of the one before.
So each gets an epoch of its own, entered into the catalogue before its first write, and a sequence
number is never given out twice, whatever was lost. The catalogue counts epochs once for the whole
namespace, and remembers which server has which: a server is told apart by its run id and its
replication id, so one that is promoted again counts as another.

In a cluster every master writes in an epoch of its own, entered in the catalogue's slot, which is
mostly another master's. One count for all of them is what keeps numbers apart when slots move too:

- A partition goes on in the later one of its server's epoch and that of its last number (see
  redis_scripts): moved to a server of an older epoch, it stays in the newer.
- A replica that takes over registers after its master did, and after every epoch that a partition
  can have brought along was registered. So its epoch is later than all in which the tail that it
  may lack was numbered.
- What that costs: one of 65,535 epochs for each restart or failover of each master.

The catalogue's own entry may be lost with the rest, when its server fails over. A process never
goes below what it has seen: it takes a count that went back, or an epoch that it knows as another
server's, as that loss, and registers anew above all it knows. Two power cuts within a second, or
two failovers before a replica has caught up (in a cluster: of the catalogue's master and of
another one), with no process that lived through both, are what remains. `appendfsync always`, and
`wait_replicas`, close those: an entry made on another master waits for that one's replicas before
it is used.

A connection is asked who answers when it is made. One that outlives its server's time as a replica
would not notice: Sentinel closes clients' connections then. A cluster does not; there a connection
is asked again before a write when that is more than a second ago.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from nestvec.adapters.redis_catalogue_scripts import REGISTER
from nestvec.adapters.redis_pool import Command, Link
from nestvec.core.errors import ConfigError

# Sends REGISTER to the catalogue's server and returns its answer; the link is where writes go.
Register = Callable[[Link, Command], Awaitable[Any]]

CLUSTER_FRESH_S = 1.0


async def over_the_same_link(link: Link, command: Command) -> Any:
    """For one server, which has the catalogue too."""
    (answer,) = await link.exchange([command])
    return answer


class Epochs:
    """Of one process, for one namespace. key: the hash in the catalogue."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # For how long a connection's word is taken on who is at its end.
        self.fresh_s = math.inf
        # Of each node, the server that was last there and its epoch.
        self._current: dict[str, tuple[bytes, int]] = {}
        self._servers: dict[int, bytes] = {}
        self._highest = 0
        self._registering = asyncio.Lock()

    async def over(self, link: Link, least: int, register: Register = over_the_same_link) -> int:
        """The epoch for writes over `link`, `least` or more. One or two round trips where the
        server is not the one written to last. Raises ConfigError when no epoch is left.
        """
        epoch = self._known(link, least)
        if epoch:
            return epoch
        # A connection made before the server's replication id changed says what is past.
        await link.identify()
        epoch = self._known(link, least)
        if epoch:
            return epoch
        async with self._registering:
            return self._known(link, least) or await self._registered(link, least, register)

    async def _registered(self, link: Link, least: int, register: Register) -> int:
        server = link.server
        epoch = await self._ask(register, link, least)
        if self._servers.get(epoch, server) != server:
            # Given out before, to another server: the catalogue has lost that entry since.
            epoch = await self._ask(register, link, self._highest + 1)
        self._servers[epoch] = server
        self._highest = max(self._highest, epoch)
        self._current[link.node] = server, epoch
        return epoch

    async def _ask(self, register: Register, link: Link, least: int) -> int:
        command: Command = (
            *(b"EVAL", REGISTER.text, 1, self._key),
            *(link.server, least, self._highest),
        )
        answer = await register(link, command)
        if isinstance(answer, Exception):
            raise answer
        if answer < 0:
            raise ConfigError(
                "the store has seen 65,535 restarts and failovers and no epoch is left; back its "
                "collections up and restore them into a new store"
            )
        return int(answer)

    def _known(self, link: Link, least: int) -> int:
        """0 where it must be asked for."""
        server, epoch = self._current.get(link.node, (b"", 0))
        if link.server != server or epoch < least:
            return 0
        if self.fresh_s < math.inf and time.monotonic() - link.identified_s > self.fresh_s:
            return 0
        return epoch
