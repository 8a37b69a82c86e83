"""Latencies in a few figures, and how to compare two lanes on a machine that others use too.

A single run on a busy machine says little. Lanes are measured in rounds, each of which measures
every lane; what is reported is the median over rounds, and for two lanes the median of their
ratios within a round, since what slows a round slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timing:
    """Latencies of `count` calls, in milliseconds."""

    p50_ms: float
    p95_ms: float
    count: int


def summarise(milliseconds: Sequence[float]) -> Timing:
    """Percentiles by linear interpolation. At least one latency."""
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return Timing(float(p50), float(p95), len(milliseconds))


def median_timing(rounds: Sequence[Timing]) -> Timing:
    """Each figure's median over rounds; `count` is of all of them together."""
    return Timing(
        float(np.median([one.p50_ms for one in rounds])),
        float(np.median([one.p95_ms for one in rounds])),
        sum(one.count for one in rounds),
    )


def median_ratio(rounds: Sequence[Timing], baseline: Sequence[Timing]) -> float:
    """How many times the baseline's p50: the median of the rounds' own ratios."""
    return float(np.median([a.p50_ms / b.p50_ms for a, b in zip(rounds, baseline, strict=True)]))


def timed(
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> tuple[Result, float]:
    """What `call` returns for its arguments, and how many milliseconds it took."""
    started = time.perf_counter()
    result = call(*args, **kwargs)
    return result, (time.perf_counter() - started) * 1e3
