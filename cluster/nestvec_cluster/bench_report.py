"""What `nestvec bench` prints: the same figures as its JSON, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from nestvec_cluster.report_tables import report_table

_MIB = 1 << 20


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """The lanes, then memory and ingest."""
    console.print()
    console.print(_lanes(report))
    for line in (*_exhaustive(report), *_memory(report), _machine(report)):
        console.print(line, highlight=False)


def _lanes(report: Mapping[str, Any]) -> Table:
    title = (
        f"{report['documents']:,} texts, {report['queries']:,} queries, 10 hits each; milliseconds"
    )
    headings = ("dims", "recall@10", "p50", "p95", "echoes", "qps", "fetched")
    table = report_table(title, "lane", *headings)
    echo = report["echo"]
    table.add_row(
        "bare echo", "", "", *_timing(echo), "1.00", f"{echo['qps']:,.0f}", "", style="dim"
    )
    for name, one in report["classes"].items():
        table.add_row(
            name,
            f"{one['coarse_dim']} → {one['scoring_dim']}",
            f"{one['recall_at_10']:.4f}",
            *_timing(one),
            f"{one['ratio_to_echo']:.2f}",
            f"{one['qps']:,.0f}",
            f"{one['fetched_mean']:.0f} of {one['candidates_mean']:,.0f}",
        )
    return table


def _timing(one: Mapping[str, Any]) -> tuple[str, str]:
    return f"{one['p50_ms']:.2f}", f"{one['p95_ms']:.2f}"


def _exhaustive(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, one in report["classes"].items():
        stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in one["stages_ms"].items())
        line = f"{name}: {stages} ms in the server"
        if against := one.get("exhaustive"):
            line += (
                f"; fetching all {against['fetched_mean']:,.0f} candidates finds "
                f"{against['lost']} other hits of {against['hits']:,}"
            )
        if one["degradations"]:
            taken = ", ".join(f"{count} {kind}" for kind, count in one["degradations"].items())
            line += f"; degraded answers: {taken}"
        lines.append(f"{line}.")
    return lines


def _memory(report: Mapping[str, Any]) -> list[str]:
    tiers = ", ".join(
        f"{one['bytes_per_vector']:.0f} ({dim}-d: {', '.join(one['segments'])})"
        for dim, one in report["tiers"].items()
    )
    processes = ", ".join(
        f"{one['process']} {one['rss_bytes'] / _MIB:,.0f} MiB" for one in report["memory"]
    )
    lines = [
        f"Indexed {report['ingest_per_s']:,.0f} texts/s, text in, searchable out.",
        f"Bytes a vector: coarse {tiers}; store {report['store_bytes_per_vector']:.0f}, and "
        f"{report['payload_bytes_per_document']:.0f} of payload.",
    ]
    return [*lines, f"Resident: {processes}."] if processes else lines


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return (
        f"On {machine['cores']} cores of {machine['cpu']}, load {machine['load_average']}, "
        f"Python {machine['python']}; {sum(report['seconds'].values()):.0f} s in all."
    )
