"""What telemetry costs: metrics, logs and traces at 1 %, against none of them.

    python benchmarks/telemetry.py --texts FILE --queries FILE --column NAME --count 20000

Three servers over the same texts, as `nestvec serve` runs them. One tells everything: Prometheus
metrics on a port of their own (scraped every 5 s), a JSON log line for every search, and traces of
1 % of the calls, sent to a collector that is a process of its own. The others tell nothing: no
metrics port, logs at `error`, no traces. 16 callers ask them in turns, each round in another order;
the figure is the median of the rounds' own ratios. Counting itself cannot be switched off, so all
count. Two processes that do the same differ by some percent from start to start: so all of it is
done with several starts.

Beside it: the two servers that tell nothing against each other (`noise`), and each server's CPU
time a search. `--sample` traces more.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from nestvec.client import AsyncNestvecClient, IngestDocument, NestvecClient
from nestvec_cluster.bench_server import child
from nestvec_cluster.machine import cpu_seconds, describe_machine
from nestvec_cluster.measuring import index_all, wait_until_settled
from nestvec_cluster.ports import free_ports
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "told"
K = 10
_SHORTEST = 16
_MOST_QUERIES = 2000
_CALLERS = 16
_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_SCRAPE_S = 5.0
# The most that telemetry may take of throughput.
_AIM = 0.05
# The argument with which this file runs as the collector.
_COLLECT = "--collect"


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="Of the texts.")] = None,
    queries_column: Annotated[str | None, typer.Option(help="Of the queries.")] = None,
    count: Annotated[int, typer.Option(min=1000)] = 20_000,
    starts: Annotated[int, typer.Option(min=1)] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Of each start.")] = 3,
    block_s: Annotated[float, typer.Option(min=0.5)] = 4.0,
    share: Annotated[float, typer.Option("--sample", min=0.0, max=1.0)] = 0.01,
    search_class: Annotated[str, typer.Option("--class")] = "search",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, 0)
    known = frozenset(indexed)
    others = [one for one in read_texts(queries, queries_column, _SHORTEST) if one not in known]
    asked = sample(others, _MOST_QUERIES, 0)
    report = asyncio.run(measure(indexed, asked, starts, rounds, block_s, share, search_class))
    report["machine"] = describe_machine()
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


@dataclass
class Lane:
    """One way to run a server, and what it did in each round."""

    name: str
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    async def run(
        self, server: Server, asked: Sequence[str], search_class: str, block_s: float
    ) -> None:
        """One block."""
        began, cpu = time.monotonic(), cpu_seconds([server.pid])
        done = await asking(server.address, asked, search_class, block_s)
        self.rates.append(done / (time.monotonic() - began))
        self.cpu_ms.append((cpu_seconds([server.pid]) - cpu) * 1e3 / done)


@dataclass(frozen=True, slots=True)
class Server:
    """address: host:port. metrics: its URL; empty where it tells none."""

    address: str
    pid: int
    log: Path
    metrics: str = ""


async def measure(
    texts: Sequence[str],
    asked: Sequence[str],
    starts: int,
    rounds: int,
    block_s: float,
    share: float,
    search_class: str,
) -> dict[str, Any]:
    """Queries a second of all, in turns."""
    documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
    lanes = [Lane("with"), Lane("without"), Lane("without too")]
    spans, lines = 0.0, 0
    for _ in range(starts):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestvec-bench-")))
            collector = stack.enter_context(a_collector())
            told = stack.enter_context(serving(folder, "told", telling(collector, share)))
            silent = [
                stack.enter_context(serving(folder, name, {"log.level": "error"}))
                for name in ("silent", "silent-too")
            ]
            servers = (told, *silent)
            for one in servers:
                await asyncio.to_thread(fill, one.address, documents)
            stack.enter_context(scraping(told.metrics))
            for one in servers:
                await asking(one.address, asked, search_class, 2.0)
            turns = list(zip(lanes, servers, strict=True))
            for number in range(rounds):
                for lane, server in turns[number % 3 :] + turns[: number % 3]:
                    await lane.run(server, asked, search_class, block_s)
                tell(", ".join(f"{one.name} {one.rates[-1]:.0f}/s" for one in lanes))
            # What waits to be sent is sent before anybody looks.
            await asyncio.sleep(6.0)
            spans += sample_of(told.metrics, 'nestvec_trace_spans_total{outcome="sent"}')
            lines += told.log.read_bytes().count(b"\n")
    return figures(lanes) | {
        "documents": len(texts),
        "search_class": search_class,
        "sample": share,
        "starts": starts,
        "rounds": rounds,
        "block_s": block_s,
        "spans_sent": spans,
        "log_lines": lines,
    }


def figures(lanes: Sequence[Lane]) -> dict[str, Any]:
    """Medians, and medians of the rounds' own ratios."""
    told, silent, again = lanes
    ratios = [
        a / ((b + c) / 2) for a, b, c in zip(told.rates, silent.rates, again.rates, strict=True)
    ]
    noise = [b / c for b, c in zip(silent.rates, again.rates, strict=True)]
    cpu = [
        a / ((b + c) / 2) for a, b, c in zip(told.cpu_ms, silent.cpu_ms, again.cpu_ms, strict=True)
    ]
    cost = 1.0 - statistics.median(ratios)
    return {
        "qps_with": statistics.median(told.rates),
        "qps_without": statistics.median([*silent.rates, *again.rates]),
        "qps_ratio": statistics.median(ratios),
        "qps_ratios": ratios,
        "cost": cost,
        "within_aim": cost <= _AIM,
        "noise": statistics.median(noise),
        "noise_ratios": noise,
        "server_cpu_ms_with": statistics.median(told.cpu_ms),
        "server_cpu_ms_without": statistics.median([*silent.cpu_ms, *again.cpu_ms]),
        "server_cpu_ratio": statistics.median(cpu),
    }


# --- asking ---------------------------------------------------------------------------------------


async def asking(address: str, asked: Sequence[str], search_class: str, seconds: float) -> int:
    """How many were answered."""
    feed, done = itertools.cycle(asked), 0
    deadline = time.monotonic() + seconds

    async def caller(client: AsyncNestvecClient) -> None:
        nonlocal done
        while time.monotonic() < deadline:
            await client.search(COLLECTION, next(feed), search_class=search_class, k=K)
            done += 1

    async with AsyncNestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        await asyncio.gather(*(caller(client) for _ in range(_CALLERS)))
    return done


def fill(address: str, documents: Sequence[IngestDocument]) -> None:
    """The collection, indexed and settled."""
    with NestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        client.create_collection(COLLECTION)
        index_all(client, COLLECTION, documents)
        wait_until_settled(client, COLLECTION)


# --- processes ------------------------------------------------------------------------------------


def telling(collector: str, share: float) -> dict[str, Any]:
    """Settings of a server that tells everything."""
    return {
        "server.metrics_port": free_ports(1)[0],
        "log.level": "info",
        "log.format": "json",
        "telemetry.traces.endpoint": f"http://{collector}",
        "telemetry.traces.sample": share,
    }


@contextmanager
def serving(folder: Path, name: str, overrides: dict[str, Any]) -> Iterator[Server]:
    """The engine as `nestvec serve` runs it, with a temporary store."""
    settings, log = {"live_recall.cpu_share": 0, **overrides}, folder / f"{name}.log"
    port = settings.get("server.metrics_port")
    with log.open("wb") as said, child("engine", json.dumps(settings), log=said) as (address, pid):
        yield Server(address, pid, log, "" if port is None else f"http://127.0.0.1:{port}")


@contextmanager
def a_collector() -> Iterator[str]:
    """Gives its address. A process of its own, so that the servers do not pay for it."""
    process = subprocess.Popen([sys.executable, __file__, _COLLECT], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().decode().strip()
    finally:
        process.stdout.close()
        process.terminate()
        process.wait(_STOP_TIMEOUT_S)


@contextmanager
def scraping(url: str) -> Iterator[None]:
    """As Prometheus does."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_S):
            read(url)

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read(url: str) -> str:
    """The metrics."""
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
        return str(response.read(), "utf-8")


def sample_of(url: str, name: str) -> float:
    """One of the metrics; 0 where it is not there."""
    lines = [line for line in read(url).splitlines() if line.startswith(name + " ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def collect() -> None:
    """Take what is sent, and keep none of it."""

    class Taker(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(Taker(), server)
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    server.start()
    os.nice(5)
    server.wait_for_termination()


def tell(text: str) -> None:
    """While it runs."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == [_COLLECT]:
        collect()
    else:
        typer.run(main)
