"""Candidates that another region found in its copy of this one's prefixes, as they stand here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.placement import internal_id, partition_of
from nestvec.core.ports import CoarseHits, RegionRerank, StoredVersion

# No cosine exceeds it, whatever rounding in the store (int8 most) adds to a vector's length.
_ANY_COSINE = 1.05


def ids_of(stands: Sequence[StoredVersion | None], collection: Collection) -> Ids:
    """(n,) int64 internal ids, -1 for what is gone."""
    found = (
        -1
        if one is None
        else internal_id(partition_of(one.external_id, collection.partitions), one.sequence)
        for one in stands
    )
    return np.fromiter(found, np.int64, len(stands))


def live_candidates(
    query: RegionRerank, ids: Ids, stands: Sequence[StoredVersion | None] | None
) -> CoarseHits:
    """Those that live here. ids: internal ones of all, -1 for what is gone. stands: what each is
    now, where the query tells versions: of what was written again since, no more is known than that
    its score is a cosine.
    """
    estimates, half_widths = query.hits.estimates, query.hits.half_widths
    if stands is not None and query.versions is not None:
        versions = (0 if one is None else one.version for one in stands)
        anew = np.fromiter(versions, np.int64, len(stands)) != query.versions
        estimates = np.where(anew, np.float32(0.0), estimates)
        half_widths = np.where(anew, np.float32(_ANY_COSINE), half_widths)
    here = ids >= 0
    return CoarseHits(ids[here], estimates[here], half_widths[here], None)
