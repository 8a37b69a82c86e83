"""numpy vectors on their way to a server."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Floats
from nestvec.core.errors import InvalidRequest
from nestvec.core.space import Space
from nestvec.core.tiers import accept_vectors, prepare


def normalise(raw: NDArray[Any], space: Space) -> Floats:
    """Raw model output as vectors of `space`: its recipe (layer-norm where it has one), then L2.

    raw: (space.dim,) or (n, space.dim). Returns the same shape, float32, unit length. Raises
    InvalidRequest on another dimension, and DegenerateVector on NaN, infinite or zero rows.
    """
    outputs = _floats(raw, "raw")
    prepared = prepare(np.atleast_2d(outputs), space, "raw")
    return prepared.reshape(outputs.shape)


def as_query_vector(vector: NDArray[Any], space: Space | None = None) -> Floats:
    """One query vector as it is sent: (dim,) float32.

    With `space`, it is checked here as the server will check it: the full dimension, finite, unit
    length. Raises InvalidRequest.
    """
    floats = _floats(vector, "query.vector")
    if floats.ndim != 1 or not floats.size:
        raise InvalidRequest("query.vector", f"shape {floats.shape}, expected (dim,)")
    if space is None:
        return floats
    accepted: Floats = accept_vectors(floats[None, :], space, "query.vector")[0]
    return accepted


def as_query_vectors(vectors: NDArray[Any]) -> Floats:
    """Several query vectors as they are sent: (n, dim) float32. Raises InvalidRequest."""
    floats = _floats(vectors, "vectors")
    if floats.ndim != 2 or not floats.shape[1]:
        raise InvalidRequest("vectors", f"shape {floats.shape}, expected (queries, dim)")
    return floats


def _floats(values: NDArray[Any], field: str) -> Floats:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise InvalidRequest(field, f"an array of {array.dtype}, expected floating point numbers")
    return np.ascontiguousarray(array, np.float32)
