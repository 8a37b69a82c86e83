"""`nestvec ablate`: what each tier loses under each code, before any of them serves."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import ConfigError
from nestvec.core.measured import LossBudget
from nestvec.quality.golden import GoldenSet
from nestvec_cluster.ablating import (
    REFERENCE,
    Ablation,
    Pair,
    Shape,
    fill,
    judge_cells,
    with_vectors,
)
from nestvec_cluster.ablation_report import print_ablation
from nestvec_cluster.bench_server import child
from nestvec_cluster.cli_options import numbers
from nestvec_cluster.evaluate import (
    SELF_QUERIES,
    BySelf,
    Card,
    GoldenFolder,
    Model,
    Sample,
    SelfTexts,
    Tiers,
    read_set,
)
from nestvec_cluster.evaluate_report import LaneReport
from nestvec_cluster.evaluating import DEPTH, Asked, Evaluation, self_judged
from nestvec_cluster.evidence import BudgetText, read_budget
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import HITS, encode_queries, find_truth
from nestvec_cluster.progress import Phases

Code = TypeVar("Code", bound=StrEnum)

_TIMEOUT_S = 300.0
_CODES = tuple(code for code in CoarseCode if code is not CoarseCode.AUTO)
# Codes are trained on as few rows as they can be, and what is not measured yet is no news.
_OVERRIDES = {
    "server.deadline_cap_s": _TIMEOUT_S,
    "coarse.exact_rows": 1,
    "coarse.use_gpu": False,
    "log.level": "error",
}


def ablate(
    golden: GoldenFolder = None,
    texts: SelfTexts = None,
    by_self: BySelf = False,
    model: Model = "default",
    card: Card = None,
    tiers: Tiers = None,
    codes: Annotated[str, typer.Option(help="Of the coarse scan.")] = ",".join(_CODES),
    store_codes: Annotated[str, typer.Option(help="Of the store.")] = ",".join(VectorDtype),
    queries: Sample = None,
    width: Annotated[int, typer.Option(min=HITS, help="Candidates that are reranked.")] = 50,
    latency_queries: Annotated[
        int, typer.Option(min=1, help="Queries that are asked one by one for latencies.")
    ] = 50,
    budget: BudgetText = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the figures here: what `nestvec create` measures by."),
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a report with plots to this file.")
    ] = None,
) -> None:
    """Measure the grid of tier, code of the coarse scan, and code of the store.

    Starts a server process, makes a collection of each pair of codes, and asks every query over
    gRPC at every tier: in the tier's own order, reranked under the sketch's bounds, and without
    them. All is held against exact search over full fp32 vectors.
    """
    if html_file is not None:
        from nestvec_cluster.evaluate_html import require_plots

        require_plots()
    allowed = read_budget(budget)
    pairs = _pairs(codes, store_codes)
    phases = Phases(Console(stderr=True))
    limit = queries if queries is not None or not by_self else SELF_QUERIES
    with phases.timed("read", "reading the golden set"):
        chosen = read_set(golden, texts, by_self, limit)
    with ExitStack() as stack:
        with phases.timed("start", "starting the server"):
            overrides = _OVERRIDES | {"encoder.model": model}
            if card is not None:
                overrides["encoder.card_file"] = str(card)
            address, _ = stack.enter_context(child("engine", json.dumps(overrides)))
            client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        shape = Shape(
            numbers(tiers, "--tiers") or client.server().space.trained_dims, width, latency_queries
        )
        report = _measure(client, address, chosen, by_self, pairs, shape, phases)
    _judge(report, allowed)
    report |= {"seconds": phases.seconds, "machine": describe_machine()}
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if html_file is not None:
        from nestvec_cluster.ablation_html import render

        html_file.write_text(render(report), encoding="utf-8")
    print_ablation(Console(), report)


def _pairs(codes: str, store_codes: str) -> list[Pair]:
    chosen = _named(codes, _CODES, "--codes")
    dtypes = _named(store_codes, tuple(VectorDtype), "--store-codes")
    return [Pair(code, dtype) for code in chosen for dtype in dtypes]


def _named(text: str, known: tuple[Code, ...], option: str) -> list[Code]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    by_name = {one.value: one for one in known}
    if not names or (unknown := [name for name in names if name not in by_name]):
        wrong = unknown[0] if names else text
        raise typer.BadParameter(
            f"{wrong!r}: expected some of {', '.join(by_name)}", param_hint=option
        )
    return [by_name[name] for name in names]


def _measure(
    client: NestvecClient,
    address: str,
    golden: GoldenSet,
    by_self: bool,
    pairs: list[Pair],
    shape: Shape,
    phases: Phases,
) -> dict[str, Any]:
    every = [IngestDocument(name, text) for name, text in golden.documents.items() if text]
    with phases.timed("reference", "indexing the reference") as meter:
        indexed = fill(client, REFERENCE, shape.dims, every, meter)
        documents = with_vectors(client, indexed)
    with phases.timed("truth", "searching exactly"):
        texts = list(golden.queries.values())
        vectors = encode_queries(address, texts)
        names = [one.id for one in documents]
        truth = find_truth(client, REFERENCE.collection, names, vectors, k=DEPTH)
        asked = Asked(list(golden.queries), texts, vectors, truth, golden.judgments)
    if by_self:
        asked = self_judged(asked)
    space = client.describe(REFERENCE.collection).space
    full = Evaluation(client, REFERENCE.collection, asked).full()
    ablation = Ablation(client, asked, full, shape, golden.name, not by_self)
    cells = []
    # The reference last: the truth of the others is in it.
    for pair in sorted(pairs, key=lambda one: one == REFERENCE):
        with phases.timed(pair.collection, f"measuring {pair.collection}") as meter:
            if pair != REFERENCE:
                _require_all(pair, fill(client, pair, shape.dims, documents, meter), documents)
            cells += ablation.pair(pair, meter)
            client.drop_collection(pair.collection)
    cells.sort(key=lambda cell: (cell["dim"], pairs.index(_pair_of(cell))))
    return {
        "golden": golden.name,
        "truth": "exact" if by_self else "judgments",
        "model": space.model,
        "space": space.to_dict() | {"fingerprint": space.fingerprint},
        "documents": len(documents),
        "documents_refused": len(golden.documents) - len(documents),
        "queries": len(asked.ids),
        "candidates": shape.width,
        "full": {"dim": space.dim, **LaneReport(full).lane(full)},
        "cells": cells,
        "measured": [cell.pop("measured") for cell in cells if "measured" in cell],
    }


def _require_all(
    pair: Pair, indexed: list[IngestDocument], documents: list[IngestDocument]
) -> None:
    if len(indexed) != len(documents):
        raise ConfigError(
            f"collection {pair.collection!r} took {len(indexed)} of the {len(documents)} documents "
            f"that the reference has; nothing can be measured on that"
        )


def _pair_of(cell: dict[str, Any]) -> Pair:
    return Pair(CoarseCode(cell["coarse_code"]), VectorDtype(cell["store_dtype"]))


def _judge(report: dict[str, Any], budget: LossBudget | None) -> None:
    report["budget"] = None if budget is None else asdict(budget)
    if budget is not None:
        judge_cells(report, budget)
