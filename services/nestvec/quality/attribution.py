"""Why a document that exact search finds is not in an answer: one cause each, from what is known.

The order matters: first what no code could have helped (a shard that was silent), then what the
plan itself gives up (the cut to a prefix), then what is broken, then what the index and its codes
are known to lose.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

# How far, in standard deviations of the offered documents', one scan score may be off its code's.
_SIGMAS = 8.0
# Below this (a cosine) nothing is called damage: the scan's look-up tables round by as much.
_SLIGHT = 0.02
# An index whose offered documents are off by more, in the median, does not hold their codes.
_FOREIGN = 0.25


class Cause(enum.StrEnum):
    """TRUNCATION: exact search over the tier's prefixes would not have made it a candidate.
    QUANTISATION: it would, and the codes' rounding put it behind others. ANN: the index never came
    to it, or did and left it out. MISSING_SHARDS: its shard did not answer. DEADLINE: it was a
    candidate, and time or the store ended the rerank before it was scored. DAMAGE: the tier does
    not hold what its stored vector gives. BOUND: it was a candidate, and its bound, made from sound
    codes, was below its score. UNEXPLAINED: its shard cannot be asked, or knows no reason.
    """

    TRUNCATION = "truncation"
    QUANTISATION = "quantisation"
    ANN = "ann"
    MISSING_SHARDS = "missing_shards"
    DEADLINE = "deadline"
    DAMAGE = "damage"
    BOUND = "bound"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Miss:
    """What the front end knows. candidate: the coarse search returned it, or bounded all documents
    and returned those that mattered. cut: see SampledAnswer. prefix_score, floor: see
    quality.exact_pass.Exact.
    """

    shard_missing: bool
    candidate: bool
    cut: bool
    prefix_score: float
    floor: float


@dataclass(frozen=True, slots=True)
class Facts:
    """One row of core.inspection.Inspection. foreign_ahead: whether some of the candidates that
    took its place have codes which their stored vectors do not give.
    """

    indexed: bool
    sound: bool
    offered: bool
    code_score: float
    scan_score: float
    cutoff: float
    error: float
    spread: float
    foreign_ahead: bool = False


def without_asking(miss: Miss) -> Cause | None:
    """None where the shard must be asked."""
    if miss.shard_missing:
        return Cause.MISSING_SHARDS
    if miss.candidate:
        return Cause.DEADLINE if miss.cut else None
    return Cause.TRUNCATION if miss.prefix_score < miss.floor else None


def cause_of(miss: Miss, facts: Facts | None) -> Cause:
    """facts: None where its shard did not tell."""
    known = without_asking(miss)
    if known is not None:
        return known
    if facts is None:
        return Cause.UNEXPLAINED
    if not (facts.indexed and facts.sound) or facts.foreign_ahead:
        return Cause.DAMAGE
    if miss.candidate:
        return Cause.BOUND
    if math.isnan(facts.scan_score):
        return Cause.ANN
    if _damaged_index(facts):
        return Cause.DAMAGE
    if not facts.offered and facts.scan_score > facts.cutoff:
        return Cause.ANN
    return Cause.QUANTISATION


def _damaged_index(facts: Facts) -> bool:
    """Whether the index's code errs as no quantiser does that was trained on these rows."""
    if abs(facts.error) > _FOREIGN:
        return True
    off = facts.scan_score - facts.code_score - facts.error
    return abs(off) > max(_SIGMAS * facts.spread, _SLIGHT)
