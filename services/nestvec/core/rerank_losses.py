"""What a rerank had to leave out, for whoever answers with it."""

from __future__ import annotations

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Degradation, DegradationKind
from nestvec.core.ports import RerankAnswer


def losses_of(reranked: RerankAnswer) -> list[Degradation]:
    """What must be admitted of it."""
    lost = []
    if reranked.certificate is Certificate.ESTIMATED:
        lost.append(
            Degradation(
                DegradationKind.RERANK_PARTIAL,
                f"{reranked.fetched} of {reranked.considered} candidates were fetched before time "
                f"ran out; allow more time or ask for fewer candidates",
            )
        )
    if len(reranked.missing):
        lost.append(
            Degradation(
                DegradationKind.VECTOR_MISSING,
                f"{len(reranked.missing)} candidates had no stored vector and were left out",
            )
        )
    if len(reranked.corrupt):
        lost.append(
            Degradation(
                DegradationKind.VECTOR_CORRUPT,
                f"{len(reranked.corrupt)} candidates had a damaged vector and were left out; "
                f"ingest them again",
            )
        )
    return lost
