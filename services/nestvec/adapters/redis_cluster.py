"""A Redis Cluster as one server: each command goes to the primary that has its slot.

A batch is split by node, sent to all of them at once, and put together in order. What a node
certainly did not do (it redirects, moves the slot, or has no primary; or no connection was had) is
sent again, for a second at most and never past the deadline. A connection that is lost in the
middle is not: what was sent may have been done. Replicas are never read. Commands of one slot keep
their order as long as none of them is redirected.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, MovedError, RedisError, ResponseError

from nestvec.adapters.redis_epochs import CLUSTER_FRESH_S, Epochs
from nestvec.adapters.redis_errors import NotSent, refused_undone, translate
from nestvec.adapters.redis_node import Node
from nestvec.adapters.redis_pool import Command, Link, RedisPool
from nestvec.adapters.redis_settings import Address, RedisSettings, Target, host_port
from nestvec.adapters.redis_slots import slot_of
from nestvec.adapters.redis_topology import Topology
from nestvec.core.errors import NestvecError, StoreUnavailable

_PATIENCE_S = 1.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.2
_REGISTER_TRIES = 4
_ROUNDS_AT_ONCE = 4


@dataclass(slots=True)
class _Batch:
    """What is under way. places: which commands are still to be sent. asked: by place, to which
    node a slot is just moving. away: nodes that have not answered yet. wait: the WAIT that ends
    it, if any; confirmed: the least answer to it.
    """

    commands: Sequence[Command]
    wait: Command | None
    answers: list[Any]
    places: list[int]
    asked: dict[int, Address] = field(default_factory=dict)
    away: set[Address] = field(default_factory=set)
    confirmed: int | None = None

    @property
    def atomic(self) -> bool:
        """One transaction: it stays together."""
        return self.commands[0][0] == b"MULTI"


class Cluster:
    """Nodes are met as the slot map names them."""

    def __init__(self, settings: RedisSettings, target: Target, epochs: Epochs) -> None:
        self._settings = settings
        self._target = target
        self._epochs = epochs
        epochs.fresh_s = CLUSTER_FRESH_S
        self._topology = Topology(target, settings.connect_timeout_s)
        self._nodes: dict[Address, Node] = {}
        self._closed = False

    async def round_trip(
        self, commands: Sequence[Command], least_epoch: int | None = None
    ) -> list[Any]:
        """As Node.round_trip. A WAIT at the end goes to every node, and the least answer counts."""
        if not commands:
            return []
        wait = commands[-1] if commands[-1][0] == b"WAIT" else None
        sent = commands[:-1] if wait else commands
        batch = _Batch(sent, wait, [None] * len(sent), list(range(len(sent))))
        try:
            async with asyncio.timeout(self._settings.command_timeout_s):
                await self._finish(batch, least_epoch)
        except TimeoutError as error:
            self._topology.doubt(*batch.away)
            names = ", ".join(map(host_port, sorted(batch.away))) or self._target.name
            raise translate(error, names) from None
        return [*batch.answers, batch.confirmed or 0] if wait else batch.answers

    async def primaries(self) -> list[Node]:
        """All, as the cluster names them now."""
        try:
            async with asyncio.timeout(self._settings.command_timeout_s):
                await self._learn(self._topology.version)
        except TimeoutError as error:
            raise translate(error, self._target.name) from None
        return [self._node(address) for address in self._topology.slots.primaries]

    def layout(self) -> tuple[Any, ...]:
        """Which node has which slot, to compare with another moment's."""
        return self._topology.slots.layout()

    async def close(self) -> None:
        self._closed = True
        for node in self._nodes.values():
            await node.pool.close()

    async def _finish(self, batch: _Batch, least_epoch: int | None) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + min(_PATIENCE_S, self._settings.command_timeout_s / 2)
        pause_s = _FIRST_PAUSE_S
        for rounds in itertools.count(1):
            if self._topology.stale:
                await self._learn(self._topology.version)
            version = self._topology.version
            unreached = await self._send(batch, least_epoch)
            if not batch.places:
                return
            if clock() + pause_s > until:
                if unreached is not None:
                    raise unreached
                return  # the refusals stand among the answers
            told = await self._redirect(batch, version)
            if not batch.places:
                return
            # Where each was told where to go it goes at once; else the cluster needs a moment.
            if unreached is not None or not told or rounds > _ROUNDS_AT_ONCE:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                self._topology.stale = True

    async def _redirect(self, batch: _Batch, version: int) -> bool:
        """Take in where nodes say that slots are. Whether all that is left was told so."""
        batch.asked.clear()
        moves: list[tuple[int, Address]] = []
        done: set[int] = set()
        told = True
        for place in batch.places:
            answer = batch.answers[place]
            if isinstance(answer, MovedError):
                moves.append((answer.slot_id, self._redirected(batch, place, answer)))
            elif isinstance(answer, AskError) and not batch.atomic:
                batch.asked[place] = self._redirected(batch, place, answer)
            elif batch.commands[place][0] == b"MGET" and refused_undone(answer) == "TRYAGAIN":
                batch.answers[place] = await self._one_by_one(batch.commands[place])
                done.add(place)
            elif refused_undone(answer) or not batch.atomic:
                told = False
        batch.places = [place for place in batch.places if place not in done]
        if moves:
            await self._learn(version)  # others have moved with it, mostly
            for slot, address in moves:  # whoever was asked may not know yet
                self._topology.slots.move(slot, address)
        return told

    async def _one_by_one(self, command: Command) -> Any:
        """The answer to an MGET of a slot that is moving: its keys are at two nodes."""
        gets: list[Command] = [(b"GET", key) for key in command[1:]]
        batch = _Batch(gets, None, [None] * len(gets), list(range(len(gets))))
        await self._finish(batch, None)
        refused = next(filter(refused_undone, batch.answers), None)
        if refused is not None:
            return refused
        return [None if isinstance(one, ResponseError) else one for one in batch.answers]

    def _redirected(self, batch: _Batch, place: int, error: AskError) -> Address:
        if error.host:
            return error.host, error.port
        here = self._address_of(batch, place)
        return here[0], error.port

    async def _send(self, batch: _Batch, least_epoch: int | None) -> StoreUnavailable | None:
        """All that is to be sent, to all nodes at once. Leaves in `places` what may be sent again;
        returns why a node was not reached. Raises what else a node fails with, once all are done.
        """
        groups: dict[Address, list[int]] = {}
        for place in batch.places:
            groups.setdefault(self._address_of(batch, place), []).append(place)
        trips = [
            self._ask_node(batch, where, group, least_epoch) for where, group in groups.items()
        ]
        results: list[Any]
        if len(trips) == 1:
            try:
                results = [await trips[0]]
            except NestvecError as error:
                results = [error]
        else:
            results = await asyncio.gather(*trips, return_exceptions=True)
        batch.places, unreached, failure = [], None, None
        for (address, group), result in zip(groups.items(), results, strict=True):
            if isinstance(result, NotSent):
                unreached = result
                batch.places += group
            elif isinstance(result, BaseException):
                failure = failure or result
            else:
                batch.places += self._take(batch, group, result)
                continue
            self._topology.doubt(address)
        if failure is not None:
            raise failure
        batch.places.sort()
        return unreached

    def _take(self, batch: _Batch, group: list[int], answers: list[Any]) -> list[int]:
        """Keep a node's answers. Returns the places that it certainly did not do."""
        replicas = answers.pop() if batch.wait is not None else None
        for place, answer in zip(group, answers, strict=True):
            batch.answers[place] = answer
        undone = [place for place in group if refused_undone(batch.answers[place])]
        if undone and batch.atomic:
            return group
        if batch.wait is not None and len(undone) < len(group):
            least = replicas if isinstance(replicas, int) else 0
            batch.confirmed = least if batch.confirmed is None else min(batch.confirmed, least)
        return undone

    async def _ask_node(
        self, batch: _Batch, address: Address, group: list[int], least_epoch: int | None
    ) -> list[Any]:
        """A node's answers to its part of the batch, WAIT's at the end."""
        sent: list[Command] = []
        for place in group:
            if place in batch.asked:
                sent.append((b"ASKING",))
            sent.append(batch.commands[place])
        if batch.wait is not None:
            sent.append(batch.wait)
        batch.away.add(address)
        answers = await self._node(address).round_trip(sent, least_epoch)
        batch.away.discard(address)
        if not batch.asked:
            return answers
        return [a for one, a in zip(sent, answers, strict=True) if one[0] != b"ASKING"]

    def _address_of(self, batch: _Batch, place: int) -> Address:
        if place in batch.asked:
            return batch.asked[place]
        if batch.atomic:
            slots = (slot_of(command) for command in batch.commands)
            slot = next((one for one in slots if one is not None), None)
        else:
            slot = slot_of(batch.commands[place])
        owner = None if slot is None else self._topology.slots.owner(slot)
        # Without a key, or a known owner, any node: it answers, or says where to go.
        return owner or self._topology.slots.primaries[0]

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            name = host_port(address)
            options = self._topology.options_for(address)
            pool = RedisPool(options, self._settings.max_connections, name)
            pool.closed = self._closed
            timeout_s, role = self._settings.command_timeout_s, self._settings.role
            node = Node(pool, name, self._epochs, timeout_s, self._register, role)
            self._nodes[address] = node
        return node

    async def _learn(self, version: int) -> None:
        """The slot map, and forget nodes that have no slot any more."""
        await self._topology.learn(version)
        for address in self._nodes.keys() - set(self._topology.slots.primaries):
            node = self._nodes.pop(address, None)
            if node is not None:
                await node.pool.close()

    async def _register(self, link: Link, command: Command) -> Any:
        """REGISTER, in the catalogue's slot. By a connection of its own where that is elsewhere:
        who holds one of a node and waits for one of another may wait for somebody who does the
        reverse.
        """
        if link.role != b"master":
            raise NotSent(f"{link.node} is no primary any more")
        answer: Any = None
        for _ in range(_REGISTER_TRIES):
            slots = self._topology.slots
            owner = slots.owner(slot_of(command) or 0) or slots.primaries[0]
            if link.node == host_port(owner):
                (answer,) = await link.exchange([command])  # the write's own WAIT is for it too
            else:
                try:
                    answer = await self._entered(owner, command)
                except (OSError, RedisError):
                    self._topology.doubt(owner)
                    raise
            if not isinstance(answer, MovedError):
                break
            await self._learn(self._topology.version)
            self._topology.slots.move(answer.slot_id, (answer.host or owner[0], answer.port))
        return answer

    async def _entered(self, owner: Address, command: Command) -> Any:
        replicas = self._settings.wait_replicas
        milliseconds = max(1, int(self._settings.wait_timeout_s * 1000))
        wait: list[Command] = [(b"WAIT", replicas, milliseconds)] if replicas else []
        answer, *confirmed = await self._topology.apart(owner, [command, *wait])
        if isinstance(answer, ResponseError):
            return answer
        if confirmed and (not isinstance(confirmed[0], int) or confirmed[0] < replicas):
            raise NotSent(
                f"the store at {host_port(owner)} has too few replicas for store.wait_replicas "
                f"({replicas}), and nothing was written; see their state"
            )
        return answer
