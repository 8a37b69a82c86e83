"""Recall@k: how much of an exact search's answer a faster one found, and how sure the mean is.

The rule. Of the first k hits, one counts when its document is among the first k of the truth (by
exact score, descending, then by id, ascending), or when its exact score equals the truth's k-th
score within 1e-6: documents that tie at the edge are equally right, whichever of them is shown.
Scores are always exact ones at full dimension, never those that the measured search gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.core.arrays import Floats

# Cosines this close are one: the order in which float32 adds 768 products moves them as much.
TIE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """An exact answer to one query. ids: by score, descending, then ascending. scores: (n,)
    float32, cosines at full dimension.
    """

    ids: tuple[str, ...]
    scores: Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` queries, with the interval that holds it at the confidence asked for."""

    mean: float
    low: float
    high: float
    count: int


def recall_at_k(
    hits: Sequence[str], truth: Ranking, k: int, exact_scores: Mapping[str, float] | None = None
) -> float:
    """The share of the truth's first k that `hits` found: 0 to 1, ties counted as above.

    hits: ids, best first. exact_scores: of hits outside the truth; one that is not in it can only
    count as found when it is in the truth. A corpus of fewer than k documents is held against what
    it has; of an empty one nothing can be missed.
    """
    wanted = truth.ids[:k]
    if not wanted:
        return 1.0
    edge = float(truth.scores[len(wanted) - 1])
    best, known = frozenset(wanted), exact_scores or {}
    found = sum(
        hit in best or abs(known.get(hit, -np.inf) - edge) <= TIE for hit in dict.fromkeys(hits[:k])
    )
    return min(found, len(wanted)) / len(wanted)


def outside(hits: Sequence[str], truth: Ranking, k: int) -> list[str]:
    """The hits whose exact scores `recall_at_k` needs to know: those that only a tie can save."""
    best = frozenset(truth.ids[:k])
    return [hit for hit in dict.fromkeys(hits[:k]) if hit not in best]


def count_lost(hits: Sequence[str], reference: Sequence[str]) -> int:
    """How many documents of `reference` are not among `hits`: for two searches, one of which
    should lose nothing against the other.
    """
    return len(frozenset(reference) - frozenset(hits))


def estimate_mean(
    values: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """The mean with its percentile bootstrap interval. Source: Efron 1979, Annals of Statistics 7.

    Queries are what is resampled: their recalls vary, the hits of one query go together. A sample
    without any miss gives an interval of no width; what it rules out is a miss rate above about
    3 / count (the rule of three), not misses.
    """
    sample = np.asarray(values, np.float64)
    if not len(sample):
        return Estimate(0.0, 0.0, 1.0, 0)
    generator = np.random.default_rng(seed)
    means = [
        sample[generator.integers(len(sample), size=len(sample))].mean() for _ in range(resamples)
    ]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, (tail, 1.0 - tail))
    return Estimate(float(sample.mean()), float(low), float(high), len(sample))
