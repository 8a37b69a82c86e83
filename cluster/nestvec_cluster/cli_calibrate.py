"""`nestvec calibrate`: the cheapest plan for each recall, learned from queries and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nestvec.client import Calibration, CollectionDescription, NestvecClient, SearchClassInfo
from nestvec.core.calibration import WINDOW, ClassCalibration
from nestvec_cluster.calibrating import (
    Asked,
    Calibrating,
    TargetCheck,
    calibration_of,
    check_target,
    find_truth,
    plans,
)
from nestvec_cluster.calibration_queries import QueryTexts, read_queries
from nestvec_cluster.calibration_report import print_calibration
from nestvec_cluster.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    CollectionArgument,
    connected,
    decimals,
    numbers,
)
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import encode_queries, wait_until_settled
from nestvec_cluster.progress import Phases

_TIMEOUT_S = 120.0
TARGETS = (0.9, 0.95, 0.98, 0.99)
WIDTHS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000)
BOUNDS_Z = (2.0, 3.0, 5.0)
QUERIES = 4000
_BOUNDS = ",".join(f"{z:g}" for z in BOUNDS_Z)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is measured. classes: their names; all of the server's when empty. timed: queries that
    each plan is asked one at a time, for its cost.
    """

    targets: tuple[float, ...] = TARGETS
    classes: tuple[str, ...] = ()
    widths: tuple[int, ...] = WIDTHS
    bounds_z: tuple[float, ...] = BOUNDS_Z
    timed: int = 100


@dataclass(frozen=True, slots=True)
class Learned:
    """A calibration, and how each class did on queries that nothing was learned from."""

    calibration: Calibration
    checks: dict[str, list[TargetCheck]]
    held_out: int


def calibrate(
    collection: CollectionArgument,
    golden: Annotated[
        Path | None, typer.Option(help="Queries of a golden set in BEIR layout, in this folder.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Queries: texts that `nestvec index` reads.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Their column, in a table: a name, or its number.")
    ] = None,
    queries_count: Annotated[
        int, typer.Option(min=2, help="At most so many; half are learned from, half kept to check.")
    ] = QUERIES,
    targets: Annotated[str, typer.Option(help="Recalls to report on.")] = ",".join(
        map(str, TARGETS)
    ),
    classes: Annotated[
        str | None, typer.Option(help="Search classes, as search,analyst; by default all.")
    ] = None,
    widths: Annotated[str, typer.Option(help="Candidates to try.")] = ",".join(map(str, WIDTHS)),
    bounds: Annotated[
        str, typer.Option(help="Standard deviations to try for the bounds of the rerank.")
    ] = _BOUNDS,
    timed: Annotated[
        int, typer.Option(min=10, help="Queries that each plan is timed with, one at a time.")
    ] = 100,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure and report; keep nothing.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Forget the collection's calibration instead.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Measure which plan (tier, candidates, bounds) reaches which recall, and what it costs.

    Afterwards a search may ask for a recall (--target-recall) in place of knobs. The truth is exact
    search over the stored vectors. Without queries, parts of the collection's own documents are
    asked for: they find their document more easily than people's queries do, so give real ones.
    """
    wishes = Wishes(
        targets=_shares(targets, "--targets"),
        classes=tuple(one.strip() for one in (classes or "").split(",") if one.strip()),
        widths=numbers(widths, "--widths"),
        bounds_z=_floats(bounds, "--bounds"),
        timed=timed,
    )
    phases = Phases(Console(stderr=True))
    with connected(address, _TIMEOUT_S) as client:
        if drop:
            dropped = client.drop_calibration(collection)
            typer.echo(f"{collection}: " + ("forgotten" if dropped else "it had no calibration"))
            return
        _classes(client, wishes.classes)
        with phases.timed("queries", "reading queries"):
            texts = read_queries(client, collection, golden, queries, column, queries_count)
        if texts.own:
            typer.echo(
                "queries are parts of the collection's own documents, which are easier to find "
                "for than people's; give real ones with --queries",
                err=True,
            )
        learned = learn(client, collection, texts, wishes, phases)
        if not dry_run:
            client.set_calibration(collection, learned.calibration)
    report = report_of(collection, learned) | {"kept": not dry_run, "seconds": phases.seconds}
    if json_file is not None:
        report["machine"] = describe_machine()
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_calibration(Console(), report)


def learn(
    client: NestvecClient, collection: str, texts: QueryTexts, wishes: Wishes, phases: Phases
) -> Learned:
    """Measure every class. Raises ConfigError where nothing can be learned."""
    chosen = _classes(client, wishes.classes)
    with phases.timed("settle", "waiting for the indexes to settle"):
        described = wait_until_settled(client, collection)
    with phases.timed("truth", "searching exactly") as meter:
        vectors = encode_queries(client.address.split(",")[0], texts.texts)
        # Where a cross-encoder orders the hits, a recall is of those that it is given.
        hits = {one.name: max(one.k, one.cross_encode) for one in chosen}
        depth = max(hits.values())
        asked = find_truth(client, collection, vectors, depth, meter)
    half = (len(texts.texts) + 1) // 2
    train, held_out = asked.part(slice(half)), asked.part(slice(half, None))
    most = client.server().limits.max_candidates
    measured: list[ClassCalibration] = []
    checks: dict[str, list[TargetCheck]] = {}
    for one in chosen:
        with phases.timed(one.name, f"measuring {one.name}") as meter:
            k = hits[one.name]
            calibrating = Calibrating(client, collection, one.name, k)
            widths = [width for width in wishes.widths if width <= most]
            grid = plans(described.tiers, widths, wishes.bounds_z, k, one.rerank)
            points = calibrating.points(grid, train, wishes.timed, meter)
            measured.append(ClassCalibration(one.name, k, points))
            checks[one.name] = _checked(calibrating, measured[-1], held_out, wishes.targets)
    calibration = calibration_of(_same(client, described), texts.source, half, measured)
    return Learned(calibration, checks, len(held_out.truth))


def _checked(
    calibrating: Calibrating,
    measured: ClassCalibration,
    held_out: Asked,
    targets: Sequence[float],
) -> list[TargetCheck]:
    return [check_target(calibrating, measured, held_out, target) for target in targets]


def _classes(client: NestvecClient, names: Sequence[str]) -> list[SearchClassInfo]:
    known = {one.name: one for one in client.server().search_classes}
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(
            f"{unknown[0]!r}: this server has {', '.join(known)}", param_hint="--classes"
        )
    return [known[name] for name in names or known]


def _same(client: NestvecClient, before: CollectionDescription) -> CollectionDescription:
    """As it is after measuring. What is made anew meanwhile is refused when it is kept."""
    now = client.describe(before.name)
    return before if now.generation != before.generation else now


def report_of(collection: str, learned: Learned) -> dict[str, Any]:
    """Plain data."""
    return {
        "collection": collection,
        "window": WINDOW,
        "held_out_queries": learned.held_out,
        "calibration": learned.calibration.to_dict(),
        "targets": {
            name: [asdict(one) for one in checks] for name, checks in learned.checks.items()
        },
    }


def _floats(text: str, option: str) -> tuple[float, ...]:
    found = decimals(text, option)
    if not found:
        raise typer.BadParameter(
            f"{text!r}: expected numbers with commas between", param_hint=option
        )
    return found


def _shares(text: str, option: str) -> tuple[float, ...]:
    found = _floats(text, option)
    if not all(0.0 < one <= 1.0 for one in found):
        raise typer.BadParameter(f"{text!r}: expected shares above 0, at most 1", param_hint=option)
    return found
