"""How sure an answer's order is. Never claimed beyond what the bounds allow."""

from __future__ import annotations

import enum


class Certificate(enum.StrEnum):
    """Each stands for more than the one before it.

    NONE: coarse order, or an answer that lost vectors on the way. ESTIMATED: reranked, but time
    ran out before the bounds allowed a stop. WITHIN_CANDIDATES: no other candidate of the coarse
    search can enter the answer. COLLECTION: no other document of the shards that answered can.
    """

    NONE = "none"
    ESTIMATED = "estimated"
    WITHIN_CANDIDATES = "within_candidates"
    COLLECTION = "collection"
