"""nestvec recall: what a server's answers have lost against exact search, by cause."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nestvec.client import LiveRecall
from nestvec_cluster.cli_group import EXIT_PARTIAL
from nestvec_cluster.cli_options import DEFAULT_ADDRESS, Address, Json, Timeout, connected, out


def recall(
    collection: Annotated[str, typer.Argument(help="A collection; all of them without.")] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show live recall: sampled queries, held against exact search in the background.

    One server tells of its own answers. Exit code 3 when a class is below its target for certain.
    """
    with connected(address, timeout) as client:
        found = client.live_recall(collection)
    from nestvec_cluster.tables import dump_json

    below = _below(found)
    if as_json:
        typer.echo(dump_json({**asdict(found), "below_target": below}))
    else:
        print_recall(out(), found)
    if below:
        raise typer.Exit(EXIT_PARTIAL)


def print_recall(console: Console, found: LiveRecall) -> None:
    """A line a class, tier and collection, then what it comes to."""
    if not found.enabled:
        console.print("live recall is off: live_recall.cpu_share is 0", soft_wrap=True)
        return
    if found.classes:
        console.print(_table(found))
    else:
        console.print("no sampled query was measured yet", soft_wrap=True)
    for name in _below(found):
        console.print(f"below its target: {name}", soft_wrap=True)
    console.print(
        f"{found.waiting:,} sampled queries wait, {found.passed_over:,} could not be measured; "
        f"it took {found.cpu_s:.1f} s of CPU in {found.elapsed_s:.1f} s",
        soft_wrap=True,
    )


def _table(found: LiveRecall) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("collection", "class", "tier"):
        table.add_column(heading)
    for heading in ("queries", "recall", "95 %", "target"):
        table.add_column(heading, justify="right")
    table.add_column("lost by cause")
    for one in found.classes:
        lost = sorted(one.lost.items(), key=lambda pair: -pair[1].mean)
        table.add_row(
            one.collection,
            one.search_class,
            str(one.coarse_dim),
            f"{one.queries:,}",
            f"{one.recall.mean:.4f}",
            f"{one.recall.low:.4f} to {one.recall.high:.4f}",
            "" if one.target is None else f"{one.target:g}",
            ", ".join(f"{cause} {share.mean:.4f}" for cause, share in lost),
        )
    return table


def _below(found: LiveRecall) -> list[str]:
    """Classes whose whole interval is below what the settings want."""
    return [
        f"{one.search_class} in tier {one.coarse_dim} of {one.collection}"
        for one in found.classes
        if one.target is not None and one.recall.high < one.target
    ]
