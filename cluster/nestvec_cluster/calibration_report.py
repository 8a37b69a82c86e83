"""What `nestvec calibrate` prints: a table a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from nestvec_cluster.report_tables import report_table
from nestvec_cluster.tables import one_line


def print_calibration(console: Console, report: Mapping[str, Any]) -> None:
    """Each class by target: the plan, what it was measured to reach, and how it did since."""
    calibration = report["calibration"]
    for measured in calibration["classes"]:
        table = report_table(
            f"{measured['name']}: recall of the {measured['k']} best",
            "target",
            "plan",
            "recall",
            "windows",
            "ms",
            "fetched",
            "held out",
            "met",
        )
        for check in report["targets"][measured["name"]]:
            table.add_row(f"{check['target']:g}", *_cells(check))
        console.print(table)
        best = max(measured["points"], key=lambda point: point["window_low"])
        console.print(f"the most that is reached: {best['window_low']:.4f} ({_plan(best)})\n")
    console.print(
        f"learned from {calibration['queries']:,} queries of {one_line(calibration['source'])}; "
        f"{report['held_out_queries']:,} others held out, in windows of {report['window']}; "
        f"{calibration['documents']:,} documents"
    )
    share = f"{calibration['windows']:.0%}"
    console.print(
        f"plan: tier, candidates, width of the bounds; windows: what {share} of them reach, by "
        f"which a plan is chosen; met: windows of held out queries that reached the target",
        soft_wrap=True,
    )
    console.print("kept with the collection" if report["kept"] else "nothing was kept")


def _cells(check: Mapping[str, Any]) -> list[str]:
    point = check["point"]
    if point is None:
        return ["not reached", *[""] * 6]
    windows = f"{check['met']} of {check['windows']}" if check["windows"] else "too few"
    return [
        _plan(point),
        f"{point['recall']:.4f}",
        f"{point['window_low']:.4f}",
        f"{point['cost_ms']:.2f}",
        f"{point['fetched']:.0f}",
        f"{check['recall']:.4f}",
        windows,
    ]


def _plan(point: Mapping[str, Any]) -> str:
    if not point["rerank"]:
        return f"{point['coarse_dim']}"
    return f"{point['coarse_dim']}, {point['candidates']:,}, z {point['bound_z']:g}"
