"""Where a Redis Cluster's slots are, learned from its nodes and learned anew when that changed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse, RedisError

from nestvec.adapters.redis_errors import NotSent, translate
from nestvec.adapters.redis_pool import Command, Link
from nestvec.adapters.redis_settings import Address, Target, host_port
from nestvec.adapters.redis_slots import SlotMap
from nestvec.core.errors import ConfigError, NestvecError


class Topology:
    """slots: as last learned. version: how often that was. stale: whether something has happened
    since that makes it doubtful. timeout_s: for one node to tell.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        self.slots = SlotMap()
        self.version = 0
        self.stale = True
        self._target = target
        self._timeout_s = timeout_s
        # Whom not to ask first: it was not reached, or was late.
        self._doubted: set[Address] = set()
        self._learning = asyncio.Lock()

    def doubt(self, *addresses: Address) -> None:
        """These nodes were not reached, or did not answer."""
        self._doubted.update(addresses)
        self.stale = True

    async def learn(self, version: int) -> None:
        """Read the slot map, unless that was done since `version`."""
        async with self._learning:
            if self.version != version:
                return
            known = self.slots.nodes
            random.shuffle(known)  # so that one whose map is old is not asked each time
            known.sort(key=self._doubted.__contains__)
            problems = []
            for address in dict.fromkeys([*known, *self._target.addresses]):
                try:
                    self.slots.replace(await self._map_of(address), address)
                    break
                except (RedisError, OSError) as error:
                    problems.append((address, error))
            else:
                raise self._without_map(problems)
            self.version += 1
            self.stale = False
            self._doubted.clear()

    def options_for(self, address: Address) -> dict[str, Any]:
        """What a connection to this node is made with."""
        return self._target.options | {"host": address[0], "port": address[1]}

    async def apart(self, address: Address, commands: Sequence[Command]) -> list[Any]:
        """A node's answers, by a connection of its own: it waits for nobody's."""
        options = self.options_for(address)
        connection = options.pop("connection_class", Connection)(**options)
        link = Link(connection)
        try:
            await connection.connect()
            return await link.exchange(commands)
        finally:
            await link.disconnect()

    async def _map_of(self, address: Address) -> Any:
        async with asyncio.timeout(self._timeout_s):
            (answer,) = await self.apart(address, [(b"CLUSTER", b"SLOTS")])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _without_map(self, problems: Sequence[tuple[Address, Exception]]) -> NestvecError:
        if any("cluster support disabled" in str(error) for _, error in problems):
            return ConfigError(
                f"the store at {self._target.name} is no Redis Cluster; remove store.cluster, and "
                f"+cluster from store.url"
            )
        address, error = problems[0]
        if isinstance(error, InvalidResponse) and "no slot" in str(error):
            return NotSent(
                f"the store at {self._target.name} is a cluster that does not serve any slot; see "
                f"its nodes"
            )
        return NotSent(str(translate(error, host_port(address))))
