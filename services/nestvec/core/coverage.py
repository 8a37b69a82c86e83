"""What an answer covered, and what was taken from it: where a response must be honest."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from nestvec.core.errors import BelowCoverage


class DegradationKind(enum.StrEnum):
    """Why an answer is less than it could be."""

    SHARD_MISSING = "shard_missing"
    REGION_MISSING = "region_missing"
    RERANK_SKIPPED = "rerank_skipped"
    RERANK_PARTIAL = "rerank_partial"
    VECTOR_MISSING = "vector_missing"
    VECTOR_CORRUPT = "vector_corrupt"
    PAYLOAD_MISSING = "payload_missing"
    CROSS_ENCODER_SKIPPED = "cross_encoder_skipped"
    TARGET_MISSED = "target_missed"
    REGION_STALE = "region_stale"


@dataclass(frozen=True, slots=True)
class Degradation:
    """One thing that was taken from an answer, with enough detail to act on."""

    kind: DegradationKind
    detail: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the collection was asked and answered.

    documents_total counts the documents that the shard map promises, answered or not.
    """

    shards_total: int
    shards_answered: int
    documents_total: int
    documents_answered: int

    @property
    def fraction(self) -> float:
        """The smaller of two shares: of documents, and of shards. 1 where nothing was promised.

        Both, since a missing shard of unknown size is not one of no size.
        """
        shards = self.shards_answered / self.shards_total if self.shards_total else 1.0
        if not self.documents_total:
            return shards
        return min(1.0, shards, self.documents_answered / self.documents_total)

    def require(self, min_coverage: float) -> None:
        """Raise BelowCoverage when less than `min_coverage` (0 to 1) answered."""
        if self.fraction < min_coverage:
            raise BelowCoverage(
                self.fraction,
                min_coverage,
                f"{self.shards_answered} of {self.shards_total} shards answered",
            )

    @classmethod
    def sum(cls, parts: Iterable[Coverage]) -> Coverage:
        """Coverage of several disjoint parts together."""
        parts = list(parts)
        return cls(
            sum(part.shards_total for part in parts),
            sum(part.shards_answered for part in parts),
            sum(part.documents_total for part in parts),
            sum(part.documents_answered for part in parts),
        )
