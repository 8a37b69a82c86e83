"""What calibrated plans reach and cost, against one fixed plan: windows of queries, CPU time.

    python benchmarks/calibration.py --texts FILE --queries FILE --column NAME --count 50000

Starts a server process as `nestvec bench` does, indexes the texts, calibrates class `search` as
`nestvec calibrate` does, and asks queries that nothing was learned from, in windows of 200: for
every target of recall, and with the fixed plan (tier 256, 200 candidates, all of them fetched).

Cost is measured over some of the windows, one query at a time, while lanes take turns in small
blocks: the CPU time of the server process and of its store. Receiving and answering a call is part
of it, which a search of a collection without documents costs too: that is measured as a lane and
taken off, so that what is left is coarse search and rerank, and reading ten documents from memory.
Every query was asked by every lane before, so that none warms the next one. The table is Markdown,
for RESULTS.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from nestvec.client import IngestDocument, NestvecClient, SearchOptions, SearchResult
from nestvec.core.calibration import WINDOW
from nestvec.core.errors import ConfigError
from nestvec_cluster.bench_server import child
from nestvec_cluster.calibrating import Asked, find_truth
from nestvec_cluster.calibration_queries import QueryTexts
from nestvec_cluster.cli_calibrate import TARGETS, WIDTHS, Wishes, learn, report_of
from nestvec_cluster.cli_options import numbers
from nestvec_cluster.machine import cpu_seconds, describe_machine, pids_below
from nestvec_cluster.measuring import HITS, encode_queries, index_all, wait_until_settled
from nestvec_cluster.progress import Phases
from nestvec_cluster.texts import read_texts, sample

COLLECTION, EMPTY = "calibrated", "empty"
FIXED, NOTHING = "fixed", "nothing"
_FIXED = SearchOptions(coarse_dim=256, candidates=200, rerank=True, exhaustive=True)
_COMMON = SearchOptions(k=HITS, ids_only=True, explain=True, min_coverage=1.0)
_SHORTEST = 16
_SEED = 0
_BLOCK = 25
_AT_ONCE = 50
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Lane:
    """One way to ask. recalls: of each query, in order. cpu_s: of all queries that were asked one
    at a time; asked: how many.
    """

    name: str
    collection: str
    options: SearchOptions
    recalls: list[float] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)
    cpu_s: float = 0.0
    asked: int = 0
    plan: str = ""

    @property
    def cpu_ms(self) -> float:
        """Of one query, on average."""
        return 1e3 * self.cpu_s / self.asked

    def met(self, target: float) -> float:
        """The share of windows whose mean recall is at least `target`."""
        means = np.reshape(self.recalls, (-1, WINDOW)).mean(axis=1)
        return float((means >= target - 1e-9).mean())


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of the texts.")] = None,
    query_column: Annotated[str | None, typer.Option(help="Of the queries; as the texts'.")] = None,
    count: Annotated[int | None, typer.Option(min=1000)] = 50_000,
    train: Annotated[
        int, typer.Option(min=200, help="Queries that `nestvec calibrate` gets, half to learn.")
    ] = 4000,
    windows: Annotated[int, typer.Option(min=1, help="Windows of 200 other queries.")] = 40,
    timed_windows: Annotated[
        int, typer.Option(min=1, help="Of these, so many are asked one by one for the CPU time.")
    ] = 10,
    widths: Annotated[str, typer.Option(help="Candidates to try.")] = ",".join(map(str, WIDTHS)),
    model: Annotated[str, typer.Option(help="A model's folder or name.")] = "default",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print recall, windows met and CPU time by target as a Markdown table."""
    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading texts"):
        indexed = sample(read_texts(texts, column, _SHORTEST), count, _SEED)
        asked = _queries(queries, query_column or column, indexed, train + windows * WINDOW)
    with ExitStack() as stack:
        overrides = json.dumps(
            {
                "encoder.model": model,
                "log.level": "error",
                "server.deadline_cap_s": _TIMEOUT_S,
            }
        )
        address, pid = stack.enter_context(child("engine", overrides))
        client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        with phases.timed("index", "indexing") as meter:
            client.create_collection(EMPTY)
            client.create_collection(COLLECTION)
            documents = [IngestDocument(f"t{row:07}", text) for row, text in enumerate(indexed)]
            index_all(client, COLLECTION, documents, meter.count("indexing", len(documents)))
            wait_until_settled(client, COLLECTION)
        source = QueryTexts(asked[:train], queries.name)
        wishes = Wishes(classes=("search",), widths=numbers(widths, "--widths"))
        learned = learn(client, COLLECTION, source, wishes, phases)
        client.set_calibration(COLLECTION, learned.calibration)
        with phases.timed("truth", "searching exactly") as meter:
            vectors = encode_queries(address, asked[train:])
            held_out = find_truth(client, COLLECTION, vectors, HITS, meter)
        lanes = _lanes()
        with phases.timed("windows", "asking windows") as meter:
            shown = meter.count("lanes", len(lanes))
            for number, lane in enumerate(lanes):
                _ask_all(client, lane, held_out)
                shown(number + 1)
        with phases.timed("cost", "measuring CPU time") as meter:
            blocks = range(0, min(timed_windows, windows) * WINDOW, _BLOCK)
            shown = meter.count("blocks", len(blocks))
            pids = pids_below(pid)
            for number, first in enumerate(blocks):
                _take_turns(client, lanes, held_out.part(slice(first, first + _BLOCK)), pids)
                shown(number + 1)
    report = {
        "documents": len(indexed),
        "queries": windows * WINDOW,
        "windows": windows,
        "timed_queries": lanes[0].asked,
        "lanes": _report(lanes),
        "calibrated": report_of(COLLECTION, learned),
        "seconds": phases.seconds,
        "machine": describe_machine(),
    }
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    typer.echo(_table(report))


def _queries(path: Path, column: str | None, indexed: Sequence[str], count: int) -> list[str]:
    """In no order: what is learned from and what is held out are then alike."""
    known = frozenset(indexed)
    others = [text for text in read_texts(path, column, _SHORTEST) if text not in known]
    if len(others) < count:
        raise ConfigError(f"{path}: {len(others):,} queries, expected at least {count:,}")
    rows = np.random.default_rng(_SEED).choice(len(others), count, replace=False)
    return [others[int(row)] for row in rows]


def _lanes() -> list[Lane]:
    targets = [
        Lane(f"{target:g}", COLLECTION, _COMMON | SearchOptions(target_recall=target))
        for target in TARGETS
    ]
    return [
        Lane(NOTHING, EMPTY, _COMMON | SearchOptions(coarse_dim=256, candidates=200)),
        Lane(FIXED, COLLECTION, _COMMON | _FIXED),
        *targets,
    ]


def _ask_all(client: NestvecClient, lane: Lane, asked: Asked) -> None:
    """Every query, many in a call."""
    for first in range(0, len(asked.truth), _AT_ONCE):
        part = asked.part(slice(first, first + _AT_ONCE))
        results = client.search_batch(lane.collection, part.vectors, **lane.options)
        degraded = {one.kind: one.detail for result in results for one in result.degradations}
        if degraded:
            raise ConfigError(f"lane {lane.name}: answers lack something: {degraded}")
        if lane.collection != EMPTY:
            lane.recalls += part.recalls(results, HITS)
            explained = [one.explanation for one in results if one.explanation is not None]
            lane.fetched += [one.fetched for one in explained]
            lane.plan = _described(results[0])


def _described(result: SearchResult) -> str:
    plan = result.plan
    if plan is None:
        return "256, 200 candidates, all fetched"
    how = f"{plan.candidates} candidates, {plan.bound_z:g} sigma" if plan.rerank else "no rerank"
    return f"{plan.coarse_dim}, {how}"


def _take_turns(
    client: NestvecClient, lanes: Sequence[Lane], part: Asked, pids: Sequence[int]
) -> None:
    """One block of queries, one by one, of each lane."""
    for lane in lanes:
        before = cpu_seconds(pids)
        for vector in part.vectors:
            client.search(lane.collection, vector, **lane.options)
        lane.cpu_s += cpu_seconds(pids) - before
        lane.asked += len(part.vectors)


def _report(lanes: Sequence[Lane]) -> list[dict[str, Any]]:
    by_name = {lane.name: lane for lane in lanes}
    fixed, nothing = by_name[FIXED], by_name[NOTHING]
    net_of_fixed = fixed.cpu_ms - nothing.cpu_ms
    rows = []
    for lane in lanes:
        if lane is nothing:
            continue
        row: dict[str, Any] = {
            "lane": lane.name,
            "plan": lane.plan,
            "recall": float(np.mean(lane.recalls)),
            "fetched": float(np.mean(lane.fetched)),
            "cpu_ms": lane.cpu_ms,
            "cpu_ms_net": lane.cpu_ms - nothing.cpu_ms,
            "ratio": lane.cpu_ms / fixed.cpu_ms,
            "ratio_net": (lane.cpu_ms - nothing.cpu_ms) / net_of_fixed,
        }
        if lane is not fixed:
            target = float(lane.name)
            row |= {"windows_met": lane.met(target), "fixed_windows_met": fixed.met(target)}
        rows.append(row)
    return rows


def _table(report: Mapping[str, Any]) -> str:
    lines = [
        "| target | plan | recall@10 | windows met | by the fixed plan | fetched | CPU ms | net | "
        "net to fixed | whole to fixed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["lanes"]:
        met, by_fixed = (
            f"{row[name]:.1%}" if name in row else ""
            for name in ("windows_met", "fixed_windows_met")
        )
        lines.append(
            f"| {row['lane']} | {row['plan']} | {row['recall']:.4f} | {met} | {by_fixed} | "
            f"{row['fetched']:.1f} | {row['cpu_ms']:.2f} | {row['cpu_ms_net']:.2f} | "
            f"{row['ratio_net']:.0%} | {row['ratio']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
