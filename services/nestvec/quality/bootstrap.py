"""How sure a mean over queries is, and a difference of two means over the same queries.

The bootstrap is paired: every figure is computed over the same resampled queries, so that what a
query is worth to one ranking and to another is drawn together. Percentile intervals.
Source: Efron 1979, Annals of Statistics 7; Smucker, Allan and Carterette 2007, CIKM, for its use
on rankings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nestvec.quality.recall import Estimate

# Weights of so many resamples are held at once: 8 MB for 4,096 queries.
_AT_ONCE = 256


class PairedBootstrap:
    """Resamples `count` queries, always the same way for one seed."""

    def __init__(
        self, count: int, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
    ) -> None:
        self._count = count
        self._resamples = resamples
        self._seed = seed
        tail = (1.0 - confidence) / 2.0
        self._quantiles = (tail, 1.0 - tail)

    def means(self, values: Sequence[ArrayLike]) -> list[Estimate]:
        """The mean of each row of values, with its interval. values: rows of `count` figures.

        No queries give 0, known to lie between 0 and 1 and nothing else.
        """
        if not self._count:
            return [Estimate(0.0, 0.0, 1.0, 0) for _ in values]
        matrix = np.asarray(values, np.float64).reshape(len(values), self._count)
        generator = np.random.default_rng(self._seed)
        drawn = []
        for first in range(0, self._resamples, _AT_ONCE):
            size = min(_AT_ONCE, self._resamples - first)
            # How often each query is drawn: the same as drawing rows, and one product for all.
            times = generator.multinomial(self._count, [1.0 / self._count] * self._count, size)
            drawn.append(times @ matrix.T / self._count)
        lows, highs = np.quantile(np.concatenate(drawn), self._quantiles, axis=0)
        return [
            Estimate(float(row.mean()), float(low), float(high), self._count)
            for row, low, high in zip(matrix, lows, highs, strict=True)
        ]

    def mean(self, values: ArrayLike) -> Estimate:
        """The mean of one figure a query."""
        return self.means([values])[0]

    def difference(self, values: ArrayLike, baseline: ArrayLike) -> Estimate:
        """How much `values` exceed `baseline`, on average over queries that both were asked."""
        return self.mean(np.asarray(values, np.float64) - np.asarray(baseline, np.float64))
