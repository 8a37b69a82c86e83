"""What recall a window of future queries reaches, from a sample of queries.

A target of recall is promised for windows: the mean over so many queries shall be at least it. Two
things move a window's mean away from the sample's: which queries the sample had, and which ones the
window has. Both are drawn here: first a sample of the same size from the one that was measured,
then a window from that. The quantile of the windows' means is a prediction bound: what the share
`share` of windows reaches. It is not the interval of the mean, which only knows the first of the
two and shrinks to nothing as the sample grows; a window's own noise stays.

Sources: Hahn and Meeker 1991, Statistical Intervals, for the prediction interval of the mean of a
future sample (with normal figures its half-width is t * s * sqrt(1/n + 1/m)); Efron 1979, Annals of
Statistics 7, for drawing from the sample in place of a distribution that is neither normal nor
symmetric near 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 4_000
_SEED = 0


def window_low(
    values: ArrayLike, k: int, window: int, share: float, resamples: int = _RESAMPLES
) -> float:
    """What the share `share` of future windows reaches on average.

    values: (n,) recalls, 0 to 1, of one plan. k: hits that each is a share of. window: queries in
    one. A sample without any miss does not show that there are none: one more query, with one
    missed hit, is counted as if it had been seen (as in the rule of succession). No queries: 0.
    """
    sample = np.asarray(values, np.float64)
    if not len(sample):
        return 0.0
    seen, counts = np.unique(np.append(sample, 1.0 - 1.0 / k), return_counts=True)
    count = int(counts.sum())
    generator = np.random.default_rng(_SEED)
    # How often each figure is drawn is all that a mean needs.
    samples = generator.multinomial(count, counts / count, resamples)
    windows = generator.multinomial(window, samples / count)
    means = windows @ seen / window
    # A quantile between two means that were drawn would promise what none of them reached.
    return round(float(np.quantile(means, 1.0 - share, method="lower")), 9)


def windows_met(values: Sequence[float], window: int, target: float) -> tuple[int, int]:
    """How many of the disjoint windows, in order, have a mean of at least `target`; and how many
    there are. What is left at the end is no window.
    """
    whole = len(values) // window
    means = np.asarray(values[: whole * window], np.float64).reshape(whole, window).mean(axis=1)
    # Means of tenths: the last bits of a sum are no miss.
    return int((means >= target - 1e-9).sum()), whole
