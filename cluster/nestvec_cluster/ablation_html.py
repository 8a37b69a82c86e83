"""The report of an ablation as one page that needs nothing else: no script, no other file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from nestvec_cluster.evaluate_html import page
from nestvec_cluster.evaluate_plots import COLOURS, MARKS, svg
from nestvec_cluster.evaluating import VS_EXACT

_TEMPLATE = "ablation.html.j2"


def render(report: Mapping[str, Any]) -> str:
    """`report`, as `nestvec ablate --json` writes it, as HTML."""
    plots = {
        "nDCG@10 after rerank, by bytes that the scan reads": _plot(report, "reranked"),
        "nDCG@10 in the tier's own order": _plot(report, "coarse"),
    }
    return page(_TEMPLATE, report=report, plots=plots, vs_exact=VS_EXACT)


def _plot(report: Mapping[str, Any], lane: str) -> str:
    """One line a code, over tiers; the finest store."""
    finest = report["cells"][0]["store_dtype"]
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cell in report["cells"]:
        if cell["applied"] and cell["store_dtype"] == finest:
            place = (cell["bytes"]["scan"], cell[lane]["ndcg_at_10"])
            lines[cell["coarse_code"]].append(place)

    def draw(axes: Axes) -> None:
        for number, (code, places) in enumerate(lines.items()):
            axes.plot(
                *zip(*places, strict=True),
                label=f"{code} over {finest}",
                color=COLOURS[number % len(COLOURS)],
                marker=MARKS[number % len(MARKS)],
            )
        axes.axhline(report["full"]["ndcg_at_10"], color="#666", ls="--", label="full search")
        axes.set_xscale("log")
        axes.set_xlabel("bytes a vector, scanned")
        axes.set_ylabel("nDCG@10")

    return svg(draw)
