"""Under which headings a migration keeps its numbers in the store."""

from __future__ import annotations

from nestvec.core.shadowing import SHADOW

PROGRESS = "progress"
# Under `copied`, beside the positions: how many documents up to there could not be carried over.
REFUSED = "refused"


def copied(source: int, sink: int) -> str:
    """How far one generation was copied into another: partition -> sequence."""
    return f"copied-{source}-{sink}"


def passing_headings(source: int, target: int) -> list[str]:
    """What is of no use once a migration has ended."""
    return [SHADOW, copied(source, target), copied(target, source)]
