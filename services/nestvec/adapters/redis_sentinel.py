"""The primary that Sentinels name, and connections to it and to no other.

All Sentinels are asked at once and the newest configuration counts, so that one that was cut off
does not send us back to an old primary. While connections are used, they are asked again once a
second; when the primary has changed, every connection to the old one is closed, in use or not: a
call that waits for a stopped server fails then, and does not wait for its deadline. A server that
does not say of itself that it is a primary is never read from. For that second at most an old
primary that still takes itself for one is read and written: `wait_replicas` is what keeps a write
from being acknowledged there and lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from nestvec.adapters.redis_pool import Link, RedisPool
from nestvec.adapters.redis_settings import Address, Target, host_port
from nestvec.core.errors import ConfigError

LOOK_EVERY_S = 1.0
# For the others, once one has answered.
_GRACE_S = 0.1
_REASON_CHARACTERS = 120


@dataclass(frozen=True)
class _View:
    """What one Sentinel says: where the primary is, in which configuration, and whether it is down
    in its own eyes.
    """

    address: Address
    configuration: int
    down: bool


class Sentinels:
    """Of one service. timeout_s: for one of them to answer."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        self._addresses = target.addresses
        self._service = target.service
        self._options = dict(target.sentinel_options)
        self._connection_class = self._options.pop("connection_class", Connection)
        self._timeout_s = timeout_s

    async def primary(self) -> Address:
        """Where it is now. Raises ConfigError when no Sentinel knows the service, and redis-py's
        ConnectionError when none answers, or all say that the primary is down.
        """
        asked = [asyncio.create_task(self._ask(address)) for address in self._addresses]
        try:
            waiting = set(asked)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(isinstance(one.result(), _View) for one in done):
                    break
            if waiting:
                await asyncio.wait(waiting, timeout=_GRACE_S)
        finally:
            for one in asked:
                one.cancel()
            results = await asyncio.gather(*asked, return_exceptions=True)
        views = [one for one in results if isinstance(one, _View)]
        if not views:
            raise self._failure(results)
        newest = max(view.configuration for view in views)
        views = [view for view in views if view.configuration == newest]
        if all(view.down for view in views):
            raise RedisConnectionError(
                f"the Sentinels say that the primary of {self._service!r}, "
                f"{host_port(views[0].address)}, is down; one is elected in its place"
            )
        return views[0].address

    async def _ask(self, address: Address) -> _View | Exception:
        host, port = address
        connection = self._connection_class(**self._options | {"host": host, "port": port})
        link = Link(connection)
        try:
            async with asyncio.timeout(self._timeout_s):
                await link.connection.connect()
                (answer,) = await link.exchange([(b"SENTINEL", b"MASTER", self._service)])
            if isinstance(answer, Exception):
                return answer
            return _view_of(answer)
        except (RedisError, OSError) as error:
            return error
        finally:
            await link.disconnect()

    def _failure(self, results: list[Any]) -> Exception:
        names = ", ".join(map(host_port, self._addresses))
        if any("No such master" in str(one) for one in results):
            return ConfigError(
                f"the Sentinels at {names} do not monitor a service {self._service!r}; see "
                f"SENTINEL MASTERS there for the name, and give it in store.url after the hosts"
            )
        for one in results:
            if isinstance(one, AuthenticationError):
                return RedisConnectionError(
                    f"the Sentinels at {names} ask for a password, or refuse that of "
                    f"store.sentinel_user and store.sentinel_password_file"
                )
            if isinstance(one, ResponseError):
                return RedisConnectionError(
                    f"no Sentinel at {names}: SENTINEL is refused ({one}); expected the address "
                    f"of Sentinels, not of the store itself"
                )
        reasons = "; ".join(
            f"{host_port(address)}: {str(one)[:_REASON_CHARACTERS] or 'no answer in time'}"
            for address, one in zip(self._addresses, results, strict=True)
        )
        return RedisConnectionError(f"no Sentinel answers: {reasons}")


def _view_of(answer: Any) -> _View | Exception:
    try:
        fields = dict(zip(answer[::2], answer[1::2], strict=True))
        flags = fields[b"flags"].split(b",")
        return _View(
            (fields[b"ip"].decode(), int(fields[b"port"])),
            int(fields[b"config-epoch"]),
            b"s_down" in flags or b"o_down" in flags,
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return RedisConnectionError("SENTINEL MASTER is not answered as expected")


class PrimaryPool(RedisPool):
    """Connections to whichever server is the primary."""

    def __init__(self, target: Target, max_connections: int, timeout_s: float) -> None:
        super().__init__(target.options, max_connections)
        self._sentinels = Sentinels(target, timeout_s)
        self._primary: Address | None = None
        self._out: set[Link] = set()
        self._look_at_s = 0.0
        self._asking: asyncio.Task[Address] | None = None

    async def acquire(self) -> Link:
        if time.monotonic() > self._look_at_s:
            self._ask()
        link = await super().acquire()
        if _address_of(link) != self._primary:  # it was doubted, or changed, a moment ago
            try:
                await link.disconnect()
                await self._connect(link)
            except BaseException:
                await link.disconnect()
                self.release(link)
                raise
        self._out.add(link)
        return link

    def release(self, link: Link) -> None:
        self._out.discard(link)
        super().release(link)

    def doubt(self) -> None:
        self._primary = None

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await super().close()

    async def _connect(self, link: Link) -> None:
        """To the primary as last known; where that fails, to the one that the Sentinels name. They
        are asked again once it is connected: a server that was gone may come back empty, and takes
        itself for the primary until it is told.
        """
        known = self._primary
        if known is not None:
            with contextlib.suppress(RedisError, OSError):
                if await self._reaches(link, known) and await self._still(known):
                    return
        address = await asyncio.shield(self._ask())
        if not (await self._reaches(link, address) and await self._still(address)):
            await link.disconnect()
            raise ReadOnlyError(f"{host_port(address)} is no primary")

    async def _still(self, address: Address) -> bool:
        """Whether the Sentinels name it now, as far as any answers."""
        with contextlib.suppress(RedisConnectionError):
            return await self._follow_primary() == address
        return True

    async def _reaches(self, link: Link, address: Address) -> bool:
        """Whether it is the primary that answers there. Disconnected where it is not."""
        link.connection.host, link.connection.port = address
        self._out.add(link)
        try:
            await link.connect()
            if link.role == b"master" and address == self._primary:
                return True
        except BaseException:
            await link.disconnect()
            raise
        await link.disconnect()
        return False

    def _ask(self) -> asyncio.Task[Address]:
        """The question that is under way, or a new one."""
        if self._asking is None or self._asking.done():
            self._look_at_s = time.monotonic() + LOOK_EVERY_S
            self._asking = asyncio.create_task(self._follow_primary())
            # Where nobody waits for it, who connects next will meet the same.
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._asking

    async def _follow_primary(self) -> Address:
        """Ask, and close what is connected elsewhere."""
        address = await self._sentinels.primary()
        self._primary = address
        for link in [*self._idle, *self._out]:
            if _address_of(link) != address:
                await link.disconnect()
        return address


def _address_of(link: Link) -> Address:
    return link.connection.host, link.connection.port
