"""A static table to start from: what the teacher makes of each token alone, whitened.

The teacher's outputs are centred, weighted by smooth inverse frequency (Arora, Liang and Ma 2017,
"A simple but tough-to-beat baseline for sentence embeddings") and turned and scaled so that texts,
as means of tokens, spread equally in every direction of the teacher's space (Su et al. 2021,
Whitening Sentence Representations, arXiv 2103.15316). Without the whitening the first principal
components drown what tells texts of one field apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import ConfigError

# Smallest share of variance that is still scaled up; below it there is only noise.
_LEAST_VARIANCE = 1e-6
# What the dimensions beyond the teacher's begin with, so that they can be told apart.
_NOISE = 0.01


def static_table(
    tokens: Floats,
    texts: list[Ids],
    dim: int,
    smoothing: float = 1e-4,
    whitening: float = 1.0,
    seed: int = 0,
) -> Floats:
    """(vocabulary, dim) float32.

    tokens: (vocabulary, teacher's dim) float32, unit rows. texts: token ids of each text that the
    frequencies and the spread are measured with. smoothing: a of a / (a + frequency). whitening:
    0 leaves the spread as it is, 1 makes it equal everywhere.
    Raises ConfigError for fewer texts than the teacher has dimensions.
    """
    wide = tokens.shape[1]
    if len(texts) < wide:
        raise ConfigError(f"{len(texts)} texts cannot whiten {wide} dimensions; give more")
    counts = np.bincount(np.concatenate(texts), minlength=len(tokens)).astype(np.float64)
    frequency = (counts + 0.5) / counts.sum()
    weight = smoothing / (smoothing + frequency)
    table: NDArray[np.float64] = tokens.astype(np.float64) - tokens[counts > 0].mean(axis=0)
    table *= weight[:, None]
    means = _text_means(table, texts)
    variance, directions = np.linalg.eigh(means.T @ means / len(means))
    variance, directions = variance[::-1], directions[:, ::-1]
    white = table @ directions * np.maximum(variance, _LEAST_VARIANCE) ** (-whitening / 2)
    # Rows as long as before: a learning rate is a length.
    white *= np.linalg.norm(table) / np.linalg.norm(white)
    start = np.empty((len(table), dim), np.float32)
    kept = min(dim, wide)
    start[:, :kept] = white[:, :kept]
    noise = np.random.default_rng(seed).standard_normal((len(table), dim - kept))
    start[:, kept:] = _NOISE * noise * weight[:, None]
    return start


def equalize(
    table: Floats, texts: list[Ids], norm_power: float = 1.0, strength: float = 1.0
) -> Floats:
    """The table with its columns scaled so that texts spread more equally along them.

    strength: 1 makes the spread equal, 0 leaves it. norm_power: each row's length is raised to it,
    below 1 so that single tokens outweigh others less.
    Prefixes stay prefixes: only columns and rows are scaled, nothing is turned.
    """
    lengths = np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-6)
    powered = table / lengths * lengths**norm_power
    spread = _text_means(powered, texts).std(axis=0)
    equal: Floats = (powered * (spread.mean() / np.maximum(spread, 1e-6)) ** strength).astype(
        np.float32
    )
    return equal


def _text_means(table: NDArray[Any], texts: list[Ids]) -> NDArray[Any]:
    """(n, dim), unit rows: each text as the mean of its tokens; those without any are left out."""
    means = np.stack([table[ids].mean(axis=0) for ids in texts if len(ids)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return means
