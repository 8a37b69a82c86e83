"""All addresses of one other region, for calls on which no query waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    NotCalibrated,
    NotFound,
    Overloaded,
    SpaceMismatch,
    WorkerUnavailable,
    told,
)
from nestvec.rpc.clients import ask, unreadable
from nestvec.rpc.region_checks import require_region
from nestvec.rpc.status import error_from
from nestvec.v1 import region_pb2, region_pb2_grpc

# What is passed on as it was raised there. Anything else (its store is lost, it does not know this
# region) is a reason why that region cannot be used, and nothing that holds here.
_PASSED_ON = (
    InvalidRequest,
    SpaceMismatch,
    NotCalibrated,
    NotFound,
    Overloaded,
    BudgetSpent,
    WorkerUnavailable,
)
# One call, or the next message of a stream: a connection that was cut without a word must not hold
# a copier for long.
_PATIENCE_S = 20.0
_STREAM_S = 3600.0


def passed_on(error: NestvecError, region: str) -> NestvecError:
    """Of what a region raised, what may be raised here."""
    if isinstance(error, _PASSED_ON):
        return error
    return WorkerUnavailable(f"region {region!r} cannot answer: {told(error)}")


class Endpoints:
    """One that fails is left for the next. None is read from before it has said that it is the
    region meant: another one's log would be copied without a word.

    caller: this region. received_bytes: of messages, since the start.
    """

    def __init__(self, channels: Sequence[grpc.aio.Channel], region: str, caller: str) -> None:
        assert channels
        self.received_bytes = 0
        self._stubs = [region_pb2_grpc.RegionServiceStub(channel) for channel in channels]
        self._region = region
        self._caller = caller
        self._current = 0
        self._known: set[int] = set()

    async def ask(self, method: str, request: Message) -> Any:
        """At the first endpoint that answers, beginning with the one that answered last."""
        for left in reversed(range(len(self._stubs))):
            current = self._current
            try:
                stub = await self._identified(current)
                response = await ask(getattr(stub, method), request, _PATIENCE_S, self._peer)
            except NestvecError as error:
                raised = self._failed(current, error)
                if left and isinstance(raised, WorkerUnavailable):
                    continue
                raise raised from None
            self.received_bytes += response.ByteSize()
            return response
        raise AssertionError("the last endpoint returns or raises")

    async def stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        """All messages of an answer in parts. What breaks off is for the caller to ask again."""
        current = self._current
        try:
            stub = await self._identified(current)
            call = getattr(stub, method)(request, timeout=_STREAM_S)
            try:
                while (response := await _next(call, self._peer)) is not grpc.aio.EOF:
                    self.received_bytes += response.ByteSize()
                    yield response
            finally:
                call.cancel()
        except NestvecError as error:
            raise self._failed(current, error) from None

    @property
    def _peer(self) -> str:
        return f"region {self._region!r}"

    async def _identified(self, number: int) -> Any:
        stub = self._stubs[number]
        if number not in self._known:
            request = region_pb2.DescribeRegionRequest(caller=self._caller)
            response = await ask(stub.DescribeRegion, request, _PATIENCE_S, self._peer)
            require_region(response.region, self._region)
            self._known.add(number)
        return stub

    def _failed(self, number: int, error: NestvecError) -> NestvecError:
        """Leave an endpoint that is of no use: it must say again who it is before it is read from.
        Returns what may be raised.
        """
        raised = passed_on(error, self._region)
        if isinstance(raised, WorkerUnavailable | BudgetSpent):
            self._known.discard(number)
            if self._current == number:
                self._current = (number + 1) % len(self._stubs)
        return raised


async def _next(call: Any, peer: str) -> Any:
    """The next message of a stream, or EOF at its end."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            response = await call.read()
    except grpc.aio.AioRpcError as error:
        raise error_from(error, peer) from None
    except TimeoutError:
        raise BudgetSpent(peer) from None
    if response is None:
        # As in `ask`: it is not the end.
        raise unreadable(peer)
    return response
