"""A static table to start from: what the teacher makes of each token alone.

Tokens are weighted by smooth inverse frequency (Arora, Liang and Ma 2017, "A simple but
tough-to-beat baseline for sentence embeddings").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.training.pooling import mean_matrix

_SMOOTHING = 1e-3


def token_weights(texts: Sequence[Ids], vocabulary: int, smoothing: float = _SMOOTHING) -> Floats:
    """(vocabulary,) float32: a / (a + frequency in `texts`), a being the smoothing."""
    counts = np.bincount(np.concatenate(texts), minlength=vocabulary)
    frequency = (counts + 0.5) / counts.sum()
    weights: Floats = (smoothing / (smoothing + frequency)).astype(np.float32)
    return weights


def token_rows(tokens: Floats, texts: Sequence[Ids], smoothing: float = _SMOOTHING) -> Floats:
    """(vocabulary, dim) float32: centred on the tokens that `texts` have, and weighted.

    tokens: (vocabulary, dim) float32, unit rows: the teacher's output for each token alone.
    """
    seen = np.unique(np.concatenate(texts))
    rows: Floats = tokens - tokens[seen].mean(axis=0)
    rows *= token_weights(texts, len(tokens), smoothing)[:, None]
    return rows


def beside(tables: Sequence[Floats], texts: Sequence[Ids]) -> Floats:
    """(vocabulary, all their dimensions) float32: columns of tables side by side, scaled so that
    the means of `texts` are as long in each.
    """
    means = mean_matrix(texts, len(tables[0]))
    parts = [table / max(_length(means @ table), 1e-12) for table in tables]
    both: Floats = np.concatenate(parts, axis=1, dtype=np.float32)
    return both


def _length(rows: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1).mean()))
