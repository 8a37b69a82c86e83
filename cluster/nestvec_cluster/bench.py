"""`nestvec bench`: figures that can be trusted, from a server process of its own.

The server is what `nestvec serve` runs; this process drives it over gRPC. A bare gRPC echo with the
same payload sizes is measured in the same rounds, and every recall against an exact search of the
vectors that the server stores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nestvec.client import (
    CollectionDescription,
    IngestDocument,
    NestvecClient,
    SearchClassInfo,
)
from nestvec.core.errors import ConfigError
from nestvec.quality.timing import Timing, median_ratio, median_timing
from nestvec_cluster.bench_report import print_report
from nestvec_cluster.bench_rounds import (
    Payload,
    Target,
    echo_of,
    measure_latencies,
    measure_payloads,
    measure_throughput,
)
from nestvec_cluster.bench_server import child
from nestvec_cluster.machine import describe_machine, memory_below
from nestvec_cluster.measuring import (
    ClassQuality,
    Queries,
    encode_queries,
    find_truth,
    index_all,
    measure_quality,
    wait_until_settled,
)
from nestvec_cluster.progress import Phases
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "bench"
_SHORTEST = 16
_SEED = 0
_ROUNDS = 5
_CONCURRENCY = 16
_THROUGHPUT_S = 1.0
_TIMEOUT_S = 60.0
# The class whose payload sizes and tier stand for the whole in the report's head.
_HEAD_CLASS = "search"


@dataclass(frozen=True, slots=True)
class Speed:
    """Latencies by lane and round, calls a second by lane, and the payloads of each class."""

    payloads: Mapping[str, Payload]
    latencies: Mapping[str, list[Timing]]
    rates: Mapping[str, float]


def bench(
    texts: Annotated[Path, typer.Option(help="What to index: anything `nestvec index` reads.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[
        str | None,
        typer.Option(
            "--column", "--text-column", help="The column of the texts: a name, or its number."
        ),
    ] = None,
    query_column: Annotated[
        str | None, typer.Option(help="The column of the queries; by default that of the texts.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model's folder or name.")] = "default",
    count: Annotated[int | None, typer.Option(min=1, help="Index so many of the texts.")] = None,
    queries_count: Annotated[int, typer.Option(min=1, help="Ask so many of the queries.")] = 500,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of latencies, of which the median.")
    ] = (_ROUNDS),
    config: Annotated[
        Path | None, typer.Option(help="A nestvec.yaml for the server; its store is not used.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Measure a server of your own texts: latency, recall, memory, ingest, beside a bare echo.

    Starts a server process and an echo process, indexes a sample of the texts (distinct ones of 16
    characters or more), and asks every class for 10 hits. Progress is shown on stderr. On some
    machines the variables OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are set for old builds; they slow
    current ones, so unset both for a measurement.
    """
    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading texts"):
        indexed = sample(read_texts(texts, column, _SHORTEST), count, _SEED)
        known = frozenset(indexed)
        others = read_texts(queries, query_column or column, _SHORTEST)
        asked = sample([text for text in others if text not in known], queries_count, _SEED)
    if not asked:
        raise ConfigError(f"{queries}: every query is one of the texts; ask with another source")
    with ExitStack() as stack:
        with phases.timed("start", "starting the server"):
            files = [] if config is None else [str(config)]
            overrides = json.dumps({"encoder.model": model})
            address, pid = stack.enter_context(child("engine", overrides, *files))
            echo_address, _ = stack.enter_context(child("echo"))
            client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        ids = _index(client, indexed, phases)
        with phases.timed("settle", "waiting for the indexes to settle"):
            described = wait_until_settled(client, COLLECTION)
        classes = client.server().search_classes
        quality = _quality(client, address, classes, ids, asked, phases)
        target = Target(address, echo_address, COLLECTION, tuple(one.name for one in classes))
        speed = _speed(target, asked, rounds, phases)
        memory = [{"process": one.name, "rss_bytes": one.rss_bytes} for one in memory_below(pid)]
    report = _report(described, quality, speed, phases)
    report |= {"queries": len(asked), "model": model, "memory": memory}
    report |= {"seconds": phases.seconds, "machine": describe_machine()}
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_report(Console(), report)


def _index(client: NestvecClient, texts: Sequence[str], phases: Phases) -> list[str]:
    """Index all texts. Returns the ids of those that can be found."""
    client.create_collection(COLLECTION)
    documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
    with phases.timed("index", "indexing") as meter:
        shown = meter.count("indexing", len(documents))
        return [one.id for one in index_all(client, COLLECTION, documents, shown)]


def _quality(
    client: NestvecClient,
    address: str,
    classes: Sequence[SearchClassInfo],
    ids: Sequence[str],
    texts: list[str],
    phases: Phases,
) -> dict[str, ClassQuality]:
    vectors = encode_queries(address, texts)
    with phases.timed("truth", "searching exactly") as meter:
        shown = meter.count("searching exactly", len(ids))
        truth = find_truth(client, COLLECTION, ids, vectors, shown)
    queries = Queries(texts, vectors, truth)
    quality = {}
    with phases.timed("quality", "measuring recall") as meter:
        for one in classes:
            shown = meter.count(f"recall of {one.name}", len(texts))
            quality[one.name] = measure_quality(client, COLLECTION, one, queries, shown)
    return quality


def _speed(target: Target, texts: Sequence[str], rounds: int, phases: Phases) -> Speed:
    payloads = measure_payloads(target, texts)
    with phases.timed("latency", "measuring latencies") as meter:
        shown = meter.count("rounds of latencies", rounds)
        latencies = measure_latencies(target, payloads, texts, rounds, shown)
    with phases.timed("throughput", "measuring throughput") as meter:
        shown = meter.count("rounds of throughput", rounds)
        rates = measure_throughput(
            target, payloads, texts, rounds, _CONCURRENCY, _THROUGHPUT_S, shown
        )
    return Speed(payloads, latencies, rates)


def _report(
    described: CollectionDescription,
    quality: Mapping[str, ClassQuality],
    speed: Speed,
    phases: Phases,
) -> dict[str, Any]:
    """Plain data, under the names that benchmarks/README.md explains."""
    head = _HEAD_CLASS if _HEAD_CLASS in quality else next(iter(quality))
    tiers = {
        str(tier.dim): {
            "bytes_per_vector": tier.nbytes / max(tier.documents, 1),
            "segments": list(tier.segments),
        }
        for tier in described.tier_status
    }
    return {
        "documents": described.documents,
        "ingest_per_s": described.documents / phases.seconds["index"],
        "echo": {
            **_lane(speed, echo_of(head)),
            **{name: _lane(speed, echo_of(name)) for name in quality},
        },
        "classes": {
            name: {
                **_lane(speed, name),
                "ratio_to_echo": median_ratio(
                    speed.latencies[name], speed.latencies[echo_of(name)]
                ),
                "request_bytes": speed.payloads[name].request_bytes,
                "response_bytes": speed.payloads[name].response_bytes,
                **one.to_dict(),
            }
            for name, one in quality.items()
        },
        "coarse_bytes_per_vector": tiers[str(quality[head].coarse_dim)]["bytes_per_vector"],
        "tiers": tiers,
        "store_bytes_per_vector": described.store.vector_bytes_per_document,
        "payload_bytes_per_document": described.store.payload_bytes_per_document,
        "store_used_bytes": described.store.used_memory_bytes,
    }


def _lane(speed: Speed, name: str) -> dict[str, float]:
    timing = median_timing(speed.latencies[name])
    return {"p50_ms": timing.p50_ms, "p95_ms": timing.p95_ms, "qps": speed.rates[name]}
