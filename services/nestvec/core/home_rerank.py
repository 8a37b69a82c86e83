"""Which candidates of a copy of prefixes are sent home for rerank, and what its answer then stands
for.

Each candidate has bounds of its full cosine. Where so many others are surely better that it can be
none of the hits, sending it would only cost bytes. It is left out before anything is known exactly,
and looked at once more when the k-th exact score is: the certificate then speaks of it as if it had
been sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Floats
from nestvec.core.certificate import Certificate, failure_probability, least_margin
from nestvec.core.ports import CoarseHits, RegionHits

# So many more than k: some may have been deleted at home, of which the copy has not heard.
_SPARE_SHARE = 0.5
_SPARE_LEAST = 8


@dataclass(frozen=True, slots=True)
class Sent:
    """Of one query's candidates: `rows` are sent, by upper bound. held: the bounds of the others.
    considered: how many there are in all.
    """

    rows: NDArray[np.int64]
    hits: CoarseHits
    held_estimates: Floats
    held_half_widths: Floats

    @property
    def considered(self) -> int:
        """Sent or not."""
        return len(self.rows) + len(self.held_estimates)


def choose(candidates: CoarseHits, k: int) -> Sent:
    """Those that may be among the k best by full cosine, and some more."""
    estimates, half_widths = candidates.estimates, candidates.half_widths
    uppers = estimates + half_widths
    # What is not known may be anything.
    uppers[np.isnan(uppers)] = np.inf
    wanted = k + max(_SPARE_LEAST, round(_SPARE_SHARE * k))
    floor = -np.inf
    if len(uppers) > wanted:
        lowers = np.nan_to_num(estimates - half_widths, nan=-np.inf)
        floor = np.partition(lowers, len(lowers) - wanted)[len(lowers) - wanted]
    hopeful = uppers >= floor
    order = np.argsort(-uppers, kind="stable")
    rows = order[hopeful[order]]
    hits = CoarseHits(candidates.ids[rows], estimates[rows], half_widths[rows], None)
    return Sent(rows, hits, estimates[~hopeful], half_widths[~hopeful])


def certified(answer: RegionHits, sent: Sent, k: int, bound_z: float) -> RegionHits:
    """The answer of the documents' home to what was sent, as one to all candidates.

    No more than WITHIN_CANDIDATES: the copy may not know of what was written just now.
    """
    certificate, probability = answer.certificate, answer.failure_probability
    if certificate is Certificate.COLLECTION:
        certificate = Certificate.WITHIN_CANDIDATES
    if certificate is Certificate.WITHIN_CANDIDATES and len(sent.held_estimates):
        kth = float(answer.scores[k - 1]) if len(answer.scores) >= k else -math.inf
        uppers = sent.held_estimates + sent.held_half_widths
        if kth > float(uppers.max()):
            margin = least_margin(kth, sent.held_estimates, sent.held_half_widths, bound_z)
            # Which of them were sent was decided by bounds of the same draw: any may have been.
            more = sent.considered / max(len(sent.rows), 1)
            probability = min(
                1.0, more * probability + failure_probability(margin, sent.considered)
            )
        else:
            certificate, probability = Certificate.NONE, 0.0
    return replace(
        answer,
        certificate=certificate,
        failure_probability=probability,
        candidates=sent.considered,
    )
