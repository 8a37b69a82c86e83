"""How much of a full-dimension search's answer a search at a tier finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nestvec.core.arrays import Floats, Ids

_ROWS_AT_ONCE = 256


class Vectors(NamedTuple):
    """queries, documents: (n, dim) float32, unit rows, in one space."""

    queries: Floats
    documents: Floats


def agreement(truth: Vectors, tried: Vectors, dims: tuple[int, ...], k: int) -> dict[int, float]:
    """By dimension, the mean share of the k nearest in `truth`, at full dimension, that prefixes of
    `tried` find: recall@k without a rerank.

    truth, tried: the same texts in two spaces, or twice the same vectors. Where there are fewer
    than k documents, all of them are nearest.
    """
    k = min(k, len(truth.documents))
    nearest = _nearest(truth.queries, truth.documents, k)
    found: dict[int, float] = {}
    for dim in dims:
        hits = _nearest(unit(tried.queries[:, :dim]), unit(tried.documents[:, :dim]), k)
        shared = [len(np.intersect1d(*pair)) for pair in zip(nearest, hits, strict=True)]
        found[dim] = float(np.mean(shared)) / k
    return found


def _nearest(queries: Floats, documents: Floats, k: int) -> Ids:
    """(n, k) row numbers, in no order."""
    best = []
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        scores = queries[start : start + _ROWS_AT_ONCE] @ documents.T
        best.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
    nearest: Ids = np.concatenate(best).astype(np.int64)
    return nearest


def unit(vectors: Floats) -> Floats:
    """Rows at unit length; a row of nothing stays nothing."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(norms, 1e-12)
    return scaled
