"""Many calls of one peer over one stream: the half that answers. `call_stream` is the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from nestvec.core.errors import InvalidRequest, Overloaded, WorkerUnavailable
from nestvec.rpc.interceptors import new_id, told
from nestvec.rpc.traced import Traced
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import request_id
from nestvec.telemetry.metrics import RPC_SECONDS, RPCS
from nestvec.v1.coarse_pb2 import StreamSearchesRequest, StreamSearchesResponse

# The response to a request, given the seconds that are left.
Handle = Callable[[bytes, float], Awaitable[bytes]]
Frames = AsyncIterator[StreamSearchesRequest]

# Of one stream. What comes beyond is refused; what is answered and not taken holds its place.
_MOST_UNDER_WAY = 1024
_RETRY_AFTER_S = 0.1
_SERVICE = "nestvec.v1.CoarseService"


class AnswerStreams:
    """Of one method of one server. name: of the method that a call over a stream stands for, for
    its metrics, logs and traces.
    """

    def __init__(self, name: str, handle: Handle, most: int = _MOST_UNDER_WAY) -> None:
        self._name = name
        self._handle = handle
        self._most = most
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Take no more calls: each stream ends once those under way are answered."""
        self._leaving.set()

    async def answers(self, frames: Frames) -> AsyncIterator[StreamSearchesResponse]:
        """Of one stream, each as soon as it is ready. Whatever ends it ends its calls."""
        stream = _Stream(self._name, self._handle, self._most, self._leaving)
        ending = asyncio.create_task(stream.run(frames))
        try:
            while (frame := await stream.answered.get()) is not None:
                yield frame
            await ending
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)


class _Stream:
    """answered: what is to be sent; None at the end."""

    def __init__(self, name: str, handle: Handle, most: int, leaving: asyncio.Event) -> None:
        self._name = name
        self._handle = handle
        self._most = most
        self._leaving = leaving
        self._running: dict[int, asyncio.Task[None]] = {}
        self._spans = Traced(f"{_SERVICE}/{name}")
        self._seconds = RPC_SECONDS.labels(name)
        self._ok = RPCS.labels(name, "OK")
        # Bounded by `_read`.
        self.answered: asyncio.Queue[StreamSearchesResponse | None] = asyncio.Queue()

    async def run(self, frames: Frames) -> None:
        """Until there are no more frames, or the process leaves and all is answered. Raises what is
        wrong with the stream itself.
        """
        reading = asyncio.create_task(self._read(frames))
        left = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait((reading, left), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                await reading
            if self._running:
                await asyncio.wait(self._running.values())
        finally:
            tasks = [reading, left, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.answered.put_nowait(None)

    async def _read(self, frames: Frames) -> None:
        async for frame in frames:
            if not frame.HasField("request"):
                self._give_up(frame.id)
            elif self.answered.qsize() >= 2 * self._most:
                # Whoever takes no answers gets no more of them.
                raise self._overloaded()
            elif self._leaving.is_set():
                self._refuse(
                    frame, WorkerUnavailable("this process is leaving and takes no more calls")
                )
            elif frame.id in self._running:
                # It would take the place of the other, which nobody could give up any more.
                self._refuse(
                    frame,
                    InvalidRequest(
                        "id", f"call {frame.id} is under way on this stream; number calls apart"
                    ),
                )
            elif len(self._running) + self.answered.qsize() < self._most:
                self._begin(frame)
            else:
                self._refuse(frame, self._overloaded())

    def _begin(self, frame: StreamSearchesRequest) -> None:
        # Each in a task of its own, and so in a context of its own for its id.
        task = self._running[frame.id] = asyncio.create_task(self._answer(frame))
        task.add_done_callback(lambda _: self._running.pop(frame.id))

    def _give_up(self, id_: int) -> None:
        running = self._running.get(id_)
        if running is not None:
            running.cancel()

    async def _answer(self, frame: StreamSearchesRequest) -> None:
        request_id.set(frame.request_id or new_id())
        started = time.perf_counter()
        soon = asyncio.get_running_loop().call_soon
        try:
            answering = self._handle(frame.request, frame.timeout_s)
            if tracing.tracer is not None:
                answering = self._spans.framed(answering, frame.traceparent, frame.tracestate)
            response = await answering
        except asyncio.CancelledError:
            RPCS.labels(self._name, "CANCELLED").inc()
            raise
        except Exception as error:  # noqa: BLE001  every failure gets a status
            self._refuse(frame, error)
        else:
            self.answered.put_nowait(StreamSearchesResponse(id=frame.id, response=response))
            soon(self._ok.inc)
        finally:
            # Once the answer is on its way: nobody waits for a metric.
            soon(self._seconds.observe, time.perf_counter() - started)

    def _refuse(self, frame: StreamSearchesRequest, error: Exception) -> None:
        status = told(self._name, error).SerializeToString()
        self.answered.put_nowait(StreamSearchesResponse(id=frame.id, status=status))

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self._most} calls of one caller are under way", _RETRY_AFTER_S)
