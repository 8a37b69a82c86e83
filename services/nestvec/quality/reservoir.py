"""Samples that wait to be searched exactly: a few of each kind, all of them equally likely.

Kinds (a collection's generation, class and tier) are kept apart, so that a lane that asks a hundred
times as often does not crowd the others out. Source: Vitter 1985, ACM TOMS 11, algorithm R.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from nestvec.core.sampled import SampledAnswer
from nestvec.core.watermark import Watermark

# Kinds that may wait at once; others are not sampled meanwhile.
_MOST_KINDS = 64

Source = tuple[str, int]  # a collection's name and generation
_Kind = tuple[Source, str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """watermark: what was searchable for certain when it was answered."""

    sample: SampledAnswer
    watermark: Watermark


@dataclass(slots=True)
class _Stratum:
    since_s: float
    seen: int = 0
    kept: list[Waiting] = field(default_factory=list)


def source_of(sample: SampledAnswer) -> Source:
    """The generation that answered."""
    return sample.collection.name, sample.collection.generation


class Reservoir:
    """size: of each kind."""

    def __init__(self, size: int, seed: int | None = None) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._strata: dict[_Kind, _Stratum] = {}

    def __len__(self) -> int:
        return sum(len(one.kept) for one in self._strata.values())

    def offer(self, one: Waiting, now_s: float) -> None:
        """Keep it, or one in its place, or neither."""
        sample = one.sample
        kind = source_of(sample), sample.search_class, sample.coarse_dim
        stratum = self._strata.get(kind)
        if stratum is None:
            if len(self._strata) >= _MOST_KINDS:
                return
            stratum = self._strata[kind] = _Stratum(now_s)
        stratum.seen += 1
        if len(stratum.kept) < self._size:
            stratum.kept.append(one)
        elif (place := self._random.randrange(stratum.seen)) < self._size:
            stratum.kept[place] = one

    def due(self, now_s: float, longest_s: float) -> Source | None:
        """The generation whose samples have waited longest, if that is `longest_s`, or if one of
        its kinds is full.
        """
        due = [
            (stratum.since_s, source)
            for (source, _, _), stratum in self._strata.items()
            if len(stratum.kept) >= self._size or now_s - stratum.since_s >= longest_s
        ]
        return min(due)[1] if due else None

    def take(self, source: Source) -> list[Waiting]:
        """At most `size` of its samples, each kind its share, and begin again with none."""
        kinds = [kind for kind in self._strata if kind[0] == source]
        piles = [self._strata.pop(kind).kept for kind in kinds]
        for pile in piles:
            self._random.shuffle(pile)
        taken: list[Waiting] = []
        while len(taken) < self._size and any(piles):
            taken += [pile.pop() for pile in piles if pile]
        return taken[: self._size]
