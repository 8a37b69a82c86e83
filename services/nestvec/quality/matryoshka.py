"""Is a model Matryoshka, and at which dimensions: the test, and the verdict with its evidence.

Embeddings carry more coordinates than they need, so that *any* quarter of them still finds much of
what all find: that a prefix "still works" proves nothing. A model trained with the Matryoshka loss
(or rotated by its principal components) has put what matters first. So its first coordinates must
do better than as many drawn at random, and than its last.

A dimension is confirmed when all of these hold:
- the prefix beats every or nearly every random subset (permutation test over subsets, Holm's
  correction over dimensions);
- its gain over the mean of random subsets is more than _LEAST_GAIN of what is left to gain, with
  the whole bootstrap interval over queries above zero;
- it gains in each of several parts of the sample, which share no text and no query;
- it beats the last coordinates too, where the two do not overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nestvec.quality.bootstrap import PairedBootstrap
from nestvec.quality.recall import Estimate
from nestvec.quality.subsets import Sample, drawn, first, last

SIGNIFICANT = 0.05
# Of what random subsets miss. Models without any order show up to .08 by chance, which the
# permutation test knows; the default model shows .3 and more.
_LEAST_GAIN = 0.05
PARTS = 4
# Random subsets in each part: only the sign counts there.
_DRAWN_IN_PARTS = 8
# A dimension without a published claim should also serve: find this share of the full search's ten
# among this many candidates.
SERVING_WIDTH = 100
_SERVING_RECALL = 0.9

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class DimTest:
    """One dimension. first, last, random: mean agreement with full search. among_100: the share of
    full search's ten among the prefix's 100 best. gain, over_last: paired over queries. effect: the
    gain as a share of what random subsets miss. p_value: of the permutation test, corrected for
    the number of dimensions. parts: the gain in each part.
    """

    dim: int
    first: float
    last: float
    random: float
    random_best: float
    among_100: float
    gain: Estimate
    over_last: Estimate
    effect: float
    p_value: float
    parts: tuple[float, ...]
    overlaps: bool

    @property
    def confirmed(self) -> bool:
        """Whether the first coordinates are better than chance, by all of the rules above."""
        return (
            self.p_value <= SIGNIFICANT
            and self.effect >= _LEAST_GAIN
            and self.gain.low > 0.0
            and min(self.parts) > 0.0
            and (self.overlaps or self.over_last.low > 0.0)
        )

    @property
    def serves(self) -> bool:
        """Whether a rerank of 100 candidates would find nearly all of full search's ten."""
        return self.among_100 >= _SERVING_RECALL


@dataclass(frozen=True, slots=True)
class Verdict:
    """mrl: whether the model is Matryoshka. tiers: ascending, ending with the full dimension.
    unconfirmed: dimensions that were claimed and did not pass. tests: ascending by dimension.
    """

    mrl: bool
    tiers: tuple[int, ...]
    unconfirmed: tuple[int, ...]
    monotone: bool
    tests: tuple[DimTest, ...]
    summary: str


def measure_dims(
    sample: Sample,
    dims: Sequence[int],
    draws: int,
    seed: int = 0,
    on_progress: Progress = lambda _: None,
) -> list[DimTest]:
    """Test each of `dims`, all shorter than the full one, against `draws` random subsets."""
    generator = np.random.default_rng(seed)
    bootstrap = PairedBootstrap(len(sample.queries))
    parts = sample.parts(PARTS)
    tests = []
    for number, dim in enumerate(dims):
        scores = sample.scores(first(dim))
        prefix = sample.agreement(scores)
        tail = sample.agreement(sample.scores(last(dim, sample.dim)))
        subsets = np.empty((draws, len(prefix)))
        for row in range(draws):
            columns = drawn(dim, sample.dim, generator)
            subsets[row] = sample.agreement(sample.scores(columns))
            on_progress(number * draws + row + 1)
        random = subsets.mean(axis=0)
        means = subsets.mean(axis=1)
        as_good = int((means >= prefix.mean()).sum())
        tests.append(
            DimTest(
                dim=dim,
                first=float(prefix.mean()),
                last=float(tail.mean()),
                random=float(random.mean()),
                random_best=float(means.max()),
                among_100=float(sample.agreement(scores, SERVING_WIDTH).mean()),
                gain=bootstrap.difference(prefix, random),
                over_last=bootstrap.difference(prefix, tail),
                effect=float((prefix.mean() - random.mean()) / max(1.0 - random.mean(), 1e-9)),
                p_value=(as_good + 1) / (draws + 1),
                parts=tuple(_gain(part, dim, generator) for part in parts),
                overlaps=2 * dim > sample.dim,
            )
        )
    return _corrected(tests)


def decide(full: int, tests: Sequence[DimTest], claimed: Sequence[int] = ()) -> Verdict:
    """The verdict. claimed: dimensions that the model's card names; of those, confirmed ones are
    tiers. Without any claim, tiers are the confirmed dimensions that also serve.
    """
    confirmed = [test for test in tests if test.confirmed]
    mrl = bool(confirmed) and 2 * len(confirmed) >= len(tests)
    agreements = [test.first for test in tests] + [1.0]
    tiers = [test.dim for test in confirmed if claimed or test.serves] if mrl else []
    unconfirmed = [dim for dim in claimed if dim != full and dim not in tiers]
    return Verdict(
        mrl=mrl,
        tiers=(*tiers, full),
        unconfirmed=tuple(unconfirmed),
        monotone=all(low <= high for low, high in itertools.pairwise(agreements)),
        tests=tuple(tests),
        summary=_summary(mrl, tests, confirmed),
    )


def _summary(mrl: bool, tests: Sequence[DimTest], confirmed: Sequence[DimTest]) -> str:
    if not tests:
        return "no dimension shorter than the full one was tested"
    # The shortest says most: there, chance has least.
    shown = (confirmed or tests)[0]
    compared = (
        f"its first {shown.dim} find {shown.first:.3f} of what all coordinates find, random "
        f"{shown.dim} find {shown.random:.3f}, its last {shown.last:.3f} "
        f"(p = {shown.p_value:.3g} over {len(tests)} dimensions)"
    )
    if mrl:
        return f"Matryoshka: {compared}"
    return f"not Matryoshka: {compared}; that a prefix still works says nothing"


def _gain(part: Sample, dim: int, generator: np.random.Generator) -> float:
    subsets = [drawn(dim, part.dim, generator) for _ in range(_DRAWN_IN_PARTS)]
    random = [part.agreement(part.scores(columns)).mean() for columns in subsets]
    return float(part.agreement(part.scores(first(dim))).mean() - np.mean(random))


def _corrected(tests: Sequence[DimTest]) -> list[DimTest]:
    """Holm's step-down: the smallest p times the number of tests, the next times one less, ..."""
    order = sorted(range(len(tests)), key=lambda row: tests[row].p_value)
    corrected = list(tests)
    least = 0.0
    for rank, row in enumerate(order):
        least = max(least, min(1.0, tests[row].p_value * (len(tests) - rank)))
        corrected[row] = replace(tests[row], p_value=least)
    return corrected
