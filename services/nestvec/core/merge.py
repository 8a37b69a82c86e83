"""One ranked list from many: k-way top-k over columns.

Larger is better, always. FAISS pads short results with id -1: padding is dropped here first, so
that no offset can make a real id of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Floats, Ids

PADDING = -1


def ranked(ids: Ids, scores: Floats) -> np.ndarray:
    """The order of a result: by score, descending, then by id, ascending. (n,) row numbers."""
    return np.lexsort((ids, -scores))


def merge_top(columns: Sequence[tuple[Ids, Floats]], k: int) -> tuple[Ids, Floats]:
    """The k best of several (ids, scores) columns, whatever order they arrive in.

    Each pair: (n_i,) int64 and (n_i,) float32. An id seen twice keeps its best score: replicas may
    answer both, and a document counts once. Returns (m,) columns, m <= k, ranked.
    """
    assert k >= 0
    if not columns:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    ids = np.concatenate([column[0] for column in columns])
    scores = np.concatenate([column[1] for column in columns]).astype(np.float32, copy=False)
    real = ids != PADDING
    ids, scores = ids[real], scores[real]
    order = ranked(ids, scores)
    ids, scores = ids[order], scores[order]
    # np.unique gives each id's first, and so best, place in the ranked columns.
    first = np.sort(np.unique(ids, return_index=True)[1])[:k]
    return ids[first], scores[first]
