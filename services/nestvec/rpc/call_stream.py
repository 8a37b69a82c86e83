"""Many calls of one peer over one stream: the half that asks. `answer_stream` is the other.

A gRPC call costs several times what a message of a stream does, at both ends; a query that asks
four shards makes four of them. What a call of its own would have stays: its deadline, its id in the
logs, an answer as soon as it is ready, its own error, and an end at the peer when its caller gives
up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import grpc
from google.rpc import status_pb2

from nestvec.core.errors import BudgetSpent, WorkerUnavailable
from nestvec.rpc.status import error_from, error_from_status
from nestvec.rpc.traced import calling_method
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import request_id
from nestvec.telemetry.tracing import Span
from nestvec.v1.coarse_pb2 import StreamSearchesRequest, StreamSearchesResponse

# Generic in its type stubs only.
Call: TypeAlias = "grpc.aio.StreamStreamCall[StreamSearchesRequest, StreamSearchesResponse]"
# Opens a stream.
Method = Callable[[], Call]

# What a call over a stream stands for.
_METHOD = "nestvec.v1.CoarseService/SearchCoarse"
# For calls of a stream that another one follows, since credentials have changed.
_LEFT_S = 10.0


class CallStream:
    """Opened by the first call, and again by the next one after it broke. peer: for messages."""

    def __init__(self, method: Method, peer: str) -> None:
        self._method = method
        self._peer = peer
        self._open: _OpenStream | None = None
        self._renewed: object = None
        self._left: set[asyncio.Task[None]] = set()

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        """The response. Raises what the peer raised, BudgetSpent, and WorkerUnavailable where the
        stream ends before the answer.
        """
        # Of a channel that goes on with new credentials; None of a plain one.
        renewed = getattr(self._method, "renewed", None)
        if self._open is not None and renewed is not self._renewed:
            self._leave(self._open)
            self._open = None
        if self._open is None or self._open.ended:
            self._open = _OpenStream(self._method(), self._peer)
            self._renewed = renewed
        if tracing.current() is None:
            return await self._open.call(request, timeout_s, None)
        with calling_method(_METHOD, self._peer) as span:
            return await self._open.call(request, timeout_s, span)

    async def close(self, grace_s: float) -> None:
        """Let calls under way finish for so long; then they fail. Safe to repeat."""
        if self._open is not None:
            await self._open.close(grace_s)
        if self._left:
            await asyncio.gather(*self._left, return_exceptions=True)

    def _leave(self, stream: _OpenStream) -> None:
        """Let the calls of a stream finish while another one takes the next."""
        task = asyncio.get_running_loop().create_task(stream.close(_LEFT_S))
        self._left.add(task)
        task.add_done_callback(self._left.discard)


class _OpenStream:
    """One gRPC stream, from its beginning to its end."""

    def __init__(self, call: Call, peer: str) -> None:
        self._call = call
        self._peer = peer
        self._last_id = 0
        # Of each call that has no answer yet.
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        # What is not sent yet, by id, in order.
        self._unsent: dict[int, StreamSearchesRequest] = {}
        self._given_up: deque[int] = deque()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._something_to_send: asyncio.Future[None] = loop.create_future()
        self._idle: asyncio.Future[None] | None = None
        self.ended = False
        self._reading = loop.create_task(self._read())
        # Apart from the callers: one that is cancelled while it writes would end the stream.
        self._writing = loop.create_task(self._write())

    async def call(self, request: bytes, timeout_s: float, span: Span | None) -> bytes:
        """See CallStream. span: of the call, where it is traced."""
        self._last_id = id_ = self._last_id + 1
        self._unsent[id_] = frame = StreamSearchesRequest(
            id=id_, request=request, timeout_s=timeout_s, request_id=request_id.get()
        )
        if span is not None:
            frame.traceparent, frame.tracestate = span.traceparent, span.tracestate
        self._wake()
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answers[id_] = answer
        timer = self._loop.call_later(timeout_s, self._expire, id_)
        try:
            return await answer
        finally:
            timer.cancel()
            if self._answers.pop(id_, None) is not None:
                self._give_up(id_)
            if not self._answers and self._idle is not None:
                _finish(self._idle)

    async def close(self, grace_s: float) -> None:
        """See CallStream."""
        if self._answers and not self.ended:
            self._idle = self._loop.create_future()
            await asyncio.wait(
                (self._idle, self._reading), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED
            )
        self._call.cancel()
        await asyncio.gather(self._reading, self._writing, return_exceptions=True)

    def _expire(self, id_: int) -> None:
        answer = self._answers.get(id_)
        if answer is not None and not answer.done():
            # Left in `_answers`: whoever waits there takes it out, and tells the peer.
            answer.set_exception(BudgetSpent(self._peer))

    def _give_up(self, id_: int) -> None:
        """Nobody waits for it any more."""
        if self._unsent.pop(id_, None) is None and not self.ended:
            self._given_up.append(id_)
            self._wake()

    def _wake(self) -> None:
        _finish(self._something_to_send)

    # --- until the stream ends ------------------------------------------------------------------

    async def _write(self) -> None:
        """One at a time, as gRPC asks. How the stream ends is told to `_read`."""
        try:
            # What is given up before there is a connection is never sent.
            await self._call.wait_for_connection()
            while True:
                await self._something_to_send
                self._something_to_send = self._loop.create_future()
                while self._unsent or self._given_up:
                    await self._call.write(self._next())
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass

    def _next(self) -> StreamSearchesRequest:
        if self._given_up:
            return StreamSearchesRequest(id=self._given_up.popleft())
        return self._unsent.pop(next(iter(self._unsent)))

    async def _read(self) -> None:
        why = WorkerUnavailable(f"the connection to {self._peer} was closed")
        try:
            while True:
                frame = await self._call.read()
                if not isinstance(frame, StreamSearchesResponse):
                    why = WorkerUnavailable(f"{self._peer} takes no more calls; it is leaving")
                    return
                self._take(frame)
        except grpc.aio.AioRpcError as error:
            why = _unavailable(error, self._peer)
        finally:
            self._end(why)

    def _take(self, frame: StreamSearchesResponse) -> None:
        answer = self._answers.pop(frame.id, None)
        if answer is None or answer.done():
            # Its caller has given up.
            return
        if frame.HasField("status"):
            status = status_pb2.Status.FromString(frame.status)
            answer.set_exception(error_from_status(status, self._peer))
        else:
            answer.set_result(frame.response)

    def _end(self, why: WorkerUnavailable) -> None:
        self.ended = True
        self._call.cancel()
        self._writing.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(type(why)(str(why)))
        self._answers.clear()
        self._unsent.clear()


def _unavailable(error: grpc.aio.AioRpcError, peer: str) -> WorkerUnavailable:
    """How a stream broke, for calls that did nothing to break it."""
    raised = error_from(error, peer)
    if isinstance(raised, WorkerUnavailable):
        return raised
    return WorkerUnavailable(f"{peer} ended the stream of calls: {raised}")


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
