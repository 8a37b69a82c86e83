"""How sure an answer's order is. Never claimed beyond what the bounds allow.

What a failure probability is of. Documents keep bounds that hold over a random draw, made once a
generation: a rotation and a dither (core/sketch.py). The error of each estimate is sub-Gaussian:
E exp(t * error) <= exp(t^2 sigma^2 / 2) for every t. So a score exceeds its estimate by z sigma
with a probability of at most exp(-z^2 / 2) (Chernoff's bound). That is the tail which the sum of
both errors is known to have. A Gaussian's own, 13 times less at z = 5, it need not have:
Hoeffding's inequality does not give it, and a random direction of few dimensions breaks it.

Why the k best are all that count. Let K be the k best of the documents that match, by exact score:
a set that no draw changes. An answer is wrong when a document that was left out scores above its
k-th hit. Then one of K was left out (with all of K fetched, nothing else scores above the k-th
hit), and it was because its upper bound is below the score of the k-th hit, which is at most its
own. So one of k bounds has failed, however many documents there are: the union bound is over k.

Why it may be stated after the fact. For each document left out, take the greatest z at which its
bound is still below the k-th hit; let `margin` be the least of these, and state
p = k exp(-margin^2 / 2). Where the answer is wrong and p <= a, one of K has a score that exceeds
its estimate by sqrt(2 ln(k / a)) sigma at least; each does with a probability of at most a / k. So
the probability that an answer is wrong and claims p <= a is at most a, for every a: p is a p-value.

Queries of one generation share its draw: what is expected of many of them is the sum of what they
state, and their failures need not be independent.

Sources: Hoeffding 1963, Probability Inequalities for Sums of Bounded Random Variables; Boucheron,
Lugosi and Massart 2013, Concentration Inequalities, section 2.3.
"""

from __future__ import annotations

import enum
import math

import numpy as np

from nestvec.core.arrays import Floats


class Certificate(enum.StrEnum):
    """Each stands for more than the one before it.

    NONE: coarse order, or an answer that lost something on the way, or one whose bounds are broken.
    ESTIMATED: reranked, but time ran out before the bounds allowed a stop. WITHIN_CANDIDATES: no
    other candidate of the coarse search scores higher than the last hit. COLLECTION: no other
    document that matches does, and every shard answered.
    """

    NONE = "none"
    ESTIMATED = "estimated"
    WITHIN_CANDIDATES = "within_candidates"
    COLLECTION = "collection"


def tail_probability(z: float) -> float:
    """How often at most one upper bound at `z` standard deviations is too low."""
    return math.exp(-0.5 * z * z) if z > 0.0 else 1.0


def failure_probability(z: float, documents: int) -> float:
    """How often at most one of `documents` beats its upper bound at `z` (union bound)."""
    return min(1.0, documents * tail_probability(z))


def least_margin(kth_score: float, estimates: Floats, half_widths: Floats, z: float) -> float:
    """The greatest number of standard deviations at which all of these still stay below the k-th
    score; inf where there are none.

    estimates, half_widths: (n,) float32, of documents whose upper bounds at `z` are below it. A
    half width is z sigma and what does not grow with z, so sigma is at most half_width / z.
    """
    if not len(estimates):
        return math.inf
    gaps = kth_score - estimates.astype(np.float64)
    # A half width of 0 is no doubt at all.
    ratios = np.divide(gaps, half_widths, out=np.full(len(gaps), np.inf), where=half_widths > 0)
    return float(z * ratios.min())


def rest_margin(kth_score: float, upper_bound: float, half_width: float, z: float) -> float:
    """As `least_margin`, of documents of which no more is known than what none of them exceeds at
    `z`, and the greatest of their half widths; 0 where that is unknown.
    """
    if upper_bound == -math.inf:
        return math.inf
    return z * (1.0 + (kth_score - upper_bound) / half_width) if half_width > 0.0 else z
