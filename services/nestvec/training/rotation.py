"""An orthogonal rotation that moves a model's energy to the front, fitted without labels.

The rotation keeps every cosine at full dimension, so that a full search gives the same answers; a
prefix keeps as much of every inner product as any prefix of an orthogonal map can, on average over
the texts it was fitted on. Source: Eckart and Young 1936; as an adaptor, Yoon et al. 2024,
Matryoshka-Adaptor, arXiv 2407.20243.
"""

from __future__ import annotations

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError, DegenerateVector


def fit_rotation(vectors: Floats) -> Floats:
    """The eigenvectors of the second moments, by eigenvalue, descending.

    vectors: (n, dim) float32, unit rows, n at least dim. Returns (dim, dim) float32, orthogonal:
    a row times this is in the new space. Each column's largest entry is positive, so that the sign
    does not depend on the linear algebra build.
    Raises ConfigError for fewer rows than dimensions, whose rotation would be arbitrary in the
    rest, and DegenerateVector for NaN or infinite values.

    The moments are not centred: a prefix should keep inner products, and the mean is part of them.
    """
    count, dim = vectors.shape
    if count < dim:
        raise ConfigError(
            f"{count} texts cannot fit a rotation of {dim} dimensions; give it {dim} or more"
        )
    if not np.isfinite(vectors).all():
        raise DegenerateVector("vectors", "NaN or infinite values; expected finite numbers")
    exact = vectors.astype(np.float64)
    _, columns = np.linalg.eigh(exact.T @ exact / count)
    columns = columns[:, ::-1]
    largest = np.abs(columns).argmax(axis=0)
    columns = columns * np.sign(columns[largest, np.arange(dim)])
    return np.ascontiguousarray(columns, np.float32)


def energy(vectors: Floats, dims: tuple[int, ...]) -> dict[int, float]:
    """By dimension, the share of squared length that the prefix holds, over all rows."""
    squares = np.square(vectors, dtype=np.float64).sum(axis=0)
    total = float(squares.sum())
    return {dim: float(squares[:dim].sum()) / total for dim in dims}
