"""How many answers are certified over the whole collection, what they state, and what it costs.

    python benchmarks/certificates.py --texts FILE --queries FILE --column NAME --count 50000

Starts a server process as `nestvec bench` does and indexes the texts under a coarse code that is
scanned exactly. Every query is asked in the class `analyst`, whose certificate may speak of the
whole collection, and its answer held against an exact search, at full dimension, of the stored
vectors: an answer fails when any of its scores differs from the truth's at that place. Told are
answers by certificate, the share certified over the collection at a stated failure probability of
at most 1e-3, failures observed, and the sum of what was stated. Latencies are those of the class,
and of the same class without `certified`, in turns. The tables are Markdown, for RESULTS.md.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from nestvec.client import IngestDocument, NestvecClient
from nestvec.config import Settings
from nestvec.quality.recall import TIE, Ranking
from nestvec.quality.timing import Timing, median_ratio, median_timing
from nestvec.v1 import common_pb2, query_pb2, query_pb2_grpc
from nestvec_cluster.bench_rounds import one_round
from nestvec_cluster.bench_server import child
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import encode_queries, find_truth, index_all, wait_until_settled
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "certificates"
CLASS = "analyst"
WITHOUT = "without"
AIM = 1e-3
_SHORTEST = 16
_SEED = 0
_TIMEOUT_S = 60.0
_TIMED = 200
# Of the queries that are not timed.
_AT_ONCE = 4
_COLLECTION = common_pb2.CERTIFICATE_COLLECTION


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int | None, typer.Option(min=100)] = None,
    queries_count: Annotated[int, typer.Option(min=1)] = 10_000,
    code: Annotated[str, typer.Option(help="One that is scanned exactly.")] = "fp32",
    rounds: Annotated[int, typer.Option(min=0)] = 5,
    model: Annotated[str, typer.Option(help="A model's folder or name.")] = "default",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print certificates and latencies as Markdown tables."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, _SEED)
    known = frozenset(indexed)
    others = [text for text in read_texts(queries, column, _SHORTEST) if text not in known]
    asked = sample(others, queries_count, _SEED)
    section = Settings().classes[CLASS]
    without = section.model_copy(update={"certified": False}).model_dump()
    settings = {"encoder.model": model, f"classes.{WITHOUT}": without}
    with ExitStack() as stack:
        address, _ = stack.enter_context(child("engine", json.dumps(settings)))
        client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        tell(f"indexing {len(indexed):,} texts")
        client.create_collection(COLLECTION, coarse_code=code)
        documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(indexed)]
        taken = [one.id for one in index_all(client, COLLECTION, documents)]
        described = wait_until_settled(client, COLLECTION)
        segments = sorted({one for tier in described.tier_status for one in tier.segments})
        tell(f"searching exactly; segments {', '.join(segments)}")
        vectors = encode_queries(address, asked)
        truth = find_truth(client, COLLECTION, taken, vectors, k=section.k)
        report = _certificates(address, asked, truth)
        timings = _latencies(address, asked[:_TIMED], rounds)
    machine = describe_machine()
    latencies = {name: median_timing(ones) for name, ones in timings.items() if ones}
    ratio = median_ratio(timings[CLASS], timings[WITHOUT]) if rounds else None
    if json_file is not None:
        whole = {
            "documents": len(taken),
            "k": section.k,
            "segments": segments,
            "certificates": report,
            "p50_ms": {name: one.p50_ms for name, one in latencies.items()},
            "ratio": ratio,
            "machine": machine,
        }
        json_file.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    _print(report, latencies, ratio, (len(taken), len(asked), section.k, segments, machine))


def _certificates(address: str, asked: Sequence[str], truth: Sequence[Ranking]) -> dict[str, Any]:
    """All queries. failed, stated: of answers certified over the collection."""
    options = query_pb2.SearchOptions(search_class=CLASS, explain=True, ids_only=True)
    kinds: Counter[str] = Counter()
    stated: list[float] = []
    failed: list[float] = []
    fetched: list[int] = []
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(_AT_ONCE) as threads:
        stub = query_pb2_grpc.QueryServiceStub(channel)

        def ask(text: str) -> query_pb2.SearchResponse:
            request = query_pb2.SearchRequest(collection=COLLECTION, text=text, options=options)
            return stub.Search(request, timeout=_TIMEOUT_S)

        answers = zip(threads.map(ask, asked), truth, strict=True)
        for number, (response, ranking) in enumerate(answers, 1):
            kind = common_pb2.Certificate.Name(response.certificate)
            kinds[kind.removeprefix("CERTIFICATE_").lower()] += 1
            fetched.append(response.explanation.fetched)
            if response.certificate == _COLLECTION:
                stated.append(response.failure_probability)
                if _fails(response, ranking):
                    failed.append(response.failure_probability)
            if number % 1000 == 0:
                tell(f"asked {number:,}")
    return {
        "queries": len(asked),
        "certificates": dict(kinds),
        "certified_share": sum(one <= AIM for one in stated) / len(asked),
        "failed": len(failed),
        "failed_within_aim": sum(one <= AIM for one in failed),
        "stated_sum": float(np.sum(stated)),
        "stated_median": float(np.median(stated)) if stated else None,
        "fetched_mean": float(np.mean(fetched)),
    }


def _fails(response: query_pb2.SearchResponse, truth: Ranking) -> bool:
    """Scores of ties are equal, whichever of them is shown."""
    scores = np.array([hit.score for hit in response.hits], np.float32)
    if len(scores) != len(truth.scores):
        return True
    return bool((np.abs(scores - truth.scores) > TIE).any())


def _latencies(address: str, asked: Sequence[str], rounds: int) -> dict[str, list[Timing]]:
    """One call after another from gRPC's own stub. Every round asks both classes everything."""
    timings: dict[str, list[Timing]] = {CLASS: [], WITHOUT: []}
    with grpc.insecure_channel(address) as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)

        def ask(name: str, text: str) -> object:
            options = query_pb2.SearchOptions(search_class=name)
            request = query_pb2.SearchRequest(collection=COLLECTION, text=text, options=options)
            return stub.Search(request, timeout=_TIMEOUT_S)

        asking = {name: partial(ask, name) for name in timings}
        for number in range(rounds + 1 if rounds else 0):
            tell(f"latencies, round {number} of {rounds}" if number else "warming")
            measured = one_round(asking, asked)
            if number:
                for name, timing in measured.items():
                    timings[name].append(timing)
    return timings


def _print(
    report: dict[str, Any],
    latencies: dict[str, Timing],
    ratio: float | None,
    facts: tuple[int, int, int, Sequence[str], dict[str, Any]],
) -> None:
    documents, asked, k, segments, machine = facts
    print(
        f"{documents:,} texts ({', '.join(segments)}), {asked:,} queries, k = {k}, "
        f"{machine['cpu']}, load {machine['load_average']}\n"
    )
    print(
        f"| certificates | collection at <= {AIM:g} | failed | of these <= {AIM:g} "
        f"| stated, summed | stated, median | fetched |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    kinds = ", ".join(f"{name} {number:,}" for name, number in report["certificates"].items())
    median = "" if report["stated_median"] is None else f"{report['stated_median']:.1e}"
    print(
        f"| {kinds} | {report['certified_share']:.2%} | {report['failed']} "
        f"| {report['failed_within_aim']} | {report['stated_sum']:.3g} | {median} "
        f"| {report['fetched_mean']:.1f} |"
    )
    for name, timing in latencies.items():
        print(f"\n{name}: p50 {timing.p50_ms:.2f} ms, p95 {timing.p95_ms:.2f} ms", end="")
    if ratio is not None:
        print(f"\n\n{CLASS} / {WITHOUT}: {ratio:.2f}")


def tell(what: str) -> None:
    """Progress, on stderr."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
