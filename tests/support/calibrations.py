"""Calibrations as if they had been measured."""

from __future__ import annotations

from typing import Any

from nestvec.core.calibration import CalibratedPoint, Calibration, ClassCalibration
from nestvec.core.collection import Collection


def a_point(**changed: Any) -> CalibratedPoint:
    """A plan that reaches .95 with certainty enough."""
    figures: dict[str, Any] = {
        "coarse_dim": 16,
        "candidates": 50,
        "rerank": True,
        "bound_z": 3.0,
        "recall": 0.96,
        "low": 0.955,
        "high": 0.965,
        "window_low": 0.95,
        "cost_ms": 1.0,
        "p95_ms": 2.0,
        "fetched": 20.0,
    }
    return CalibratedPoint(**figures | changed)


def a_calibration(
    collection: Collection, *points: CalibratedPoint, k: int = 10, **changed: Any
) -> Calibration:
    """Of this very collection, class `search`."""
    figures: dict[str, Any] = {
        "fingerprint": collection.space.fingerprint,
        "store_dim": collection.store_dim,
        "coarse_code": collection.coarse_code,
        "store_dtype": collection.store_dtype,
        "generation": collection.generation,
        "identity": collection.identity,
        "documents": 1000,
        "kinds": (),
        "source": "queries.tsv",
        "queries": 2000,
        "classes": (ClassCalibration("search", k, points or (a_point(),)),),
    }
    return Calibration(**figures | changed)
