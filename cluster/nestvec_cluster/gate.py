"""`nestvec gate`: whether a model may be released, as one exit code for a pipeline."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import nestvec
from nestvec.client import NestvecClient
from nestvec.core.errors import ConfigError
from nestvec.core.tiers import nearest_of, nearest_tier
from nestvec.quality.conformance import Finding, Outcome
from nestvec.quality.golden import GoldenSet
from nestvec.quality.release import (
    Measured,
    ReleaseBudget,
    judge_release,
    read_card,
    read_release_budget,
)
from nestvec.quality.timing import median_ratio
from nestvec_cluster.bench_rounds import Target, echo_of, measure_latencies, measure_payloads
from nestvec_cluster.bench_server import child
from nestvec_cluster.evaluate import COLLECTION, Wishes, measure_golden, read_set
from nestvec_cluster.findings import print_counts, print_finding
from nestvec_cluster.gating import DRAWS, Subject, check_served, probe_served
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import encode_queries
from nestvec_cluster.progress import Phases
from nestvec_cluster.texts import sample

_TIMEOUT_S = 300.0
_LATENCY_QUERIES = 200
_ROUNDS = 5


def gate(
    golden: Annotated[
        Path, typer.Option(help="A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels.tsv.")
    ],
    budget: Annotated[
        Path, typer.Option(help="What must be reached, as YAML: tiers, classes, against_previous.")
    ],
    model: Annotated[str, typer.Option(help="A folder or name, or an installed package.")] = (
        "default"
    ),
    card: Annotated[
        Path | None, typer.Option(help="The model's card, as `nestvec probe --card` writes it.")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option(help="The release card to be held against: an earlier --card.")
    ] = None,
    release_card: Annotated[
        Path | None,
        typer.Option("--release-card", help="Write this run's release card here, if it passes."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="A sample of so many queries; by default all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of latencies.")] = _ROUNDS,
    config: Annotated[
        Path | None, typer.Option(help="A nestvec.yaml for the server; its store is not used.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the findings and figures to this file.")
    ] = None,
) -> None:
    """Decide whether a model may be released: exit code 0 when every row holds, 1 when one fails.

    Starts a server with the model, indexes the golden set, and checks: Matryoshka at the tiers that
    are served, recall within the budget at each, vectors renormalised after every cut, tiers
    aligned, full vectors kept, the tier logged, a least tier for every search class; and against
    the previous release card: quality, latency (over a bare echo of the same run) and bytes.
    """
    wanted = read_release_budget(budget)
    before = None if previous is None else read_card(previous)
    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading the golden set"):
        chosen = read_set(golden, None, False, queries)
    overrides: dict[str, Any] = {
        "encoder.model": model,
        "server.deadline_cap_s": _TIMEOUT_S,
        "log.level": "info",
        "log.format": "json",
    }
    if card is not None:
        overrides["encoder.card_file"] = str(card)
    measured, findings = _measure(chosen, wanted, overrides, config, rounds, phases)
    findings = [*judge_release(measured, wanted, before), *findings]
    failed = [one for one in findings if one.outcome is Outcome.FAILED]
    if json_file is not None:
        report = {
            "passes": not failed,
            "findings": [asdict(one) for one in findings],
            "card": measured.card(),
            "machine": describe_machine(),
            "seconds": phases.seconds,
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if release_card is not None and not failed:
        release_card.write_text(json.dumps(measured.card(), indent=2) + "\n", encoding="utf-8")
    console = Console(highlight=False)
    for one in findings:
        print_finding(console, one)
    print_counts(console, findings)
    if failed:
        raise typer.Exit(1)


def _measure(
    golden: GoldenSet,
    budget: ReleaseBudget,
    overrides: dict[str, Any],
    config: Path | None,
    rounds: int,
    phases: Phases,
) -> tuple[Measured, list[Finding]]:
    """The figures, and what was seen of the server itself."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".log"))
        with phases.timed("start", "starting the server"):
            files = [] if config is None else [str(config)]
            try:
                address, _ = stack.enter_context(
                    child("engine", json.dumps(overrides), *files, log=log)
                )
            except ConfigError:
                raise ConfigError(_last_words(Path(log.name))) from None
            echo_address, _ = stack.enter_context(child("echo"))
            client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        server = client.server()
        # What would be served: the tiers that the classes need.
        classes = {one.name: one.coarse_dim for one in server.search_classes}
        needed = {nearest_tier(dim, server.space) for dim in classes.values()}
        dims = tuple(sorted(budget.tiers.keys() | needed))
        wishes = Wishes(False, None, budget.width, (budget.width,), dims, _LATENCY_QUERIES)
        evaluation = measure_golden(client, address, golden, wishes, phases)
        described = client.describe(COLLECTION)
        texts = list(golden.queries.values())
        subject = Subject(
            client,
            address,
            COLLECTION,
            server,
            described,
            encode_queries(address, texts),
            {name: text for name, text in golden.documents.items() if text},
        )
        with phases.timed("probe", "probing the tiers") as meter:
            count = DRAWS * len(
                [dim for dim in server.space.trained_dims if dim < server.space.dim]
            )
            probe = probe_served(subject, meter.count("probing the tiers", count))
        with phases.timed("latency ratios", "measuring latencies beside an echo") as meter:
            target = Target(address, echo_address, COLLECTION, tuple(classes))
            asked = sample(texts, _LATENCY_QUERIES)
            payloads = measure_payloads(target, asked)
            shown = meter.count("rounds of latencies", rounds)
            timings = measure_latencies(target, payloads, asked, rounds, shown)
        findings = check_served(subject, Path(log.name))
    measured = Measured(
        space=server.space,
        evaluation=evaluation,
        ratios={name: median_ratio(timings[name], timings[echo_of(name)]) for name in classes},
        classes={name: nearest_of(dim, described.tiers) for name, dim in classes.items()},
        probe=probe,
        version=nestvec.__version__,
    )
    return measured, findings


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "the server did not start, and said nothing"
