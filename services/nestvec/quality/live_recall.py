"""Recall of the queries that were really asked: one outcome a sampled query, and what they come to.

The interval is Wilson's, over an effective number of trials. Hits of one query go together, so the
trials are not k times the queries; and recalls of single queries vary less than coin tosses do, so
they are more than the queries. The effective number is what the variance between queries says
(Korn & Graubard 1998, Survey Methodology 24; Dean & Pagano 2015, J. Surv. Stat. Methodol. 3), never
below the queries and never above the documents asked for. Wilson 1927, JASA 22: unlike a bootstrap
it has a width where nothing was missed, and holds 1 there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.sampled import SampledAnswer
from nestvec.quality.attribution import Cause
from nestvec.quality.exact_pass import Exact
from nestvec.quality.recall import TIE, Estimate

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """One answer held against exact search. wanted: how many documents it is held against. missed:
    places in `Exact.ids`, the best first.
    """

    wanted: int
    missed: Ids

    @property
    def recall(self) -> float:
        """0 to 1."""
        return 1.0 - len(self.missed) / self.wanted


def hold(sample: SampledAnswer, exact: Exact) -> Held | None:
    """None where nothing is left to compare.

    A hit that is gone since, or too new to be compared, may have been right: the answer is held
    against that many documents fewer. Documents that tie at the edge are equally right.
    """
    outside = int(np.isnan(exact.hit_scores).sum())
    wanted = min(sample.k - outside, len(exact.ids))
    if wanted < 1:
        return None
    edge = float(exact.scores[wanted - 1])
    tied = exact.scores[:wanted] <= edge + TIE
    absent = ~np.isin(exact.ids[:wanted], sample.hits)
    at_edge = int((np.abs(exact.hit_scores - edge) <= TIE).sum())
    lost_ties = np.flatnonzero(tied & absent)[: max(int(tied.sum()) - at_edge, 0)]
    return Held(wanted, np.concatenate([np.flatnonzero(~tied & absent), lost_ties]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one sampled query. lost: the parts of 1 - recall by cause. at_s: when it was measured, in
    seconds since 1970.
    """

    wanted: int
    recall: float
    lost: Mapping[Cause, float]
    at_s: float


def outcome(held: Held, causes: Sequence[Cause], at_s: float) -> Outcome:
    """causes: one for each that was missed."""
    assert len(causes) == len(held.missed)
    lost = {cause: causes.count(cause) / held.wanted for cause in dict.fromkeys(causes)}
    return Outcome(held.wanted, held.recall, lost, at_s)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a window's outcomes come to. lost: by cause, where it took anything."""

    recall: Estimate
    lost: Mapping[Cause, Estimate]
    measured_at_s: float

    def below(self, target: float) -> bool:
        """Whether the interval rules the target out."""
        return self.recall.count > 0 and self.recall.high < target


@dataclass(slots=True)
class Window:
    """The newest outcomes of one kind: at most `size` of them, none older than `age_s`."""

    size: int
    age_s: float
    outcomes: deque[Outcome] = field(default_factory=deque)

    def add(self, one: Outcome) -> None:
        """The newest."""
        self.outcomes.append(one)
        while len(self.outcomes) > self.size:
            self.outcomes.popleft()

    def recent(self, now_s: float) -> list[Outcome]:
        """Those that count now; older ones are forgotten."""
        while self.outcomes and self.outcomes[0].at_s < now_s - self.age_s:
            self.outcomes.popleft()
        return list(self.outcomes)


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """Recall and losses, with intervals."""
    wanted = [one.wanted for one in outcomes]
    lost = {
        cause: wilson([one.lost.get(cause, 0.0) for one in outcomes], wanted)
        for cause in Cause
        if any(cause in one.lost for one in outcomes)
    }
    newest = max((one.at_s for one in outcomes), default=0.0)
    return Summary(wilson([one.recall for one in outcomes], wanted), lost, newest)


def wilson(
    shares: Sequence[float], wanted: Sequence[int], confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of shares, one a query, and its interval. wanted: the documents that each is of."""
    count = len(shares)
    if not count:
        return Estimate(0.0, 0.0, 1.0, 0)
    values = np.asarray(shares, np.float64)
    mean = float(values.mean())
    trials = _effective(values, mean, sum(wanted))
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    spread = z * z / trials
    centre = (mean + spread / 2.0) / (1.0 + spread)
    half = z * math.sqrt(mean * (1.0 - mean) / trials + spread / trials / 4.0) / (1.0 + spread)
    low = 0.0 if mean <= 0.0 else max(centre - half, 0.0)
    high = 1.0 if mean >= 1.0 else min(centre + half, 1.0)
    return Estimate(mean, low, high, count)


def _effective(values: np.ndarray, mean: float, documents: int) -> float:
    """How many independent trials tell the mean as well as these queries do."""
    count = len(values)
    variance = float(values.var(ddof=1)) / count if count > 1 else 0.0
    if variance <= 0.0:
        return float(count)
    return min(max(mean * (1.0 - mean) / variance, float(count)), float(max(documents, count)))
