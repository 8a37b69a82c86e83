"""A table turned so that what queries share with their documents comes first.

Canonical correlation analysis (Hotelling 1936, "Relations between two sets of variates"), both
sides being means of the same table: a direction is worth as much as a query tells of its document
along it. A prefix then holds the directions that find, where principal components would hold those
that vary most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import ConfigError
from nestvec.training.pooling import mean_matrix, unit_means

# A direction that tells nothing keeps this much.
_LEAST_CORRELATION = 1e-4


def align(
    table: Floats,
    queries: Sequence[Ids],
    documents: Sequence[Ids],
    shrink: float = 0.03,
    power: float = 0.25,
) -> Floats:
    """(vocabulary, dim) float32: the table, its columns by falling correlation.

    table: (vocabulary, dim) float32. queries, documents: token ids, one document a query. shrink:
    of the mean variance, added to each direction's: how little is made of directions in which
    texts hardly differ. power: of the correlation, that a column's spread is; 0 makes all alike.
    Raises ConfigError for fewer pairs than dimensions.
    """
    dim = table.shape[1]
    if len(queries) != len(documents) or len(queries) < dim:
        raise ConfigError(
            f"{len(queries)} queries and {len(documents)} documents cannot align {dim} "
            f"dimensions; expected as many of one as of the other, and at least {dim}"
        )
    sides = [unit_means(mean_matrix(side, len(table)), table) for side in (queries, documents)]
    left, right = (side.astype(np.float64) - side.mean(axis=0) for side in sides)
    spread = (left.T @ left + right.T @ right) / (2 * len(left))
    shared = left.T @ right / len(left)
    spread[np.diag_indices(dim)] += shrink * np.trace(spread) / dim
    # shared v = correlation · spread v, in the coordinates in which the spread is the identity.
    root = np.linalg.inv(np.linalg.cholesky(spread))
    correlation, turned = np.linalg.eigh(root @ ((shared + shared.T) / 2) @ root.T)
    directions = root.T @ turned[:, ::-1]
    # A direction and its opposite are one: whichever comes, its largest number is made positive.
    largest = np.abs(directions).argmax(axis=0)
    directions *= np.sign(directions[largest, np.arange(dim)])
    kept = np.clip(correlation[::-1], _LEAST_CORRELATION, 1.0)
    aligned: Floats = (table @ (directions * kept**power)).astype(np.float32)
    return aligned
