"""One list of hits from several regions' lists, what may be said of it, and what it covered.

Scores are cosines at one dimension of one space, computed row by row, so a document scores the same
in every region and lists merge by score alone. Where several regions hold the same document, the
greatest version stands, whatever the scores: a replica that is behind must not bring back what was
written over.

Why the k best of each list are enough. A document of the true k best is, in whichever region holds
its newest version, among the k best of that region, unless older versions that stand there push it
out. So where an older version was dropped from a list that was full, a document may be missing, and
nothing is certified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage

# Versions are at least 1.
UNKNOWN_VERSION = 0
_STRENGTH = {one: place for place, one in enumerate(Certificate)}


@dataclass(frozen=True, slots=True)
class RegionPart:
    """One region's answer to one query, as columns, best first.

    scores: (n,) float32. versions: (n,) int64, UNKNOWN_VERSION or less where one is not known; None
    where each document has one region. failure_probability: of the certificate.
    """

    ids: Sequence[str]
    scores: Floats
    versions: Ids | None = None
    certificate: Certificate = Certificate.NONE
    failure_probability: float = 0.0


class MergedHit(NamedTuple):
    """A row of one of the parts, both by their place."""

    part: int
    row: int


@dataclass(frozen=True, slots=True)
class Merged:
    """hits: best first. certain: no older version was dropped from a list that was full."""

    hits: list[MergedHit]
    certain: bool


class _Standing(NamedTuple):
    version: int
    score: float
    part: int
    row: int


def merge_parts(
    parts: Sequence[RegionPart], k: int, newest: Mapping[str, int] | None = None
) -> Merged:
    """The k best documents of several regions: by score, ties by external id.

    k: also what each part was asked for. newest: versions that are known to stand somewhere, by
    external id: a row of an older one is dropped.
    """
    assert k >= 0
    best: dict[str, _Standing] = {}
    lost: set[int] = set()
    newest = newest or {}
    for number, part in enumerate(parts):
        versions = [UNKNOWN_VERSION] * len(part.ids)
        if part.versions is not None:
            versions = part.versions.tolist()
        rows = zip(part.ids, part.scores.tolist(), versions, strict=True)
        for row, (name, score, version) in enumerate(rows):
            mine = _Standing(version, score, number, row)
            stands = best.get(name)
            if version < newest.get(name, version):
                lost.add(number)
            elif stands is None:
                best[name] = mine
            else:
                best[name], other = _newer(stands, mine)
                if other.version != best[name].version or version <= UNKNOWN_VERSION:
                    lost.add(other.part)
    ranked = sorted(best.items(), key=lambda one: (-one[1].score, one[0]))
    hits = [MergedHit(one.part, one.row) for _, one in ranked[:k]]
    return Merged(hits, all(len(parts[number].ids) < k for number in lost))


def _newer(stands: _Standing, mine: _Standing) -> tuple[_Standing, _Standing]:
    """(what stands now, what does not). Of one version the better score, then the earlier part."""
    if (mine.version, mine.score) > (stands.version, stands.score):
        return mine, stands
    return stands, mine


def merged_certificate(
    parts: Sequence[RegionPart], certain: bool, everywhere: bool
) -> tuple[Certificate, float]:
    """What is certified of a merged list, and the chance that this is wrong.

    The weakest of the parts; no more than WITHIN_CANDIDATES unless `everywhere`: every region that
    may hold documents of the collection has answered. One of the parts is wrong at most as often as
    all of them together (union bound).
    """
    if not certain or not parts:
        return Certificate.NONE, 0.0
    weakest = min((part.certificate for part in parts), key=_STRENGTH.__getitem__)
    if weakest is Certificate.NONE:
        return weakest, 0.0
    if weakest is Certificate.COLLECTION and not everywhere:
        weakest = Certificate.WITHIN_CANDIDATES
    return weakest, min(1.0, sum(part.failure_probability for part in parts))


@dataclass(frozen=True, slots=True)
class MissingPart:
    """A region that was asked and has no part in the answer. documents: that it was last known to
    hold; None where nobody knows. shards: one at least.
    """

    documents: int | None
    shards: int = 1


def coverage_of_parts(answered: Sequence[Coverage], missing: Sequence[MissingPart]) -> Coverage:
    """Of regions that hold different documents. One that is missing and of unknown size counts as
    an average one.
    """
    known = Coverage.sum(answered)
    average = round(known.documents_total / len(answered)) if answered else 0
    lost = (
        Coverage(one.shards, 0, average if one.documents is None else one.documents, 0)
        for one in missing
    )
    return Coverage.sum([known, *lost])


def coverage_of_copies(answered: Sequence[Coverage], missing: Sequence[MissingPart]) -> Coverage:
    """Of regions that hold the same documents: of the one that covered most. Without any answer, of
    the first that is missing.
    """
    if not answered:
        return coverage_of_parts([], missing[:1])
    return max(answered, key=lambda one: (one.fraction, one.documents_answered))
