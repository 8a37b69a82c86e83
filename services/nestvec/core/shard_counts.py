"""How many candidates each shard is asked for, so that the best `count` of all are among them.

Documents are placed by a hash of their ids, so how many of the best `count` a shard holds is
binomially distributed with its share of the documents. Asking each for what it holds with all but a
negligible probability costs four shards about a third of `count` each, not all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# The probability that some shard holds more of the best than it was asked for.
MISS_PROBABILITY = 1e-6
# Shares are rounded up to multiples of this, which asks for no less, so that counts can be kept
# while documents come and go.
_GRAIN = 1 / 256


def shard_counts(
    count: int, documents: Sequence[int | None], miss_probability: float = MISS_PROBABILITY
) -> tuple[int, ...]:
    """One count a shard, none above `count`. The probability that any of them is too small is at
    most `miss_probability`: each shard gets an equal part of it.

    documents: how many each shard holds; None where nobody knows, which counts as an average one.
    """
    assert count >= 1
    assert documents
    assert 0.0 < miss_probability < 1.0
    return _counts(count, _rounded_shares(documents), miss_probability)


def _rounded_shares(documents: Sequence[int | None]) -> tuple[float, ...]:
    """Not below the true ones, so that they may add up to more than 1."""
    known = [number for number in documents if number is not None]
    average = sum(known) / len(known) if known else 1.0
    numbers = [average if number is None else number for number in documents]
    total = sum(numbers)
    if total <= 0:
        numbers, total = [1.0] * len(documents), float(len(documents))
    return tuple(
        min(1.0, max(1, math.ceil(number / total / _GRAIN)) * _GRAIN) for number in numbers
    )


@lru_cache(maxsize=1024)
def _counts(count: int, shares: tuple[float, ...], miss_probability: float) -> tuple[int, ...]:
    each = miss_probability / len(shares)
    return tuple(_smallest_count(count, share, each) for share in shares)


@lru_cache(maxsize=1024)
def _smallest_count(count: int, share: float, probability: float) -> int:
    """The smallest m of at least 1 with P(Binomial(count, share) > m) <= probability."""
    tails = binomial_tails(count, share)
    return max(1, int(np.argmax(tails <= probability)))


def binomial_tails(count: int, share: float) -> NDArray[np.float64]:
    """(count + 1,) float64: P(Binomial(count, share) > m) for m from 0 to count.

    Exact but for rounding: the terms by their ratios, as logarithms, summed from the smallest.
    """
    assert 0.0 <= share <= 1.0
    if share in (0.0, 1.0):
        certain = np.zeros(count + 1)
        certain[: count if share == 1.0 else 0] = 1.0
        return certain
    m = np.arange(count, dtype=np.float64)
    # Of the probability of m + 1 to that of m.
    ratios = np.log((count - m) / (m + 1.0)) + math.log(share) - math.log1p(-share)
    logs = np.concatenate([[0.0], np.cumsum(ratios)]) + count * math.log1p(-share)
    tails = np.zeros(count + 1)
    tails[:-1] = np.cumsum(np.exp(logs[:0:-1]))[::-1]
    return np.minimum(tails, 1.0)
