"""The figures of `nestvec eval` as plain data, and as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from nestvec.quality.bootstrap import PairedBootstrap
from nestvec.quality.recall import Estimate
from nestvec.quality.timing import Timing
from nestvec_cluster.evaluating import DEPTH, VS_EXACT, Lane, TierLanes
from nestvec_cluster.report_tables import report_table

# What a width must reach to be called wide enough.
WANTED_RECALL = 0.99


class LaneReport:
    """Turns lanes into plain data, each held against the same full search."""

    def __init__(self, full: Lane) -> None:
        self._full = full
        self._bootstrap = PairedBootstrap(len(full.fetched))

    def lane(self, lane: Lane) -> dict[str, Any]:
        """Means, their intervals, and the paired difference to full search of each measure."""
        estimates = self._bootstrap.means(list(lane.values.values()))
        by_name = dict(zip(lane.values, estimates, strict=True))
        report: dict[str, Any] = {name: one.mean for name, one in by_name.items()}
        report["intervals"] = {name: [one.low, one.high] for name, one in by_name.items()}
        if lane is not self._full:
            compared = [name for name in lane.values if name != VS_EXACT]
            differences = self._bootstrap.means(
                [lane.values[name] - self._full.values[name] for name in compared]
            )
            report["minus_full"] = {
                name: _estimate(one) for name, one in zip(compared, differences, strict=True)
            }
        return report

    def tier(self, lanes: TierLanes, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """One tier. timings: `coarse` and `reranked`."""
        curve = [
            {"candidates": width, "fetched_mean": float(lane.fetched.mean()), **self.lane(lane)}
            for width, lane in sorted(lanes.curve.items())
        ]
        enough = [one["candidates"] for one in curve if one[VS_EXACT] >= WANTED_RECALL]
        return {
            **self.lane(lanes.coarse),
            **timing_data(timings["coarse"]),
            "reranked": {
                "candidates": lanes.width,
                "recall_at_100_candidates": max(lanes.width, DEPTH),
                "fetched_mean": float(lanes.reranked.fetched.mean()),
                **self.lane(lanes.reranked),
                **timing_data(timings["reranked"]),
                "certificates": dict(lanes.reranked.certificates),
            },
            "curve": curve,
            "candidates_for_99": min(enough) if enough else None,
            "degradations": _degradations(lanes.coarse, lanes.reranked, *lanes.curve.values()),
        }

    def search_class(self, lane: Lane, timing: Timing) -> dict[str, Any]:
        """One search class."""
        return {
            **self.lane(lane),
            **timing_data(timing),
            "certificates": dict(lane.certificates),
            "degradations": _degradations(lane),
        }


def timing_data(timing: Timing) -> dict[str, float]:
    """Under the names that every report of nestvec uses."""
    return {"p50_ms": timing.p50_ms, "p95_ms": timing.p95_ms}


def _estimate(one: Estimate) -> dict[str, float]:
    return {"mean": one.mean, "low": one.low, "high": one.high}


def _degradations(*lanes: Lane) -> dict[str, int]:
    total: dict[str, int] = {}
    for lane in lanes:
        for kind, count in lane.degradations.items():
            total[kind] = total.get(kind, 0) + count
    return total


def print_evaluation(console: Console, report: Mapping[str, Any]) -> None:
    """Quality, then speed and size, then what stands beside them."""
    console.print()
    console.print(_quality(report))
    console.print()
    console.print(_details(report))
    lines = [
        f"full search is exact, at {report['full']['dim']} dimensions; ± is half of a 95% "
        f"interval over queries (paired bootstrap).",
        _widths(report),
    ]
    if report["truth"] == "exact":
        lines.append("no judgments: the ten best of exact full search are what is right.")
    if left_out := report["documents_refused"]:
        lines.append(f"{left_out:,} documents have nothing to encode; they can only be missed.")
    if left_out := report["queries_without_positives"]:
        lines.append(f"{left_out:,} queries have no right document; they are left out.")
    if report["degraded"]:
        lines.append("some answers were degraded (see the JSON): these figures are of a sick run.")
    for line in lines:
        console.print(line, highlight=False)


def _quality(report: Mapping[str, Any]) -> Table:
    title = (
        f"{report['golden']}: {report['documents']:,} documents, {report['queries']:,} queries, "
        f"{report['model']}"
    )
    table = report_table(title, "lane", "nDCG@10", "against full", "recall@10 of exact")
    for name, one, style in _lanes(report):
        difference = one.get("minus_full", {}).get("ndcg_at_10")
        table.add_row(
            name,
            _with_interval(one["ndcg_at_10"], one["intervals"]["ndcg_at_10"]),
            "" if difference is None else _difference(difference),
            _with_interval(one[VS_EXACT], one["intervals"][VS_EXACT]),
            style=style,
        )
    return table


def _details(report: Mapping[str, Any]) -> Table:
    headings = ("recall@10", "recall@100", "MRR@10", "p50 ms", "p95 ms", "bytes")
    table = report_table("", "lane", *headings)
    for name, one, style in _lanes(report):
        figures = [f"{one[key]:.4f}" for key in ("recall_at_10", "recall_at_100", "mrr_at_10")]
        speed = [f"{one[key]:.2f}" if key in one else "" for key in ("p50_ms", "p95_ms")]
        size = f"{one['bytes_per_vector']:,.0f}" if "bytes_per_vector" in one else ""
        table.add_row(name, *figures, *speed, size, style=style)
    return table


def _lanes(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Name, figures and style of each row."""
    yield "full search", report["full"], "dim"
    for dim, tier in report["tiers"].items():
        yield dim, tier, ""
        yield f"  reranked {tier['reranked']['candidates']}", tier["reranked"], ""
    for name, one in report["classes"].items():
        yield name, one, ""


def _difference(one: Mapping[str, float]) -> str:
    return _with_interval(one["mean"], (one["low"], one["high"]), sign="+")


def _with_interval(mean: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"{mean:{sign}.4f} ±{(high - low) / 2:.4f}"


def _widths(report: Mapping[str, Any]) -> str:
    parts = [
        f"{dim}: {tier['candidates_for_99'] or 'none of those measured'}"
        for dim, tier in report["tiers"].items()
    ]
    return f"candidates for {WANTED_RECALL:g} of exact search, by tier: {', '.join(parts)}."
