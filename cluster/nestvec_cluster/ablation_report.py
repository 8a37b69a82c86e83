"""The figures of `nestvec ablate` as a table for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from nestvec_cluster.evaluating import VS_EXACT
from nestvec_cluster.report_tables import report_table


def print_ablation(console: Console, report: Mapping[str, Any]) -> None:
    """Every cell, then what stands beside them."""
    console.print()
    console.print(_grid(report))
    console.print()
    console.print(_coarse(report))
    full = report["full"]
    lines = [
        f"against exact search over fp32 at {full['dim']}: nDCG@10 {full['ndcg_at_10']:.4f}. "
        f"{report['candidates']} candidates are reranked, or all fetched where the sketch is left "
        f"out.",
        "bytes a vector: what the scan reads; all that the coarse tier keeps; the store.",
    ]
    if report["truth"] == "exact":
        lines.append(
            "no judgments: the ten best of exact full search are what is right, which lets no code "
            "serve on top of a cut."
        )
    if small := [one for one in report["cells"] if not one["applied"]]:
        codes = ", ".join(dict.fromkeys(one["coarse_code"] for one in small))
        lines.append(
            f"not measured: {codes} (too few documents to train on, a dimension that it does not "
            f"divide, or no time to finish training); these rows are of what was scanned instead."
        )
    if any(one["degraded"] for one in report["cells"]):
        lines.append("some answers were degraded: their cells are not measured.")
    if report["budget"] is not None:
        within = sum(one["objection"] is None for one in report["cells"])
        lines.append(
            f"{within} of {len(report['cells'])} within the budget of "
            f"{report['budget']['ndcg']:g} nDCG@10 and {report['budget']['recall']:g} recall."
        )
    for line in lines:
        console.print(line, highlight=False)


def _grid(report: Mapping[str, Any]) -> Table:
    title = (
        f"{report['golden']}: {report['documents']:,} documents, {report['queries']:,} queries, "
        f"{report['model']}"
    )
    judged = report["budget"] is not None
    headings = ("nDCG@10", "lost", "of exact", "fetched", "p50 ms", "bytes")
    table = report_table(title, "tier, scan, store", *headings, *(("serves",) if judged else ()))
    for cell in report["cells"]:
        reranked, size = cell["reranked"], cell["bytes"]
        row = [
            f"{cell['dim']} {cell['coarse_code']} {cell['store_dtype']}",
            f"{reranked['ndcg_at_10']:.4f}",
            f"{reranked['ndcg_lost']:+.4f}",
            f"{reranked[VS_EXACT]:.4f}",
            f"{reranked['fetched_mean']:.0f}",
            f"{reranked['p50_ms']:.1f}",
            f"{size['scan'] if cell['applied'] else '-'}",
        ]
        if judged:
            row.append("yes" if cell["objection"] is None else "no")
        table.add_row(*row, style="" if cell["applied"] else "dim")
    return table


def _coarse(report: Mapping[str, Any]) -> Table:
    """What the codes do by themselves, and what else a cell costs."""
    headings = ("nDCG@10", "of exact", "p50 ms", "unsketched", "p50 ms", "coarse", "stored")
    table = report_table("unreranked, and without the sketch", "tier, scan, store", *headings)
    for cell in report["cells"]:
        coarse, plain, size = cell["coarse"], cell["without_sketch"], cell["bytes"]
        table.add_row(
            f"{cell['dim']} {cell['coarse_code']} {cell['store_dtype']}",
            f"{coarse['ndcg_at_10']:.4f}",
            f"{coarse[VS_EXACT]:.4f}",
            f"{coarse['p50_ms']:.1f}",
            f"{plain['ndcg_at_10']:.4f}",
            f"{plain['p50_ms']:.1f}",
            f"{size['coarse']:.0f}",
            f"{size['store']:.0f}",
            style="" if cell["applied"] else "dim",
        )
    return table
