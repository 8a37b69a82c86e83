"""The report of an evaluation as one page that needs nothing else: no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from typing import Any

from nestvec.core.errors import ConfigError
from nestvec_cluster.evaluating import VS_EXACT

_TEMPLATE = "evaluation.html.j2"


def require_plots() -> None:
    """Raise ConfigError unless what draws the report is installed."""
    missing = [name for name in ("jinja2", "matplotlib") if util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--html needs {' and '.join(missing)}; pip install 'nestvec[eval]', or take --json"
        )


def render(report: Mapping[str, Any]) -> str:
    """`report`, as `nestvec eval --json` writes it, as HTML."""
    from nestvec_cluster import evaluate_plots

    plots = {
        "nDCG@10 by tier": evaluate_plots.tier_plot(report),
        "Recall of exact search by candidates": evaluate_plots.width_plot(report),
        "nDCG@10 by candidates": evaluate_plots.width_plot(report, "ndcg_at_10"),
        "Full vectors fetched": evaluate_plots.fetched_plot(report),
        "Quality against latency": evaluate_plots.speed_plot(report),
    }
    return page(_TEMPLATE, report=report, plots=plots, vs_exact=VS_EXACT, lanes=_lanes(report))


def page(template: str, **values: Any) -> str:
    """One of the templates, filled."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nestvec_cluster", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = _interval
    return environment.get_template(template).render(**values)


def _lanes(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    lanes = [(f"full search, {report['full']['dim']}", report["full"])]
    for dim, tier in report["tiers"].items():
        reranked = tier["reranked"]
        lanes += [(dim, tier), (f"{dim}, {reranked['candidates']} reranked", reranked)]
    return lanes + [(f"class {name}", one) for name, one in report["classes"].items()]


def _interval(bounds: tuple[float, float], sign: str = "") -> str:
    low, high = bounds
    return f"{low:{sign}.4f} to {high:{sign}.4f}"
