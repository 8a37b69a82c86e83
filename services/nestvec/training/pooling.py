"""Texts as means of tokens, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from nestvec.core.arrays import Floats, Ids
from nestvec.training.agreement import unit


def mean_matrix(texts: Sequence[Ids], vocabulary: int) -> Any:
    """(n, vocabulary) sparse float32, to be multiplied with a table: each text's mean of rows. A
    text without tokens is zero.
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.concatenate([*texts, np.empty(0, np.int64)]).astype(np.int64)
    shares = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    return scipy.sparse.csr_array((shares, tokens, starts), shape=(len(texts), vocabulary))


def unit_means(matrix: Any, table: Floats) -> Floats:
    """(n, dim) float32, unit rows; zero for a text without tokens."""
    return unit(matrix @ table)
