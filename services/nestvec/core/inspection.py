"""What a shard can tell of documents that a search should have found and did not.

Facts only: what they come to is decided by whoever asks (quality/attribution.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Bools, Floats, Ids

COLUMNS = (
    "indexed", "sound", "offered", "code_scores", "scan_scores", "cutoffs", "errors", "spreads",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class InspectionRequest:
    """Pairs of a query and a document.

    queries: (m, store_dim) float32, unit. coarse_dim: the tier. count, bounded: what the search
    asked the shard for. rows: (p,) int64, places in `queries`. ids: (p,) int64, internal ids.
    """

    queries: Floats
    coarse_dim: int
    count: int
    bounded: bool
    rows: Ids
    ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """One row a pair, in their order; floats are NaN where there is nothing to tell.

    indexed: the tier can find the document. sound: its codes are those that its stored vector gives
    now, or that vector cannot be read. offered: the index offers it for this query. code_scores:
    the cosine that its int8 prefix gives. scan_scores: what the index's own code gives; NaN too
    where the index does not reach it even when it is the only one allowed. cutoffs: the scan score
    of the last document that its segment offers; -inf where fewer than asked for were offered.
    errors, spreads: scan score less code score, among what the index puts first: the median, and
    1.4826 times the median deviation from it. cpu_s: what finding this out took here.
    """

    indexed: Bools
    sound: Bools
    offered: Bools
    code_scores: Floats
    scan_scores: Floats
    cutoffs: Floats
    errors: Floats
    spreads: Floats
    cpu_s: float = 0.0

    @classmethod
    def unknown(cls, pairs: int) -> Inspection:
        """Before anything is found: not indexed, and nothing to hold against any code."""
        no, none = np.zeros(pairs, np.bool_), np.full(pairs, np.nan, np.float32)
        return cls(no, ~no, no.copy(), none, none.copy(), none.copy(), none.copy(), none.copy())

    def __len__(self) -> int:
        return len(self.indexed)


def worst(found: Sequence[Inspection]) -> Inspection:
    """Several replicas of one shard as one: of each pair what that replica says which comes nearest
    to explaining a miss. Any of them may have answered the search.
    """
    if len(found) == 1:
        return found[0]
    chosen = np.argmax([_badness(one) for one in found], axis=0)
    merged = Inspection.unknown(len(chosen))
    for number, one in enumerate(found):
        mine = chosen == number
        for name in COLUMNS:
            getattr(merged, name)[mine] = getattr(one, name)[mine]
    return replace(merged, cpu_s=sum(one.cpu_s for one in found))


def _badness(one: Inspection) -> NDArray[np.int64]:
    unreached = np.isnan(one.scan_scores)
    badness: NDArray[np.int64] = np.select(
        [~one.indexed, ~one.sound, unreached, ~one.offered], [4, 3, 2, 1], 0
    )
    return badness
