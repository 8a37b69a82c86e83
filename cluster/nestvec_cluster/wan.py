"""A wide-area network on one machine: TCP proxies that pass everything on later, or not at all.

What a proxy has read is written out when as long as one way takes has passed since. So a call and
its answer take a round trip more, and the bandwidth is that of the loopback. A connection itself
is accepted at once. While a proxy is cut nothing comes through, in neither direction, and nobody
is told, as when packets are dropped; afterwards what was held comes through, as TCP would see to.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

_CHUNK = 64 * 1024


@dataclass(slots=True)
class Traffic:
    """Bytes that came through: what callers sent, and what they were answered."""

    sent: int = 0
    answered: int = 0


class DelayingProxy:
    """Listens on a free port of the loopback, and passes on to `target`, host:port, which may be
    set later. one_way_s: half a round trip.

    `cut`, `heal` and `traffic` may be used from any thread.
    """

    def __init__(self, one_way_s: float, target: str = "") -> None:
        assert one_way_s >= 0.0
        self.one_way_s = one_way_s
        self.target = target
        self.address = ""
        self.traffic = Traffic()
        self._open = asyncio.Event()
        self._open.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        # Each with its caller.
        self._links: dict[asyncio.Task[None], socket.socket] = {}
        # Of both sides, while they are open.
        self._ends: WeakSet[asyncio.WriteTransport] = WeakSet()

    async def start(self) -> None:
        """Listen."""
        self._loop = asyncio.get_running_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        # Not asyncio.start_server: before Python 3.12 it loses sockets accepted at its end.
        self._loop.add_reader(self._listener, self._accept, self._listener)

    async def close(self) -> None:
        """Hang up everywhere."""
        if self._loop is not None and self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        links = dict(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        # An end whose other side reads no more would stay open; a link that was cancelled before it
        # began has none yet.
        for end in tuple(self._ends):
            end.abort()
        await asyncio.sleep(0)
        for caller in links.values():
            caller.close()

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._tell(self._open.clear)

    def heal(self) -> None:
        """Let everything through again."""
        self._tell(self._open.set)

    def _tell(self, what: Callable[[], None]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(what)

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone again
        caller.setblocking(False)
        link = asyncio.create_task(self._link(caller))
        self._links[link] = caller
        link.add_done_callback(self._links.pop)

    async def _link(self, caller: socket.socket) -> None:
        """One connection, until either side ends it."""
        reader, writer = await asyncio.open_connection(sock=caller)
        ends = [writer]
        self._ends.add(writer.transport)
        try:
            await self._open.wait()
            host, _, port = self.target.rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            ends.append(back)
            self._ends.add(back.transport)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, back, answers=False))
                both.create_task(self._carry(there, writer, answers=True))
        except* (OSError, ValueError):
            pass  # nobody is there, or one side has hung up: so does the other
        finally:
            for end in ends:
                end.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        """One direction. Raises ConnectionError at its end, which ends the other one too."""
        under_way = _UnderWay()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(reader, under_way))
            both.create_task(self._write(writer, under_way, answers))

    async def _read(self, reader: asyncio.StreamReader, under_way: _UnderWay) -> None:
        now = asyncio.get_running_loop().time
        while True:
            data = await reader.read(_CHUNK)
            under_way.add(now() + self.one_way_s, data)
            if not data:
                return

    async def _write(
        self, writer: asyncio.StreamWriter, under_way: _UnderWay, answers: bool
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due_s, data = await under_way.next()
            await asyncio.sleep(due_s - now())
            await self._open.wait()
            if not data:
                raise ConnectionError("the other side has hung up")
            writer.write(data)
            await writer.drain()
            if answers:
                self.traffic.answered += len(data)
            else:
                self.traffic.sent += len(data)


@dataclass(slots=True)
class _UnderWay:
    """What is between the two ends, each part with when it is due; an empty part is the end."""

    parts: deque[tuple[float, bytes]] = field(default_factory=deque)
    there: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, due_s: float, data: bytes) -> None:
        self.parts.append((due_s, data))
        self.there.set()

    async def next(self) -> tuple[float, bytes]:
        while not self.parts:
            self.there.clear()
            await self.there.wait()
        return self.parts.popleft()


@contextmanager
def wide_area(proxies: list[DelayingProxy]) -> Iterator[None]:
    """Run them on a thread of their own; they have addresses when the block begins."""
    started: Future[None] = Future()
    stop: Future[None] = Future()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            try:
                for proxy in proxies:
                    await proxy.start()
                    stack.push_async_callback(proxy.close)
            except BaseException as error:
                started.set_exception(error)
                raise
            started.set_result(None)
            await asyncio.wrap_future(stop)

    thread = threading.Thread(target=_run_precisely, args=(run(),), name="wan", daemon=True)
    thread.start()
    try:
        started.result()
        yield
    finally:
        stop.set_result(None)
        thread.join()


def _run_precisely(work: Coroutine[Any, Any, None]) -> None:
    """epoll, which asyncio would take, rounds every wait up to a millisecond; four of them are on
    the way of a call and its answer.
    """
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(work)
