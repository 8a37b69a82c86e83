"""The plots of an evaluation, as SVG that stands inside a page."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from nestvec_cluster.evaluate_report import WANTED_RECALL
from nestvec_cluster.evaluating import VS_EXACT

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = ("o", "s", "^", "D", "v", "P")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be found and read aloud
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_number = itertools.count()


def tier_plot(report: Mapping[str, Any]) -> str:
    """nDCG@10 by tier: in the tier's own order, reranked, and full search."""

    def draw(axes: Axes) -> None:
        dims = list(report["tiers"])
        for number, (label, pick) in enumerate(
            (("the tier's own order", _self), ("reranked", _reranked))
        ):
            lanes = [pick(tier) for tier in report["tiers"].values()]
            means = [one["ndcg_at_10"] for one in lanes]
            bounds = [one["intervals"]["ndcg_at_10"] for one in lanes]
            axes.errorbar(
                [place + (number - 0.5) * 0.1 for place in range(len(dims))],
                means,
                yerr=(
                    [mean - low for mean, (low, _) in zip(means, bounds, strict=True)],
                    [high - mean for mean, (_, high) in zip(means, bounds, strict=True)],
                ),
                label=label,
                color=COLOURS[number],
                marker=MARKS[number],
                capsize=3,
            )
        axes.axhline(report["full"]["ndcg_at_10"], color="#666", ls="--", label="full search")
        axes.set_xticks(range(len(dims)), dims)
        axes.set_xlabel("tier (dimensions searched)")
        axes.set_ylabel("nDCG@10")

    return svg(draw)


def width_plot(report: Mapping[str, Any], measure: str = VS_EXACT) -> str:
    """One measure over candidate counts, a line a tier."""
    wanted = WANTED_RECALL if measure == VS_EXACT else report["full"][measure]
    named = f"{wanted:g} wanted" if measure == VS_EXACT else "full search"
    label = "recall@10 of exact search" if measure == VS_EXACT else "nDCG@10"

    widths = _widths(report)

    def draw(axes: Axes) -> None:
        _tier_lines(axes, report, measure)
        axes.axhline(wanted, color="#666", ls="--", label=named)
        _log_widths(axes, widths)
        axes.set_ylabel(label)

    return svg(draw)


def fetched_plot(report: Mapping[str, Any]) -> str:
    """Full vectors fetched over candidate counts: what the bounds save."""
    widths = _widths(report)

    def draw(axes: Axes) -> None:
        _tier_lines(axes, report, "fetched_mean")
        axes.plot(widths, widths, color="#666", ls="--", label="all of them")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        _log_widths(axes, widths)
        axes.set_ylabel("full vectors fetched, mean")

    return svg(draw)


def speed_plot(report: Mapping[str, Any]) -> str:
    """nDCG@10 against the median latency of every lane."""

    def draw(axes: Axes) -> None:
        lanes = {f"{dim}": tier for dim, tier in report["tiers"].items()}
        reranked = {f"{dim}→full": tier["reranked"] for dim, tier in report["tiers"].items()}
        for number, (label, group) in enumerate(
            (
                ("the tier's own order", lanes),
                ("reranked", reranked),
                ("search classes", report["classes"]),
            )
        ):
            axes.scatter(
                [one["p50_ms"] for one in group.values()],
                [one["ndcg_at_10"] for one in group.values()],
                label=label,
                color=COLOURS[number],
                marker=MARKS[number],
            )
            for name, one in group.items():
                axes.annotate(
                    name,
                    (one["p50_ms"], one["ndcg_at_10"]),
                    xytext=(4, 4 - 12 * (number == 2)),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set_xlabel("p50 latency, ms (one call after another)")
        axes.set_ylabel("nDCG@10")

    return svg(draw)


def _widths(report: Mapping[str, Any]) -> list[int]:
    """All tiers are measured over the same ones."""
    first = next(iter(report["tiers"].values()))
    return [one["candidates"] for one in first["curve"]]


def _self(tier: Mapping[str, Any]) -> Mapping[str, Any]:
    return tier


def _reranked(tier: Mapping[str, Any]) -> Mapping[str, Any]:
    reranked: Mapping[str, Any] = tier["reranked"]
    return reranked


def _tier_lines(axes: Axes, report: Mapping[str, Any], figure: str) -> None:
    """One figure over candidate counts, a line a tier."""
    for number, (dim, tier) in enumerate(report["tiers"].items()):
        axes.plot(
            _widths(report),
            [one[figure] for one in tier["curve"]],
            label=dim,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)],
            markersize=4,
        )


def _log_widths(axes: Axes, widths: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(widths, [f"{one:,}" for one in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("candidates reranked")


def svg(draw: Callable[[Axes], None]) -> str:
    """What `draw` draws. Ids differ from plot to plot, so that several may stand in one page."""
    number = next(_number)
    with rc_context({**_SETTINGS, "svg.hashsalt": f"plot-{number}"}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.legend(fontsize=8, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Clip paths are named by the salt already; groups ("axes_1") are named the same in every plot.
    return re.sub(r'(id="|#)(?=[\w.]+_\d+")', rf"\1p{number}-", svg)
