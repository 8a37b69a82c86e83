"""Grafana's dashboards of the chart, from a short description of their panels.

    python tools/dashboards.py [--check]

Writes helm/nestvec/dashboards; with --check it only says whether they are as they should be.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "helm" / "nestvec" / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "${source}"}
# Of the pods that the variables choose; every query has it.
_OF = 'namespace=~"$namespace", job=~"$job"'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. queries: legend -> PromQL, in which OF stands for the pods that were chosen.
    unit: as Grafana names it. most: the upper end of the axis.
    """

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""
    most: float | None = None


def _quantiles(metric: str, by: str, legend: str, *, shares: tuple[float, ...]) -> dict[str, str]:
    return {
        f"p{share * 100:g} {legend}": f"histogram_quantile({share}, "
        f"sum by (le, {by}) (rate({metric}_bucket{{OF}}[$__rate_interval])))"
        for share in shares
    }


def _rate(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{OF}}[$__rate_interval]))"


def _shown(metric: str, *by: str, how: str = "max") -> str:
    return f"{how} by ({', '.join(by)}) ({metric}{{OF}})"


def _short_answers() -> str:
    """The share of answers that did not cover the whole collection."""
    metric, by = "nestvec_coverage_ratio", "sum by (search_class)"
    short = f'{by} (rate({metric}_bucket{{OF, le="0.999"}}[$__rate_interval]))'
    return f"{short} / {by} (rate({metric}_count{{OF}}[$__rate_interval]))"


_OVERVIEW = (
    Panel(
        "Calls", "reqps", {"{{method}} {{status}}": _rate("nestvec_rpcs_total", "method", "status")}
    ),
    Panel(
        "Time in the server",
        "s",
        _quantiles("nestvec_rpc_seconds", "method", "{{method}}", shares=(0.5, 0.99)),
    ),
    Panel(
        "Calls that wait or run",
        "short",
        {"{{method}}": _rate("nestvec_rpc_seconds_sum", "method")},
        "Seconds spent in calls in a second: how many are under way on average.",
    ),
    Panel(
        "Searches by class and tier",
        "reqps",
        {
            "{{search_class}} {{coarse_dim}} -> {{scoring_dim}}": _rate(
                "nestvec_searches_total", "search_class", "coarse_dim", "scoring_dim"
            )
        },
    ),
    Panel(
        "Certificates of answers",
        "reqps",
        {
            "{{search_class}} {{certificate}}": _rate(
                "nestvec_searches_total", "search_class", "certificate"
            )
        },
    ),
    Panel(
        "Stages, p95",
        "s",
        _quantiles(
            "nestvec_stage_seconds", "stage, coarse_dim", "{{stage}} {{coarse_dim}}", shares=(0.95,)
        ),
    ),
    Panel(
        "Coverage: answers with less than the whole collection",
        "percentunit",
        {
            "{{search_class}}": _short_answers(),
        },
    ),
    Panel("Degradations", "reqps", {"{{kind}}": _rate("nestvec_degradations_total", "kind")}),
    Panel(
        "Calls of replicas",
        "reqps",
        {"{{kind}}": _rate("nestvec_fanout_calls_total", "kind")},
        "First ones, hedges, retries on another replica, probes of one that failed.",
    ),
    Panel(
        "Full vectors fetched for a rerank",
        "short",
        _quantiles(
            "nestvec_rerank_fetched_vectors", "coarse_dim", "{{coarse_dim}}", shares=(0.5, 0.95)
        ),
    ),
    Panel(
        "Candidates of a rerank",
        "short",
        _quantiles("nestvec_rerank_candidates", "coarse_dim", "{{coarse_dim}}", shares=(0.5, 0.95)),
    ),
    Panel("Shards asked again", "reqps", {"": _rate("nestvec_shards_asked_again_total", "job")}),
    Panel(
        "Live recall",
        "percentunit",
        {
            "{{search_class}} {{coarse_dim}}": _shown(
                "nestvec_live_recall_ratio", "search_class", "coarse_dim", how="min"
            ),
            "{{search_class}} {{coarse_dim}} at least": _shown(
                "nestvec_live_recall_low_ratio", "search_class", "coarse_dim", how="min"
            ),
            "{{search_class}} wanted": _shown("nestvec_live_recall_target_ratio", "search_class"),
        },
        "Of exact search, over the newest sampled answers.",
        1.0,
    ),
    Panel(
        "Recall lost, by cause",
        "percentunit",
        {
            "{{search_class}} {{coarse_dim}} {{cause}}": _shown(
                "nestvec_live_recall_lost_ratio", "search_class", "coarse_dim", "cause"
            )
        },
    ),
    Panel(
        "Measuring recall: CPU",
        "percentunit",
        {"{{pod}}": _rate("nestvec_live_recall_cpu_seconds_total", "pod")},
    ),
    Panel(
        "Documents made searchable, deleted",
        "cps",
        {
            "searchable": _rate("nestvec_ingested_documents_total", "job"),
            "deleted": _rate("nestvec_deleted_documents_total", "job"),
        },
    ),
    Panel(
        "Documents refused",
        "cps",
        {"{{reason}}": _rate("nestvec_refused_documents_total", "reason")},
    ),
    Panel(
        "Partitions compared with the store",
        "cps",
        {"{{reason}}": _rate("nestvec_coarse_log_gaps_total", "reason")},
        "Because a worker found that the log did not continue.",
    ),
    Panel("Versions", "short", {"{{version}}": "count by (version) (nestvec_build_info{OF})"}),
    Panel(
        "Certificates end in",
        "s",
        {"{{pod}}": "min by (pod) (nestvec_certificate_expires_timestamp_seconds{OF}) - time()"},
    ),
    Panel(
        "Key and certificate files that could not be used",
        "cps",
        {"{{pod}}": _rate("nestvec_credential_failures_total", "pod")},
    ),
)

_REGIONS = (
    Panel(
        "Calls of other regions",
        "reqps",
        {"{{region}} {{outcome}}": _rate("nestvec_region_calls_total", "region", "outcome")},
    ),
    Panel("Round trip", "s", {"{{region}}": _shown("nestvec_region_round_trip_seconds", "region")}),
    Panel(
        "Reachable",
        "bool",
        {"{{region}}": _shown("nestvec_region_reachable", "region", how="min")},
        most=1.0,
    ),
    Panel("Clocks", "s", {"{{region}}": _shown("nestvec_region_clock_skew_seconds", "region")}),
    Panel(
        "All is here that it had written",
        "s",
        {
            "{{collection}} {{region}}": "time() - "
            + _shown("nestvec_region_whole_timestamp_seconds", "collection", "region")
        },
        "How old that moment is.",
    ),
    Panel(
        "Changes there that are not here",
        "short",
        {"{{collection}} {{region}}": _shown("nestvec_region_lag_changes", "collection", "region")},
    ),
    Panel(
        "Documents that cannot be carried over",
        "short",
        {
            "{{collection}} {{region}}": _shown(
                "nestvec_region_refused_documents", "collection", "region"
            )
        },
    ),
    Panel(
        "Copying waits",
        "bool",
        {"{{collection}} {{region}}": _shown("nestvec_region_waiting", "collection", "region")},
        most=1.0,
    ),
    Panel(
        "Bytes copied",
        "Bps",
        {
            "{{collection}} {{region}}": _rate(
                "nestvec_region_received_bytes_total", "collection", "region"
            )
        },
    ),
)

DASHBOARDS = {
    "nestvec": ("nestvec", _OVERVIEW),
    "nestvec-regions": ("nestvec: regions", _REGIONS),
}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    across = _COLUMNS // _WIDTH
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": {"fillOpacity": 8}}
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % across * _WIDTH,
            "y": number // across * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query.replace("OF", _OF),
                "legendFormat": legend or "__auto",
            }
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _variable(name: str, label: str) -> dict[str, Any]:
    query = f"label_values(nestvec_build_info, {label})"
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "definition": query,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["nestvec"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                },
                _variable("namespace", "namespace"),
                _variable("job", "job"),
            ]
        },
        "panels": [_panel(number, one) for number, one in enumerate(panels)],
    }


def files() -> dict[str, str]:
    """Name -> text, of all dashboards."""
    return {
        f"{uid}.json": json.dumps(dashboard(uid, title, panels), indent=1) + "\n"
        for uid, (title, panels) in DASHBOARDS.items()
    }


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    wanted = files()
    if arguments == ["--check"]:
        there = {one.name: one.read_text(encoding="utf-8") for one in FOLDER.glob("*.json")}
        if there != wanted:
            print(f"{FOLDER} is not what tools/dashboards.py makes; run it")
            return 1
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
