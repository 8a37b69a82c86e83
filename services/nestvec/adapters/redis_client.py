"""Commands to a Redis-protocol store: one server, the primary behind Sentinels, or a cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import ExecAbortError, NoScriptError, ResponseError

from nestvec.adapters.redis_acl import needed
from nestvec.adapters.redis_cluster import Cluster
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_errors import refused_undone, translate
from nestvec.adapters.redis_node import Node
from nestvec.adapters.redis_pool import Command, RedisPool, info_fields
from nestvec.adapters.redis_scripts import Script
from nestvec.adapters.redis_sentinel import PrimaryPool
from nestvec.adapters.redis_settings import RedisSettings, target_of
from nestvec.core.errors import ConfigError, StoreUnavailable


class RoundTrip(Protocol):
    """See Node.round_trip and Cluster.round_trip."""

    def __call__(
        self, commands: Sequence[Command], least_epoch: int | None = None, /
    ) -> Awaitable[list[Any]]: ...


class RedisClient:
    """Sends commands. What a server may have done is never sent again."""

    def __init__(self, settings: RedisSettings, epochs: Epochs) -> None:
        target = target_of(settings)
        self.address = target.name
        """Where the store is, without credentials."""
        self._role = settings.role
        self._wait_replicas = settings.wait_replicas
        self._wait_timeout_s = settings.wait_timeout_s
        self._cluster: Cluster | None = None
        self._node: Node | None = None
        # Looked up once here: a read must not pay for the choice.
        self._round_trip: RoundTrip
        if target.kind == "cluster":
            self._cluster = Cluster(settings, target, epochs)
            self._round_trip = self._cluster.round_trip
        else:
            pool = (
                PrimaryPool(target, settings.max_connections, settings.connect_timeout_s)
                if target.kind == "sentinel"
                else RedisPool(target.options, settings.max_connections)
            )
            self._node = Node(
                pool, target.name, epochs, settings.command_timeout_s, role=settings.role
            )
            self._round_trip = self._node.round_trip

    async def call(self, *command: bytes | str | int) -> Any:
        """One command's answer. Raises StoreUnavailable or Overloaded."""
        (answer,) = await self._round_trip([command])
        return self._sound(answer, command)

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """One answer a command, in one round trip. Raises the first error among them.

        Commands before and after a failed one are done all the same.
        """
        answers = await self._round_trip(commands)
        return list(map(self._sound, answers, commands))

    async def everywhere(self, *command: bytes | str | int) -> list[Any]:
        """The answer of each primary. For what no key says where to send."""
        return [await primary.call(*command) for primary in await self.primaries()]

    async def primaries(self) -> list[Primary]:
        """Each server that has some of the keys."""
        nodes = [self._node] if self._node else []
        if self._cluster is not None:
            nodes = list(await self._cluster.primaries())
        return [Primary(node, self._sound) for node in nodes]

    async def require_kind(self) -> None:
        """Raise ConfigError at a cluster's node that was not announced as one. A cluster that is
        none raises it by itself, when its slots are asked for.
        """
        for info in await self.everywhere(b"INFO", b"cluster"):
            enabled = info_fields(info).get(b"cluster_enabled") == b"1"
            if enabled and self._cluster is None:
                raise ConfigError(
                    f"the store at {self.address} is a node of a Redis Cluster; set store.cluster "
                    f"and name several of its nodes in store.url"
                )

    async def whereabouts(self) -> tuple[Any, ...]:
        """Which runs of which servers have which slots: to see whether that changed meanwhile."""
        infos = await self.everywhere(b"INFO", b"server")
        runs = [info_fields(info).get(b"run_id") for info in infos]
        return (runs, self._cluster.layout() if self._cluster is not None else ())

    async def run(
        self,
        script: Script,
        calls: Sequence[Command],
        *,
        reads_only: bool = False,
        atomic: bool = False,
        confirmed: bool = True,
        least_epoch: int | None = None,
    ) -> list[Any]:
        """Run `script` once a call, in one round trip. Raises the first error.

        calls: number of keys, keys, arguments. reads_only: as EVALSHA_RO, for which a user needs no
        right to write what the script reads. atomic: all or none of the calls (one transaction),
        which a cluster allows within one slot only. confirmed: by as many replicas as the settings
        say. least_epoch: give each call, as its last argument, the epoch of the server that runs
        it, which is raised to this where it is less.
        """
        if not calls:
            return []
        name = b"EVALSHA_RO" if reads_only else b"EVALSHA"
        confirmed = confirmed and not reads_only
        commands: list[Command] = [(name, script.digest, *call) for call in calls]
        answers = await self._send(commands, atomic, confirmed, least_epoch)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # a server that started since, or SCRIPT FLUSH; those calls did nothing
            await self.everywhere(b"SCRIPT", b"LOAD", script.text)
            again = [commands[i] for i in unknown]
            late = await self._send(again, atomic, confirmed, least_epoch)
            for i, answer in zip(unknown, late, strict=True):
                answers[i] = answer
        return list(map(self._sound, answers, commands))

    async def raise_epoch(self, least: int) -> None:
        """See that writes go on in this epoch or a later one. Raises ConfigError past the last."""
        for primary in await self.primaries():
            await primary.raise_epoch(least)

    async def close(self) -> None:
        """Close idle connections; one in use closes when its round trip ends."""
        if self._node is not None:
            await self._node.pool.close()
        if self._cluster is not None:
            await self._cluster.close()

    async def _send(
        self, commands: list[Command], atomic: bool, confirmed: bool, least_epoch: int | None
    ) -> list[Any]:
        """Answers, errors among them. See `run`."""
        wait = confirmed and self._wait_replicas > 0
        framed = [(b"MULTI",), *commands, (b"EXEC",)] if atomic else commands
        if wait:
            milliseconds = max(1, int(self._wait_timeout_s * 1000))
            framed = [*framed, (b"WAIT", self._wait_replicas, milliseconds)]
        answers = await self._round_trip(framed, least_epoch)
        replicas = answers.pop() if wait else 0
        if atomic:
            answers = _of_transaction(answers, len(commands))
        if wait and not any(isinstance(answer, Exception) for answer in answers):
            self._require_replicas(self._sound(replicas, framed[-1]))
        return answers

    def _require_replicas(self, confirmed: int) -> None:
        if confirmed < self._wait_replicas:
            raise StoreUnavailable(
                f"the store at {self.address} has written it, but {confirmed} of "
                f"{self._wait_replicas} replicas (store.wait_replicas) confirmed it within "
                f"{self._wait_timeout_s:g} s; send it again, which does no harm, and see the "
                f"replicas"
            )

    def _sound(self, answer: Any, command: Command) -> Any:
        if isinstance(answer, Exception):
            if self._node is not None and refused_undone(answer):
                self._node.pool.doubt()
            raise translate(answer, self.address, needed(command), self._role) from None
        return answer


class Primary:
    """One server of those that have the keys."""

    def __init__(self, node: Node, sound: Callable[[Any, Command], Any]) -> None:
        self._node = node
        self._sound = sound

    async def call(self, *command: bytes | str | int) -> Any:
        """As RedisClient.call."""
        (answer,) = await self._node.round_trip([command])
        return self._sound(answer, command)

    async def raise_epoch(self, least: int) -> None:
        """As RedisClient.raise_epoch, of this one."""
        await self._node.round_trip([(b"PING",)], least)


def _of_transaction(answers: list[Any], count: int) -> list[Any]:
    """Those of the `count` commands between MULTI and EXEC: all done, or all refused."""
    *queued, answer = answers
    if isinstance(answer, ExecAbortError):  # one could not be queued: it says why
        answer = next((one for one in queued if isinstance(one, ResponseError)), answer)
    return answer if isinstance(answer, list) else [answer] * count
