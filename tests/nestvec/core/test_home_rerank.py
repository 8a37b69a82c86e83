"""What is not sent home could not have been a hit; what is claimed counts it all the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.arrays import Floats
from nestvec.core.certificate import Certificate, failure_probability
from nestvec.core.home_rerank import certified, choose
from nestvec.core.ports import CoarseHits, RegionHits

Z = 5.0


def candidates(estimates: list[float], half_widths: list[float]) -> CoarseHits:
    count = len(estimates)
    return CoarseHits(
        np.arange(count), np.array(estimates, np.float32), np.array(half_widths, np.float32), None
    )


def an_answer(scores: list[float], certificate: Certificate, probability: float) -> RegionHits:
    return RegionHits(
        [f"d{row}" for row in range(len(scores))],
        np.array(scores, np.float32),
        certificate=certificate,
        failure_probability=probability,
    )


rows = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.floats(0, 0.5, width=32)), min_size=1, max_size=60
)


@given(rows, st.integers(1, 12), st.randoms(use_true_random=False))
def test_within_their_bounds_no_scores_put_a_held_one_among_the_hits(
    found: list[tuple[float, float]], k: int, random: object
) -> None:
    hits = candidates(*map(list, zip(*found, strict=True)))
    sent = choose(hits, k)
    assert sent.considered == len(found)
    # Any scores that the bounds allow.
    lows, highs = hits.estimates - hits.half_widths, hits.estimates + hits.half_widths
    shares = np.array([random.random() for _ in found])  # type: ignore[attr-defined]
    scores: Floats = (lows + shares * (highs - lows)).astype(np.float32)
    held = np.setdiff1d(np.arange(len(found)), sent.rows)
    if len(held):
        better = np.sort(scores[sent.rows])[::-1]
        assert len(better) >= k
        assert better[k - 1] >= scores[held].max() - 1e-6
    # Best first by upper bound, as a rerank reads them.
    uppers = sent.hits.estimates + sent.hits.half_widths
    assert (uppers[1:] <= uppers[:-1]).all()
    assert np.array_equal(sent.hits.estimates, hits.estimates[sent.rows])


def test_clear_leads_leave_most_at_home_and_some_to_spare() -> None:
    estimates = [1.0 - 0.01 * row for row in range(90)]
    sent = choose(candidates(estimates, [0.002] * 90), 10)
    assert 10 + 8 <= len(sent.rows) <= 20


def test_a_bound_that_is_no_number_is_sent() -> None:
    estimates = [0.9] * 40 + [0.1]
    half_widths = [0.01] * 40 + [float("nan")]
    assert 40 in choose(candidates(estimates, half_widths), 2).rows


def test_what_was_held_is_counted_as_if_it_had_been_sent() -> None:
    hits = candidates([0.9] * 30 + [0.5] * 10, [0.05] * 40)
    sent = choose(hits, 5)
    assert len(sent.rows) == 30
    answer = an_answer([0.9] * 5, Certificate.WITHIN_CANDIDATES, 1e-6)
    told = certified(answer, sent, 5, Z)
    assert told.certificate is Certificate.WITHIN_CANDIDATES
    # 0.4 above estimates whose sigma is 0.01.
    assert told.failure_probability == 40 / 30 * 1e-6 + failure_probability(
        Z * float((np.float64(np.float32(0.9)) - np.float32(0.5)) / np.float32(0.05)), 40
    )
    assert told.candidates == 40


def test_nothing_is_certified_where_a_held_one_might_have_been_a_hit() -> None:
    sent = choose(candidates([0.9] * 30 + [0.5] * 10, [0.05] * 40), 5)
    low = an_answer([0.9, 0.9, 0.9, 0.9, 0.54], Certificate.WITHIN_CANDIDATES, 1e-6)
    assert certified(low, sent, 5, Z).certificate is Certificate.NONE
    # Deleted at home: fewer came back than were asked for.
    few = an_answer([0.9] * 4, Certificate.WITHIN_CANDIDATES, 1e-6)
    assert certified(few, sent, 5, Z).certificate is Certificate.NONE


def test_a_copy_speaks_of_no_more_than_its_candidates() -> None:
    sent = choose(candidates([0.9, 0.8], [0.1, 0.1]), 1)
    told = certified(an_answer([0.9], Certificate.COLLECTION, 1e-5), sent, 1, Z)
    assert (told.certificate, told.failure_probability) == (Certificate.WITHIN_CANDIDATES, 1e-5)
    partial = certified(an_answer([0.9], Certificate.ESTIMATED, 0.0), sent, 1, Z)
    assert partial.certificate is Certificate.ESTIMATED
