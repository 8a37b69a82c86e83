"""Exact scores."""

from __future__ import annotations

import numpy as np

from nestvec.core.arrays import Floats

# How many rows are decoded and scored at once: keeps the temporaries inside the cache.
_ROWS_AT_ONCE = 4096
# numpy sums longer rows through a buffer, whose cuts move with the number of rows.
_COLUMNS_AT_ONCE = 4096


def exact_scores(query: Floats, vectors: Floats) -> Floats:
    """Dot products of a unit query with stored vectors.

    query: (dim,) float32, unit. vectors: (n, dim) float32. Returns (n,) float32.
    A row's score does not depend on the other rows: a BLAS product picks its kernel by shape, and
    the last bit with it, so the same document would score differently by block and shard.
    """
    scores = np.zeros(len(vectors), np.float32)
    for start in range(0, vectors.shape[1], _COLUMNS_AT_ONCE):
        stop = start + _COLUMNS_AT_ONCE
        scores += np.einsum("ij,j->i", vectors[:, start:stop], query[start:stop])
    return scores


def exact_top(query: Floats, vectors: Floats, k: int) -> tuple[np.ndarray, Floats]:
    """Rows and scores of the k best, by score, then by row. The oracle that recall is measured by.

    query: (dim,) float32. vectors: (n, dim), any float dtype.
    """
    scores = np.concatenate(
        [
            exact_scores(query, vectors[start : start + _ROWS_AT_ONCE].astype(np.float32))
            for start in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        or [np.empty(0, np.float32)]
    )
    rows = np.lexsort((np.arange(len(scores)), -scores))[:k]
    return rows, scores[rows]
