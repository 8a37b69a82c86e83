"""Cutting vectors to a trained tier, and refusing every other cut.

Source: Kusupati et al. 2022, Matryoshka Representation Learning, arXiv 2205.13147.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Floats
from nestvec.core.errors import DegenerateVector, InvalidRequest, TierNotTrained
from nestvec.core.space import Space

# Below this a direction is rounding noise: fp16 resolves about 6e-8, and a unit vector's prefix
# that short carries nothing that a search could use.
_SHORTEST_NORM = 1e-4
# How far from 1 a caller's own vector may be: fp16 rounding of 4,096 dims stays below 1e-3.
_UNIT_TOLERANCE = 1e-2
# Within this a float32 vector has unit length: its own rounding, and that of measuring it (3e-7 at
# most, of 65,536 dimensions).
_ROUNDING = 1e-6
# Nomic's recipe uses torch.nn.functional.layer_norm's default.
_LAYER_NORM_EPSILON = 1e-5
# The sum of 65,535 squares of less than this is a float32.
_LARGE = 1e15


def require_trained(dim: int, space: Space, field: str = "dim") -> int:
    """`dim` itself when the model was trained at it. Raises TierNotTrained otherwise."""
    if dim not in space.trained_dims:
        raise TierNotTrained(field, dim, space.model, space.trained_dims)
    return dim


def nearest_of(wanted: int, dims: Sequence[int]) -> int:
    """The smallest of at least `wanted`, or the longest. dims: ascending."""
    return next((dim for dim in dims if dim >= wanted), dims[-1])


def nearest_tier(wanted: int, space: Space) -> int:
    """The smallest trained dimension of at least `wanted`, or the full one: never a worse tier."""
    return nearest_of(wanted, space.trained_dims)


def prepare(outputs: Floats, space: Space, field: str = "vector") -> Floats:
    """Turn raw model output into vectors of the space: layer-norm where the recipe says, then L2.

    outputs: (n, space.dim) float32. Returns (n, space.dim) float32, unit rows.
    Raises InvalidRequest on a wrong shape and DegenerateVector on NaN, infinite or zero rows.
    """
    if not space.recipe.layer_norm and _is_moderate(outputs, space.dim):
        return _unit(outputs, field)
    outputs = _checked(outputs, space.dim, field)
    # float64: the squares of large values overflow, and a layer-norm subtracts nearly equal ones.
    exact = outputs.astype(np.float64)
    if space.recipe.layer_norm:
        centred = exact - exact.mean(axis=1, keepdims=True)
        variance = np.square(centred).mean(axis=1, keepdims=True)
        exact = centred / np.sqrt(variance + _LAYER_NORM_EPSILON)
    return _unit(exact, field)


def accept_vectors(
    vectors: Floats, space: Space, field: str = "vector", dim: int | None = None
) -> Floats:
    """Check vectors that a caller says are in `space`; restore unit length lost to rounding.

    vectors: (n, dim) float32, unit rows; dim is the full dimension unless told otherwise.
    Returns the same shape, unit rows. A row of unit length stays as it is to the last bit: what was
    accepted here is accepted by another region too, and must score the same there.
    A length clearly off 1 is refused, not mended: it is the sign of raw model output, and where
    the recipe has a layer-norm, normalising that would give a wrong direction without a word.
    """
    vectors = _checked(vectors, dim or space.dim, field)
    if not len(vectors):
        return vectors
    norms = np.linalg.norm(vectors, axis=1)
    if (norms < _SHORTEST_NORM).any():
        raise DegenerateVector(field, "zero vector; expected unit length")
    worst = int(np.argmax(np.abs(norms - 1.0)))
    if abs(float(norms[worst]) - 1.0) > _UNIT_TOLERANCE:
        raise InvalidRequest(
            field,
            f"vector of length {norms[worst]:.4g}, expected unit length; "
            f"apply the model's recipe ({'layer-norm, then ' if space.recipe.layer_norm else ''}L2)"
            f" before sending, or send the text",
        )
    lengths: Floats = norms.astype(np.float32)
    lengths[np.abs(lengths - 1.0) <= _ROUNDING] = 1.0
    return vectors / lengths[:, None]


def truncate(vectors: Floats, dim: int, space: Space) -> Floats:
    """Keep the first `dim` coordinates and restore unit length.

    vectors: (n, at least dim) float32, unit rows. Returns (n, dim) float32, unit rows.
    Raises TierNotTrained when the model was never trained at `dim`, and DegenerateVector
    when a row's prefix is too short to normalise.
    """
    require_trained(dim, space)
    assert vectors.shape[1] >= dim
    if dim == vectors.shape[1]:
        return vectors
    return _unit(np.ascontiguousarray(vectors[:, :dim]), "vector")


def _is_moderate(outputs: Floats, dim: int) -> bool:
    """Whether squares of it can be summed as they are: the common case, found out at once.

    NaN and infinity fail the comparisons, as do large values.
    """
    return bool(
        outputs.dtype == np.float32
        and outputs.ndim == 2
        and outputs.shape[1] == dim
        and outputs.max(initial=0.0) < _LARGE
        and outputs.min(initial=0.0) > -_LARGE
    )


def _checked(vectors: Floats, dim: int, field: str) -> Floats:
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        got = vectors.shape[1] if vectors.ndim == 2 else f"shape {vectors.shape}"
        raise InvalidRequest(field, f"{got} dimensions, expected {dim}")
    if not np.isfinite(vectors).all():
        raise DegenerateVector(field, "NaN or infinite values; expected finite numbers")
    return vectors.astype(np.float32, copy=False)


def _unit(vectors: NDArray[np.floating[Any]], field: str) -> Floats:
    # As numpy.linalg.norm, without the time that it takes to find out what is asked.
    norms = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    # Written so that NaN fails it too.
    if not (norms.min(initial=1.0) >= _SHORTEST_NORM and norms.max(initial=1.0) < np.inf):
        row = int(np.argmin((norms >= _SHORTEST_NORM) & (norms < np.inf)))
        raise DegenerateVector(
            field,
            f"row {row} has length {float(norms[row, 0]):.2g} over its first {vectors.shape[1]} "
            f"dimensions: it has no direction to search by",
        )
    result: Floats = (vectors / norms).astype(np.float32, copy=False)
    return result
