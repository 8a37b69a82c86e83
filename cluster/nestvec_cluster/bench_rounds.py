"""Latency and throughput of several lanes on a machine that others use too.

A lane is a class, or the bare echo with a class's payload sizes. Lanes take turns in small blocks,
so that what else the machine does slows all of them alike; figures are medians over rounds.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc

from nestvec.client import AsyncNestvecClient
from nestvec.quality.timing import Timing, summarise, timed
from nestvec.v1 import query_pb2, query_pb2_grpc
from nestvec_cluster.background import run_on_fastest_loop
from nestvec_cluster.bench_server import ECHO_METHOD, echo_request
from nestvec_cluster.measuring import HITS

_BLOCK = 25
_SIZED = 100
_TIMEOUT_S = 30.0
_PAUSE_S = 0.05

Lane = Callable[..., object]
AsyncLane = Callable[..., Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured: an engine with a collection, and an echo, each in a process of its own."""

    address: str
    echo_address: str
    collection: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Payload:
    """Median bytes of one class's messages."""

    request_bytes: int
    response_bytes: int

    @property
    def echo(self) -> bytes:
        """What to send for an echo of these sizes."""
        return echo_request(self.request_bytes, self.response_bytes)


def echo_of(name: str) -> str:
    """The lane that echoes a class's payload."""
    return f"echo of {name}"


def measure_payloads(target: Target, texts: Sequence[str]) -> dict[str, Payload]:
    """The sizes of each class's messages, over some of the queries."""
    payloads = {}
    with grpc.insecure_channel(target.address) as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)
        for name in target.classes:
            options = query_pb2.SearchOptions(search_class=name, k=HITS)
            requests = [
                query_pb2.SearchRequest(collection=target.collection, text=text, options=options)
                for text in texts[:_SIZED]
            ]
            responses = [stub.Search(one, timeout=_TIMEOUT_S) for one in requests]
            payloads[name] = Payload(
                int(statistics.median(one.ByteSize() for one in requests)),
                int(statistics.median(one.ByteSize() for one in responses)),
            )
    return payloads


# --- latency: one call after another ------------------------------------------------------------


def measure_latencies(
    target: Target,
    payloads: Mapping[str, Payload],
    texts: Sequence[str],
    rounds: int,
    on_progress: Callable[[int], None],
) -> dict[str, list[Timing]]:
    """One timing a lane and round, from one thread and gRPC's own blocking stubs for both."""
    with (
        grpc.insecure_channel(target.address) as engine,
        grpc.insecure_channel(target.echo_address) as channel,
    ):
        stub = query_pb2_grpc.QueryServiceStub(engine)
        echo: Lane = channel.unary_unary(ECHO_METHOD)
        lanes: dict[str, Lane] = {}
        for name in target.classes:
            lanes[echo_of(name)] = _echo_lane(echo, payloads[name])
            lanes[name] = _class_lane(stub, target.collection, name)
        one_round(lanes, texts[:_BLOCK])  # warm
        timings: dict[str, list[Timing]] = {name: [] for name in lanes}
        for number in range(rounds):
            for name, timing in one_round(lanes, texts).items():
                timings[name].append(timing)
            on_progress(number + 1)
    return timings


def _class_lane(stub: Any, collection: str, search_class: str) -> Lane:
    """The server's time and gRPC's: the SDK's value objects come on top of it."""
    options = query_pb2.SearchOptions(search_class=search_class, k=HITS)

    def ask(text: str) -> object:
        request = query_pb2.SearchRequest(collection=collection, text=text, options=options)
        return stub.Search(request, timeout=_TIMEOUT_S)

    return ask


def _echo_lane(echo: Lane, payload: Payload) -> Lane:
    request = payload.echo
    return lambda _: echo(request, timeout=_TIMEOUT_S)


def one_round(lanes: Mapping[str, Lane], texts: Sequence[str]) -> dict[str, Timing]:
    """Every text of every lane, which take turns in small blocks."""
    milliseconds: dict[str, list[float]] = {name: [] for name in lanes}
    for first in range(0, len(texts), _BLOCK):
        block = texts[first : first + _BLOCK]
        for name, lane in lanes.items():
            milliseconds[name] += [timed(lane, text)[1] for text in block]
    return {name: summarise(elapsed) for name, elapsed in milliseconds.items()}


# --- throughput: several calls at once ----------------------------------------------------------


def measure_throughput(
    target: Target,
    payloads: Mapping[str, Payload],
    texts: Sequence[str],
    rounds: int,
    concurrency: int,
    seconds: float,
    on_progress: Callable[[int], None],
) -> dict[str, float]:
    """Median calls a second of each lane, with `concurrency` in flight from the async client."""

    async def measure() -> dict[str, list[float]]:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                AsyncNestvecClient(target.address, timeout_s=_TIMEOUT_S)
            )
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(target.echo_address)
            )
            echo: AsyncLane = channel.unary_unary(ECHO_METHOD)
            lanes: dict[str, AsyncLane] = {}
            for name in target.classes:
                lanes[echo_of(name)] = _async_echo_lane(echo, payloads[name])
                lanes[name] = _async_class_lane(client, target.collection, name)
            rates: dict[str, list[float]] = {name: [] for name in lanes}
            for number in range(rounds):
                for name, lane in lanes.items():
                    rates[name].append(await _rate(lane, texts, concurrency, seconds))
                    await asyncio.sleep(_PAUSE_S)
                on_progress(number + 1)
            return rates

    measured = run_on_fastest_loop(measure())
    return {name: statistics.median(rates) for name, rates in measured.items()}


def _async_class_lane(client: AsyncNestvecClient, collection: str, search_class: str) -> AsyncLane:
    return lambda text: client.search(collection, text, search_class=search_class, k=HITS)


def _async_echo_lane(echo: AsyncLane, payload: Payload) -> AsyncLane:
    request = payload.echo
    return lambda _: echo(request, timeout=_TIMEOUT_S)


async def _rate(lane: AsyncLane, texts: Sequence[str], concurrency: int, seconds: float) -> float:
    """Calls a second: `concurrency` loops, each with one call in flight, all on the same list."""
    feed = itertools.cycle(texts)
    started = time.perf_counter()
    deadline = started + seconds

    async def loop() -> int:
        done = 0
        while time.perf_counter() < deadline:
            await lane(next(feed))
            done += 1
        return done

    counts = await asyncio.gather(*(loop() for _ in range(concurrency)))
    return sum(counts) / (time.perf_counter() - started)
