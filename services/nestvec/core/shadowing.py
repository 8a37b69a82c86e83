"""Live queries asked of two generations: what is counted of each pair of answers, and what they
must show together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nestvec.core.migration import Gate, GateKind, ShadowTerms

# The heading of the tally.
SHADOW = "shadow"
DEPTH = 10
# Of what is summed in whole numbers: overlaps and scores.
_PARTS = 1_000_000
FAILED = {"failed": 1}


def shadow_counts(
    old: Sequence[tuple[str, float]],
    new: Sequence[tuple[str, float]],
    old_ms: float,
    new_ms: float,
) -> dict[str, int]:
    """What one query adds to the tally. old, new: external id and score of each hit, best first.
    Times without encoding, which is kept from query to query.
    """
    first, second = {one for one, _ in old[:DEPTH]}, {one for one, _ in new[:DEPTH]}
    overlap = len(first & second) / len(first) if first else float(not second)
    return {
        "queries": 1,
        "overlap": round(_PARTS * overlap),
        "old_score": round(_PARTS * old[0][1]) if old else 0,
        "new_score": round(_PARTS * new[0][1]) if new else 0,
        "old_us": round(1e3 * old_ms),
        "new_us": round(1e3 * new_ms),
    }


def shadow_gate(terms: ShadowTerms, tally: Mapping[str, int]) -> Gate | None:
    """None until enough queries were asked."""
    queries, failed = tally.get("queries", 0), tally.get("failed", 0)
    if queries + failed < terms.queries:
        return None
    if failed * 100 > queries + failed:
        said = f"{failed:,} of {queries + failed:,} queries failed in the new generation"
        return Gate(GateKind.SHADOW, False, said)
    overlap = tally.get("overlap", 0) / _PARTS / queries
    shift = (tally.get("new_score", 0) - tally.get("old_score", 0)) / _PARTS / queries
    ratio = tally.get("new_us", 0) / max(tally.get("old_us", 0), 1)
    problems = []
    if overlap < terms.overlap:
        problems.append(f"overlap below {terms.overlap:g}")
    if abs(shift) > terms.score_shift:
        problems.append(f"score shift beyond {terms.score_shift:g}")
    if ratio > terms.latency_ratio:
        problems.append(f"latency beyond {terms.latency_ratio:g} times")
    said = (
        f"{queries:,} live queries: overlap@{DEPTH} {overlap:.3f}, score of the first hit "
        f"{shift:+.3f}, latency {ratio:.2f} times the old"
    )
    return Gate(GateKind.SHADOW, not problems, "; ".join([said, *problems]))


def shadow_said(terms: ShadowTerms, tally: Mapping[str, int]) -> str:
    """While it is still counted."""
    asked = tally.get("queries", 0) + tally.get("failed", 0)
    return f"{asked:,} of {terms.queries:,} live queries compared"
