"""A static table whose means of rows come closest to what a teacher makes of whole texts.

Ridge regression: each token's row moves away from where it began only as far as the texts that it
is in ask for; one that is in none stays. The aim is that of Tulkens and van Dongen's tokenlearn
(POTION, 2024), which goes there by gradient; this is the minimum itself, by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import ConfigError
from nestvec.training.pooling import mean_matrix

_STEPS = 25
# Of the first residual: further steps change no ranking.
_SMALL_ENOUGH = 2e-3


def fit_rows(start: Floats, texts: Sequence[Ids], vectors: Floats, strength: float = 0.5) -> Floats:
    """(vocabulary, dim) float32: the table of least |mean rows - vectors|² + strength |table -
    start|², `start` scaled to fit.

    start: (vocabulary, dim) float32. texts: token ids of each. vectors: (n, dim) float32, the
    teacher's; their mean is taken off. strength: above 0. Raises ConfigError for numbers that do
    not fit together, or are none.
    """
    if vectors.shape != (len(texts), start.shape[1]):
        raise ConfigError(
            f"the teacher's vectors are {vectors.shape}, expected one of {start.shape[1]} "
            f"dimensions for each of {len(texts)} texts"
        )
    if not strength > 0.0:
        raise ConfigError(f"strength is {strength}, expected more than 0")
    if not np.isfinite(vectors).all():
        raise ConfigError("the teacher's vectors have NaN or infinite values")
    matrix = mean_matrix(texts, len(start))
    target = vectors - vectors.mean(axis=0)
    guess: Floats = matrix @ start
    scale = float((guess * target).sum() / max(float((guess * guess).sum()), 1e-12))
    table: Floats = start * np.float32(scale)
    back = matrix.T.tocsr()
    # Jacobi's: a frequent token's equation is many times as steep as a rare one's.
    steepness: Floats = np.asarray(matrix.multiply(matrix).sum(axis=0), np.float32)[:, None]
    ease = 1.0 / (steepness + np.float32(strength))
    residual: Floats = back @ (target - matrix @ table)
    first = float(np.linalg.norm(residual))
    eased = ease * residual
    direction = eased.copy()
    size = (residual * eased).sum(axis=0)
    for _ in range(_STEPS):
        moved: Floats = back @ (matrix @ direction) + np.float32(strength) * direction
        # Each column is a system of its own.
        far = size / np.maximum((direction * moved).sum(axis=0), 1e-20)
        table += far * direction
        residual -= far * moved
        if float(np.linalg.norm(residual)) < _SMALL_ENOUGH * first:
            break
        eased = ease * residual
        before, size = size, (residual * eased).sum(axis=0)
        direction = eased + size / np.maximum(before, 1e-20) * direction
    return table
