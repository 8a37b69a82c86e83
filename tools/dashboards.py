"""Grafana's dashboards of the chart, from a short description of their panels.

    python -m tools.dashboards [--check]

Writes helm/nestvec/dashboards; with --check it only says whether they are as they should be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tools.dashboard_panels import DASHBOARDS, Panel

FOLDER = Path(__file__).parent.parent / "helm" / "nestvec" / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "${source}"}
# Of the pods that the variables choose; every query has it.
_OF = 'namespace=~"$namespace", job=~"$job"'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24


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
            print(f"{FOLDER} is not what `python -m tools.dashboards` makes; run it")
            return 1
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
