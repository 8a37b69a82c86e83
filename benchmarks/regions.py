"""Three regions on one machine: what asking far ones costs, what a lost one costs, and the bytes.

    python benchmarks/regions.py --texts FILE --queries FILE --column NAME --count 30000

Each region is a server process with a store of its own; delaying proxies between them make round
trips of 80 and 150 ms from the first. A server that is no region, with the first one's documents,
is asked in turns with it, so that what else the machine does slows both alike. Then one region is
cut off for a while under a steady load, and comes back. Last, documents are replicated whole, and
as prefixes only, and the bytes that come over the wire are counted.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Unpack

import grpc
import typer

from nestvec.client import IngestDocument, NestvecClient, SearchOptions
from nestvec.config import Settings
from nestvec.core.errors import NestvecError
from nestvec.core.placement import partition_of
from nestvec.quality.timing import Timing, median_ratio, median_timing, summarise, timed
from nestvec_cluster.bench_server import ECHO_METHOD, child, echo_request
from nestvec_cluster.demo_regions import specs
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import HITS, index_all, wait_until_settled
from nestvec_cluster.region_room import (
    RegionSpec,
    RunningRegion,
    cut_off,
    heal,
    running_regions,
)
from nestvec_cluster.texts import read_texts, sample
from nestvec_cluster.wan import DelayingProxy, wide_area

COLLECTION = "spread"
_SHORTEST = 16
_TIMEOUT_S = 60.0
_DEADLINE_S = 1.0
# Requests a second, open loop, while a region is cut off.
_RATE = 10.0
# `analyst` is the one that asks all regions unless told otherwise.
_CLASSES = ("search", "analyst")
# As by default, but any local answer suffices: what is measured is the way, not the rule.
_SETTINGS = {
    f"classes.{name}": one.model_dump(exclude_unset=True) | {"local_score": -1.0}
    for name, one in Settings().classes.items()
    if name in _CLASSES
}
# Of the replication: texts of this many bytes.
_PAYLOAD_BYTES = 80
# About what a query and ten hits with payloads take.
_SENT_BYTES, _ANSWERED_BYTES = 3200, 1200


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int, typer.Option(min=100)] = 30_000,
    queries_count: Annotated[int, typer.Option(min=10)] = 200,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    cut_s: Annotated[float, typer.Option(min=1)] = 10.0,
    copied: Annotated[int, typer.Option(min=100, help="Documents replicated.")] = 5000,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, 0)
    known = frozenset(indexed)
    others = [text for text in read_texts(queries, column, _SHORTEST) if text not in known]
    asked = sample(others, queries_count, 0)
    report = {
        **across(indexed, asked, rounds, cut_s),
        "bytes_per_document": replicated_bytes(indexed[:copied]),
        "machine": describe_machine(),
    }
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


# --- searching ------------------------------------------------------------------------------------


def across(texts: Sequence[str], asked: list[str], rounds: int, cut_s: float) -> dict[str, Any]:
    """Latencies, bytes of a query, and a region that is lost and returns."""
    wanted = [replace(one, settings=_SETTINGS) for one in specs(3, COLLECTION)]
    with ExitStack() as stack:
        regions = stack.enter_context(running_regions(wanted))
        clients = {
            name: stack.enter_context(NestvecClient(one.address, timeout_s=_TIMEOUT_S))
            for name, one in regions.items()
        }
        alone, _ = stack.enter_context(child("engine", "{}"))
        single = stack.enter_context(NestvecClient(alone, timeout_s=_TIMEOUT_S))
        parts = _fill(clients, single, texts)
        here = next(iter(regions))
        latencies = {
            name: _latencies(stack, clients[here], single, name, asked, rounds, regions[here])
            for name in _CLASSES
        }
        return {
            "documents": parts,
            "round_trips_ms": {
                name: 2e3 * way.one_way_s for name, way in regions[here].ways.items()
            },
            "latency": latencies,
            "bytes_per_query": {
                "all": _bytes_of_queries(clients[here], regions[here], asked, ids_only=False),
                "all_ids_only": _bytes_of_queries(
                    clients[here], regions[here], asked, ids_only=True
                ),
            },
            "cut": _cut(regions, clients[here], asked, cut_s),
        }


def _fill(
    clients: Mapping[str, NestvecClient], single: NestvecClient, texts: Sequence[str]
) -> dict[str, int]:
    """The server that is no region gets the first region's documents."""
    names = list(clients)
    parts: dict[str, list[IngestDocument]] = {name: [] for name in names}
    for row, text in enumerate(texts):
        name = f"text-{row:07}"
        parts[names[partition_of(name, len(names))]].append(IngestDocument(name, text))
    for client, part in (
        (single, parts[names[0]]),
        *zip(clients.values(), parts.values(), strict=True),
    ):
        client.create_collection(COLLECTION)
        index_all(client, COLLECTION, part)
        wait_until_settled(client, COLLECTION)
    return {name: len(part) for name, part in parts.items()}


def _latencies(
    stack: ExitStack,
    client: NestvecClient,
    single: NestvecClient,
    search_class: str,
    asked: Sequence[str],
    rounds: int,
    here: RunningRegion,
) -> dict[str, Any]:
    """Of each policy in one class, in turns with a server that is no region; medians over rounds.

    "local, rested": after a pause as long as the farthest way, after which the rest of `all` comes
    too: caches are cold by then, and cores asleep. "echo": a bare call of gRPC of the same size
    through a proxy as far away.
    """
    farthest = max(here.ways.values(), key=lambda way: way.one_way_s)
    farthest_s = 2.0 * farthest.one_way_s
    echo = stack.enter_context(_far_echo(farthest.one_way_s))

    def lane(whom: NestvecClient, **options: Unpack[SearchOptions]) -> Callable[[str], object]:
        options |= {"search_class": search_class, "k": HITS}
        return lambda text: whom.search(COLLECTION, text, **options)

    rested = lane(client, regions="local")
    lanes: dict[str, Callable[[str], object]] = {
        "no region": lane(single),
        "local": lane(client, regions="local"),
        "local_first": lane(client, regions="local_first"),
        "all": lane(client, regions="all"),
        "local, rested": rested,
        "echo": echo,
    }
    timings: dict[str, list[Timing]] = {name: [] for name in lanes}
    for text in asked[:20]:
        for ask in lanes.values():
            ask(text)
    for _ in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in lanes}
        for text in asked:
            for name, ask in lanes.items():
                if ask is rested:
                    time.sleep(farthest_s)
                taken[name].append(timed(ask, text)[1])
        for name, one in taken.items():
            timings[name].append(summarise(one))
        told = ", ".join(f"{name} {each[-1].p50_ms:.2f}" for name, each in timings.items())
        print(f"{search_class}, p50 ms: {told}", file=sys.stderr, flush=True)
    medians = {name: median_timing(each) for name, each in timings.items()}
    over_ms = medians["all"].p50_ms - medians["echo"].p50_ms
    return {
        "p50_ms": {name: one.p50_ms for name, one in medians.items()},
        "p95_ms": {name: one.p95_ms for name, one in medians.items()},
        "local_first_over_no_region": median_ratio(timings["local_first"], timings["no region"]),
        # The aim: at most 1.3.
        "all_less_echo_over_local": over_ms / medians["local"].p50_ms,
        "all_less_echo_over_local_rested": over_ms / medians["local, rested"].p50_ms,
    }


@contextmanager
def _far_echo(one_way_s: float) -> Iterator[Callable[[str], object]]:
    """Makes a call of the size of a query that travels."""
    with child("echo") as (address, _):
        proxy = DelayingProxy(one_way_s, address)
        with wide_area([proxy]), grpc.insecure_channel(proxy.address) as channel:
            call: Callable[..., bytes] = channel.unary_unary(ECHO_METHOD)
            request = echo_request(_SENT_BYTES, _ANSWERED_BYTES)
            yield lambda _: call(request, timeout=_TIMEOUT_S)


def _bytes_of_queries(
    client: NestvecClient, here: RunningRegion, asked: Sequence[str], *, ids_only: bool
) -> dict[str, dict[str, float]]:
    """Sent to and answered by each other region, for a query of ten hits."""
    before = {name: (way.traffic.sent, way.traffic.answered) for name, way in here.ways.items()}
    for text in asked:
        client.search(COLLECTION, text, k=HITS, regions="all", ids_only=ids_only)
    return {
        name: {
            "sent": (way.traffic.sent - before[name][0]) / len(asked),
            "answered": (way.traffic.answered - before[name][1]) / len(asked),
        }
        for name, way in here.ways.items()
    }


# --- a region that is lost ------------------------------------------------------------------------


@dataclass(slots=True)
class Asked:
    """What became of the requests of one phase."""

    milliseconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    coverage: Counter[float] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        """Plain data."""
        ordered = sorted(self.milliseconds)
        return {
            "requests": len(ordered) + len(self.failed),
            "failed": len(self.failed),
            "p50_ms": summarise(ordered).p50_ms if ordered else None,
            "p99_ms": ordered[int(0.99 * (len(ordered) - 1))] if ordered else None,
            "coverage": {f"{value:.4f}": number for value, number in sorted(self.coverage.items())},
            "examples": self.failed[:3],
        }


def _cut(
    regions: Mapping[str, RunningRegion], client: NestvecClient, asked: Sequence[str], cut_s: float
) -> dict[str, Any]:
    """The farthest region is cut off for a while under a steady load of `all`."""
    lost = list(regions)[-1]
    phases = {name: Asked() for name in ("before", "cut", "healed")}
    now = {"phase": "before"}
    stop = threading.Event()
    threads = [
        threading.Thread(target=_one, args=(client, text, phases, now))
        for text in islice(cycle(asked), int(_RATE * (2 * cut_s + 10.0)))
    ]
    load = threading.Thread(target=_steady, args=(threads, stop))
    load.start()
    time.sleep(5.0)
    now["phase"] = "cut"
    cut_off(regions, lost)
    time.sleep(cut_s)
    heal(regions, lost)
    healed_s = time.monotonic()
    now["phase"] = "healed"
    whole_after_s = None
    while time.monotonic() - healed_s < cut_s:
        if phases["healed"].coverage.get(1.0):
            whole_after_s = time.monotonic() - healed_s
            break
        time.sleep(0.05)
    time.sleep(3.0)
    stop.set()
    load.join()
    return {
        "region": lost,
        "deadline_ms": 1e3 * _DEADLINE_S,
        "whole_after_s": whole_after_s,
        **{name: one.told() for name, one in phases.items()},
    }


def _steady(threads: Sequence[threading.Thread], stop: threading.Event) -> None:
    """Open loop: each begins when it is due, whatever became of the ones before."""
    began_s, started = time.monotonic(), []
    for number, one in enumerate(threads):
        if stop.wait(max(0.0, began_s + number / _RATE - time.monotonic())):
            break
        one.start()
        started.append(one)
    for one in started:
        one.join()


def _one(
    client: NestvecClient, text: str, phases: Mapping[str, Asked], now: Mapping[str, str]
) -> None:
    # Of the phase in which it began.
    phase = phases[now["phase"]]
    try:
        found, elapsed = timed(
            client.search, COLLECTION, text, k=HITS, regions="all", timeout_s=_DEADLINE_S
        )
    except NestvecError as error:
        phase.failed.append(str(error))
        return
    phase.milliseconds.append(elapsed)
    phase.coverage[round(found.coverage.fraction, 4)] += 1


# --- replication ----------------------------------------------------------------------------------


def replicated_bytes(texts: Sequence[str]) -> dict[str, Any]:
    """Answered over the wire for each document that is copied from one region to another, with
    payloads of 80 bytes: whole, and as rows of one tier.
    """
    documents = [
        IngestDocument(
            f"text-{row:07}", (text * 8).encode()[:_PAYLOAD_BYTES].decode(errors="ignore")
        )
        for row, text in enumerate(texts)
    ]
    found = {
        "full": _copied_bytes(documents, {"mode": "replicated"}),
        "prefixes 256": _copied_bytes(
            documents, {"mode": "partitioned", "prefixes_of": ["us"], "prefix_dim": 256}
        ),
        "prefixes 128": _copied_bytes(
            documents, {"mode": "partitioned", "prefixes_of": ["us"], "prefix_dim": 128}
        ),
    }
    ratios = {name: found["full"] / one for name, one in found.items() if name != "full"}
    return {**found, "full_over": ratios}


def _copied_bytes(documents: Sequence[IngestDocument], shared: Mapping[str, Any]) -> float:
    """From the second region into the first, which holds nothing of its own."""
    there = {key: value for key, value in shared.items() if not key.startswith("prefix")}
    pair = [
        RegionSpec("eu", {"us": 0.0}, shared={COLLECTION: shared}),
        RegionSpec("us", shared={COLLECTION: there}),
    ]
    with ExitStack() as stack:
        regions = stack.enter_context(running_regions(pair))
        clients = {
            name: stack.enter_context(NestvecClient(one.address, timeout_s=_TIMEOUT_S))
            for name, one in regions.items()
        }
        for client in clients.values():
            client.create_collection(COLLECTION, tiers=[128, 256])
        index_all(clients["us"], COLLECTION, documents)
        way = regions["eu"].ways["us"]
        _wait_until_copied(clients["eu"])
        return way.traffic.answered / len(documents)


def _wait_until_copied(client: NestvecClient) -> None:
    deadline_s = time.monotonic() + 300.0
    while time.monotonic() < deadline_s:
        status = client.regions()
        ways = [one for region in status for one in region.replication]
        if ways and all(one.lag == 0 and one.staleness_s is not None for one in ways):
            return
        time.sleep(0.5)
    raise SystemExit("the documents were not copied within five minutes")


if __name__ == "__main__":
    typer.run(main)
