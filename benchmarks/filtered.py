"""What a filter costs and what it finds, from half of the documents down to one in ten thousand.

    python benchmarks/filtered.py --texts FILE --queries FILE --column NAME --count 200000

Starts a server process as `nestvec bench` does and indexes the texts, each with a number that is
drawn without regard to the text; a filter is a range of these numbers. The truth is an exact
search, at full dimension, of the stored vectors that match. Lanes (no filter, and each filter) take
turns in small blocks; `ratio` is the median of the rounds' own ratios of p50 to the lane without a
filter, since what slows the machine slows both. The table is Markdown, for RESULTS.md.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.arrays import Floats, Ids
from nestvec.core.filters import Filter, Range
from nestvec.quality.recall import Ranking, estimate_mean
from nestvec.quality.timing import Timing, median_ratio, median_timing
from nestvec.quality.truth import ExactSearch
from nestvec.rpc.field_wire import filter_to_wire
from nestvec.v1 import query_pb2, query_pb2_grpc
from nestvec_cluster.bench_rounds import one_round
from nestvec_cluster.bench_server import child
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import (
    HITS,
    Queries,
    encode_queries,
    index_all,
    recalls,
    wait_until_settled,
)
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "filtered"
FIELD = "number"
SHARES = (0.5, 0.05, 0.005, 0.0001)
_UNFILTERED = "none"
_SHORTEST = 16
_SEED = 0
_GET_AT_ONCE = 512
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One filter. matching: how many documents it lets through."""

    name: str
    filter: Filter | None
    matching: int


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int | None, typer.Option(min=100)] = None,
    queries_count: Annotated[int, typer.Option(min=1)] = 200,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    search_class: Annotated[str, typer.Option(help="The class to ask.")] = "search",
    model: Annotated[str, typer.Option(help="A model's folder or name.")] = "default",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print recall and latency by selectivity as a Markdown table."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, _SEED)
    known = frozenset(indexed)
    others = [text for text in read_texts(queries, column, _SHORTEST) if text not in known]
    asked = sample(others, queries_count, _SEED)
    # The document of number n is `order[n]`: the first n numbers are any n documents.
    order = np.random.default_rng(_SEED).permutation(len(indexed))
    lanes = [Lane(_UNFILTERED, None, len(indexed))]
    for share in SHARES:
        matching = max(round(share * len(indexed)), 1)
        lanes.append(Lane(f"{share:.2%}", Range(FIELD, less_than=matching), matching))
    with ExitStack() as stack:
        address, _ = stack.enter_context(child("engine", json.dumps({"encoder.model": model})))
        client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        tell(f"indexing {len(indexed):,} texts")
        _index(client, indexed, order)
        wait_until_settled(client, COLLECTION)
        tell("searching exactly")
        vectors = encode_queries(address, asked)
        truth = _truth(client, order, lanes, vectors)
        tell("measuring recall")
        report: dict[str, Any] = {
            lane.name: _quality(
                client, search_class, lane, Queries(asked, vectors, truth[lane.name])
            )
            for lane in lanes
        }
        timings = _latencies(address, search_class, lanes, asked, rounds)
    for lane in lanes:
        timing = median_timing(timings[lane.name])
        report[lane.name] |= {
            "matching": lane.matching,
            "p50_ms": timing.p50_ms,
            "p95_ms": timing.p95_ms,
            "ratio": median_ratio(timings[lane.name], timings[_UNFILTERED]),
        }
    machine = describe_machine()
    if json_file is not None:
        facts = {"documents": len(indexed), "queries": len(asked), "class": search_class}
        report_text = json.dumps({**facts, "lanes": report, "machine": machine}, indent=2)
        json_file.write_text(report_text + "\n", encoding="utf-8")
    _print(report, len(indexed), len(asked), machine)


def _index(client: NestvecClient, texts: Sequence[str], order: Ids) -> None:
    client.create_collection(COLLECTION, fields={FIELD: "integer"})
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    documents = [
        IngestDocument(_id(row), text, {FIELD: int(numbers[row])}) for row, text in enumerate(texts)
    ]
    taken = index_all(client, COLLECTION, documents)
    if len(taken) != len(documents):
        raise typer.BadParameter(f"{len(documents) - len(taken)} texts cannot be encoded")


def _id(row: int) -> str:
    return f"text-{row:07}"


def _truth(
    client: NestvecClient, order: Ids, lanes: Sequence[Lane], queries: Floats
) -> dict[str, list[Ranking]]:
    """Each document is fetched once, and goes to every lane whose filter lets it through."""
    searches = {lane.name: ExactSearch(queries, HITS) for lane in lanes}
    for first in range(0, len(order), _GET_AT_ONCE):
        ids = [_id(row) for row in order[first : first + _GET_AT_ONCE].tolist()]
        vectors = _vectors(client, ids)
        for lane in lanes:
            inside = min(max(lane.matching - first, 0), len(ids))
            searches[lane.name].add(ids[:inside], vectors[:inside])
    return {name: search.rankings() for name, search in searches.items()}


def _vectors(client: NestvecClient, ids: Sequence[str]) -> Floats:
    found = client.get(COLLECTION, ids, with_vectors=True)
    assert [one.id for one in found.documents] == list(ids)
    return np.array([one.vector for one in found.documents], np.float32)


def _quality(
    client: NestvecClient,
    search_class: str,
    lane: Lane,
    queries: Queries,
) -> dict[str, Any]:
    results = [
        client.search(
            COLLECTION, text, search_class=search_class, k=HITS, filter=lane.filter, explain=True
        )
        for text in queries.texts
    ]
    explained = [one.explanation for one in results if one.explanation is not None]
    assert all(one.matching == lane.matching for one in explained), "not what was filtered"
    recall = estimate_mean(recalls(client, COLLECTION, queries, results))
    return {
        "recall_at_10": recall.mean,
        "recall_at_10_interval": [recall.low, recall.high],
        "hits_mean": float(np.mean([len(one.hits) for one in results])),
        "candidates_mean": float(np.mean([one.candidates for one in explained])),
        "fetched_mean": float(np.mean([one.fetched for one in explained])),
        "coarse_ms": float(np.median([one.stages["coarse"] for one in explained])),
        "certificates": dict(Counter(one.certificate.value for one in results)),
    }


def _latencies(
    address: str, search_class: str, lanes: Sequence[Lane], asked: Sequence[str], rounds: int
) -> dict[str, list[Timing]]:
    """One call after another from gRPC's own stub. Every round asks every lane everything."""
    options = {
        lane.name: query_pb2.SearchOptions(
            search_class=search_class,
            k=HITS,
            filter=None if lane.filter is None else filter_to_wire(lane.filter),
        )
        for lane in lanes
    }
    timings: dict[str, list[Timing]] = {lane.name: [] for lane in lanes}
    with grpc.insecure_channel(address) as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)

        def ask(options: query_pb2.SearchOptions, text: str) -> object:
            request = query_pb2.SearchRequest(collection=COLLECTION, text=text, options=options)
            return stub.Search(request, timeout=_TIMEOUT_S)

        asking = {name: partial(ask, one) for name, one in options.items()}
        for number in range(rounds + 1):
            tell(f"latencies, round {number} of {rounds}" if number else "warming")
            measured = one_round(asking, asked)
            if number:
                for name, timing in measured.items():
                    timings[name].append(timing)
    return timings


def _print(
    report: Mapping[str, Mapping[str, Any]], documents: int, asked: int, machine: Mapping[str, Any]
) -> None:
    print(
        f"{documents:,} texts, {asked:,} queries, {machine['cpu']}, load "
        f"{machine['load_average']}\n"
    )
    print(
        "| filter | documents | recall@10 | p50 ms | p95 ms | ratio | coarse ms | candidates "
        "| fetched | certificates |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|")
    for name, lane in report.items():
        certificates = ", ".join(f"{one} {n}" for one, n in lane["certificates"].items())
        print(
            f"| {name} | {lane['matching']:,} | {lane['recall_at_10']:.4f} | {lane['p50_ms']:.2f} "
            f"| {lane['p95_ms']:.2f} | {lane['ratio']:.2f} | {lane['coarse_ms']:.2f} "
            f"| {lane['candidates_mean']:,.0f} | {lane['fetched_mean']:,.0f} | {certificates} |"
        )


def tell(what: str) -> None:
    """Progress, on stderr."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
