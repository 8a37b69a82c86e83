"""`nestvec eval`: what each tier and class of a model is worth on documents that people judged."""

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
    IngestDocument,
    NestvecClient,
    SearchClassInfo,
    SearchOptions,
)
from nestvec.core.errors import ConfigError
from nestvec.quality.golden import GoldenSet, load_golden
from nestvec.quality.timing import Timing
from nestvec_cluster.bench_server import child
from nestvec_cluster.cli_options import numbers
from nestvec_cluster.evaluate_report import LaneReport, print_evaluation
from nestvec_cluster.evaluating import (
    DEPTH,
    Asked,
    Evaluation,
    TierLanes,
    measure_latencies,
    self_judged,
)
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import (
    HITS,
    encode_queries,
    find_truth,
    index_all,
    wait_until_settled,
)
from nestvec_cluster.progress import Phases
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "golden"
WIDTHS = (10, 20, 50, 100, 200, 500, 1000)
_WIDTH = 50
SELF_QUERIES = 500
_LATENCY_QUERIES = 200
_TIMEOUT_S = 300.0
_FEWEST_TEXTS = 20


# What `eval` and `ablate` are told alike.
GoldenFolder = Annotated[
    Path | None,
    typer.Option(help="A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels.tsv."),
]
SelfTexts = Annotated[
    Path | None,
    typer.Option(help="With --self, instead: texts that `nestvec index` reads, some withheld."),
]
BySelf = Annotated[
    bool, typer.Option("--self", help="Without judgments: exact full search is the truth.")
]
Model = Annotated[str, typer.Option(help="A model's folder or name, or an installed package.")]
Card = Annotated[
    Path | None, typer.Option(help="The model's card, as `nestvec probe --card` writes it.")
]
Tiers = Annotated[
    str | None, typer.Option(help="Measure these, as 128,256; by default all of the model's.")
]
Sample = Annotated[
    int | None, typer.Option(min=1, help="A sample of so many; by default all (--self: 500).")
]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for. width: of the reranked figures. dims: tiers, all when
    empty. queries: at most so many. by_self: exact search is the truth.
    """

    by_self: bool
    queries: int | None
    width: int
    widths: tuple[int, ...]
    dims: tuple[int, ...]
    latency_queries: int


def evaluate(
    golden: GoldenFolder = None,
    texts: SelfTexts = None,
    by_self: BySelf = False,
    model: Model = "default",
    card: Card = None,
    tiers: Tiers = None,
    queries: Sample = None,
    width: Annotated[
        int, typer.Option(min=HITS, help="Candidates of the reranked figures.")
    ] = _WIDTH,
    widths: Annotated[
        str, typer.Option(help="Candidates over which the curve is drawn.")
    ] = ",".join(map(str, WIDTHS)),
    latency_queries: Annotated[
        int, typer.Option(min=1, help="Queries that are asked one by one for latencies.")
    ] = _LATENCY_QUERIES,
    config: Annotated[
        Path | None, typer.Option(help="A nestvec.yaml for the server; its store is not used.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a report with plots to this file.")
    ] = None,
) -> None:
    """Measure a model's tiers and the search classes on a golden set.

    Starts a server process, indexes the corpus, asks every query over gRPC at every tier: in the
    tier's own order and reranked, and over a curve of candidate counts. Reports nDCG@10,
    recall@10, recall@100 and MRR@10 against the judgments, recall@10 against exact search at full
    dimension, intervals from a paired bootstrap, latencies, and bytes a vector.
    """
    wishes = Wishes(
        by_self,
        queries if queries is not None or not by_self else SELF_QUERIES,
        width,
        _checked_widths(widths),
        numbers(tiers, "--tiers"),
        latency_queries,
    )
    if html_file is not None:
        # Said before minutes of measuring, not after.
        from nestvec_cluster.evaluate_html import require_plots

        require_plots()
    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading the golden set"):
        chosen = read_set(golden, texts, wishes.by_self, wishes.queries)
    with ExitStack() as stack:
        with phases.timed("start", "starting the server"):
            overrides = {"encoder.model": model, "server.deadline_cap_s": _TIMEOUT_S}
            if card is not None:
                overrides["encoder.card_file"] = str(card)
            files = [] if config is None else [str(config)]
            address, _ = stack.enter_context(child("engine", json.dumps(overrides), *files))
            client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        report = measure_golden(client, address, chosen, wishes, phases)
    report |= {"seconds": phases.seconds, "machine": describe_machine()}
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if html_file is not None:
        from nestvec_cluster.evaluate_html import render

        html_file.write_text(render(report), encoding="utf-8")
    print_evaluation(Console(), report)


def _checked_widths(text: str) -> tuple[int, ...]:
    given = numbers(text, "--widths")
    if not given or min(given) < HITS:
        raise typer.BadParameter(f"{text!r}: expected numbers from {HITS}", param_hint="--widths")
    return given


def read_set(
    golden: Path | None, texts: Path | None, by_self: bool, queries: int | None
) -> GoldenSet:
    """One of the two, with at most so many queries. Raises typer.BadParameter, or ConfigError."""
    if (golden is None) == (texts is None):
        raise typer.BadParameter("give one of --golden and --texts")
    if golden is not None:
        found = load_golden(golden, judged=not by_self)
        kept = sample(list(found.queries), queries)
        asked = {name: found.queries[name] for name in kept}
        return GoldenSet(
            found.name, found.documents, asked, found.judgments, found.without_positives
        )
    assert texts is not None
    if not by_self:
        raise typer.BadParameter("--texts has no judgments; add --self")
    every = read_texts(texts)
    if len(every) < _FEWEST_TEXTS:
        raise ConfigError(f"{texts}: {len(every)} texts, expected at least {_FEWEST_TEXTS}")
    withheld = sample(every, min(queries or SELF_QUERIES, len(every) // 10))
    asked = {f"query-{row}": text for row, text in enumerate(withheld)}
    rest = [text for text in every if text not in frozenset(withheld)]
    return GoldenSet(texts.name, {f"text-{row}": text for row, text in enumerate(rest)}, asked, {})


def measure_golden(
    client: NestvecClient, address: str, golden: GoldenSet, wishes: Wishes, phases: Phases
) -> dict[str, Any]:
    """Index a golden set in a fresh server, as COLLECTION, and report on it, as plain data."""
    server = client.server()
    dims = wishes.dims or server.space.trained_dims
    client.create_collection(COLLECTION, tiers=dims)
    documents = [IngestDocument(name, text) for name, text in golden.documents.items() if text]
    with phases.timed("index", "indexing") as meter:
        shown = meter.count("indexing", len(documents))
        indexed = index_all(client, COLLECTION, documents, shown)
    with phases.timed("settle", "waiting for the indexes to settle"):
        described = wait_until_settled(client, COLLECTION)
    with phases.timed("truth", "searching exactly"):
        texts = list(golden.queries.values())
        vectors = encode_queries(address, texts)
        names = [one.id for one in indexed]
        truth = find_truth(client, COLLECTION, names, vectors, k=DEPTH)
        asked = Asked(list(golden.queries), texts, vectors, truth, golden.judgments)
    if wishes.by_self:
        asked = self_judged(asked)
    evaluation = Evaluation(client, COLLECTION, asked)
    lanes = {dim: _tier(evaluation, dim, wishes, phases) for dim in described.tiers}
    with phases.timed("classes", "measuring search classes"):
        classes = {
            one.name: evaluation.search_class(one.name, one.cross_encode)
            for one in server.search_classes
        }
    timings = _latencies(client, described.tiers, server.search_classes, asked, wishes, phases)
    lane_report = LaneReport(full := evaluation.full())
    stored = {one.dim: one for one in described.tier_status}
    report: dict[str, Any] = {
        "golden": golden.name,
        "truth": "exact" if wishes.by_self else "judgments",
        "model": server.space.model,
        "space": server.space.to_dict() | {"fingerprint": server.space.fingerprint},
        "documents": len(golden.documents),
        "documents_refused": len(golden.documents) - len(indexed),
        "queries": len(asked.ids),
        "queries_without_positives": len(golden.without_positives),
        "full": {"dim": described.store_dim, **lane_report.lane(full)},
        "tiers": {
            str(dim): lane_report.tier(one, _of(timings, str(dim)))
            | {"bytes_per_vector": stored[dim].nbytes / max(stored[dim].documents, 1)}
            for dim, one in lanes.items()
        },
        "classes": {
            name: lane_report.search_class(one, timings[name]) for name, one in classes.items()
        },
        "store_bytes_per_vector": described.store.vector_bytes_per_document,
        "store_dtype": described.store_dtype.value,
    }
    return report | {"degraded": _is_degraded(report)}


def _tier(evaluation: Evaluation, dim: int, wishes: Wishes, phases: Phases) -> TierLanes:
    with phases.timed(f"tier {dim}", f"measuring tier {dim}") as meter:
        shown = meter.count(f"measuring tier {dim}", 2 + len({*wishes.widths, wishes.width}))
        return evaluation.tier(dim, wishes.width, wishes.widths, shown)


def _latencies(
    client: NestvecClient,
    dims: Sequence[int],
    classes: Sequence[SearchClassInfo],
    asked: Asked,
    wishes: Wishes,
    phases: Phases,
) -> dict[str, Timing]:
    """By class, and by tier: `256.coarse`, `256.reranked`."""
    lanes: dict[str, SearchOptions] = {}
    for dim in dims:
        options = SearchOptions(coarse_dim=dim, k=HITS)
        lanes[f"{dim}.coarse"] = options | SearchOptions(rerank=False)
        lanes[f"{dim}.reranked"] = options | SearchOptions(rerank=True, candidates=wishes.width)
    lanes |= {one.name: SearchOptions(search_class=one.name, k=HITS) for one in classes}
    texts = sample(asked.texts, wishes.latency_queries)
    with phases.timed("latency", "measuring latencies") as meter:
        shown = meter.count("measuring latencies", len(texts))
        return measure_latencies(client, COLLECTION, lanes, texts, shown)


def _of(timings: Mapping[str, Timing], dim: str) -> dict[str, Timing]:
    return {lane: timings[f"{dim}.{lane}"] for lane in ("coarse", "reranked")}


def _is_degraded(report: Mapping[str, Any]) -> bool:
    lanes = [*report["tiers"].values(), *report["classes"].values()]
    return any(one["degradations"] for one in lanes)
