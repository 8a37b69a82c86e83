"""Certificates ascend as declared, and their wire names do not change. What a bound's z is worth as
a probability, and how far what was left out stays below.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.certificate import (
    Certificate,
    failure_probability,
    least_margin,
    rest_margin,
    tail_probability,
)

# Of a coordinate T of a random direction in d dimensions: P(sqrt(d) T > z), in closed form.
DIRECTIONS: dict[int, Callable[[float], float]] = {
    1: lambda z: 0.5 if z < 1.0 else 0.0,
    2: lambda z: math.acos(min(z / math.sqrt(2), 1.0)) / math.pi,
    3: lambda z: max(1.0 - z / math.sqrt(3), 0.0) / 2,
    5: lambda z: _of_five(min(z / math.sqrt(5), 1.0)),
}


def _of_five(t: float) -> float:
    """The density is 3 / 4 (1 - t^2)."""
    return 0.5 - 0.75 * (t - t**3 / 3)


def dithered_tail(count: int, fraction: float, z: float) -> float:
    """P(sum > z sigma) of `count` equal rounding errors: 1 - fraction with probability `fraction`,
    else -fraction; sigma is Hoeffding's, half a step each.
    """
    least = count * fraction + z * math.sqrt(count) / 2
    return math.fsum(
        math.comb(count, ups) * fraction**ups * (1 - fraction) ** (count - ups)
        for ups in range(count + 1)
        if ups > least + 1e-9
    )


def gaussian_tail(z: float) -> float:
    return 1.0 - NormalDist().cdf(z)


def test_certificates_ascend_in_the_order_they_are_declared() -> None:
    assert list(Certificate) == [
        Certificate.NONE,
        Certificate.ESTIMATED,
        Certificate.WITHIN_CANDIDATES,
        Certificate.COLLECTION,
    ]


def test_certificates_keep_their_names() -> None:
    assert [certificate.value for certificate in Certificate] == [
        "none",
        "estimated",
        "within_candidates",
        "collection",
    ]


# --- probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", sorted(DIRECTIONS))
def test_no_tail_of_a_random_direction_is_heavier(dim: int) -> None:
    for z in np.linspace(0.01, 4.0, 200).tolist():
        assert DIRECTIONS[dim](z) <= tail_probability(z)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.5, 0.7, 0.98])
def test_no_tail_of_dithered_rounding_is_heavier(count: int, fraction: float) -> None:
    for z in np.linspace(0.01, 5.0, 60).tolist():
        assert dithered_tail(count, fraction, z) <= tail_probability(z)


def test_a_gaussian_tail_would_promise_too_much() -> None:
    """Of a direction in two dimensions, and of one coordinate that is rounded."""
    assert DIRECTIONS[2](1.3) > 1.3 * gaussian_tail(1.3)
    assert dithered_tail(1, 0.5, 0.99) > 3 * gaussian_tail(0.99)


@pytest.mark.parametrize(
    ("z", "probability"),
    [(-1.0, 1.0), (0.0, 1.0), (1.0, 0.60653066), (5.0, 3.7266532e-6), (math.inf, 0.0)],
)
def test_tails_have_known_values(z: float, probability: float) -> None:
    assert tail_probability(z) == pytest.approx(probability, rel=1e-7)


@given(z=st.floats(-2, 8), documents=st.integers(0, 10**9))
def test_failure_is_the_union_bound_and_stays_a_probability(z: float, documents: int) -> None:
    probability = failure_probability(z, documents)
    assert 0.0 <= probability <= 1.0
    assert probability == min(1.0, documents * tail_probability(z))
    assert (
        failure_probability(z, documents + 1)
        >= probability
        >= failure_probability(z + 1, documents)
    )


def test_nothing_unseen_cannot_fail() -> None:
    assert failure_probability(0.0, 0) == 0.0
    assert failure_probability(math.inf, 10**9) == 0.0


# --- margins --------------------------------------------------------------------------------------

positive = st.floats(2.0**-10, 0.25, width=32)
bounds = st.lists(st.tuples(st.floats(-1, 0.5, width=32), positive, positive), max_size=6)


@given(bounds, st.floats(0.5, 8), st.floats(0, 0.5))
def test_at_the_margin_no_bound_reaches_the_kth_score(
    rows: list[tuple[float, float, float]], z: float, gap: float
) -> None:
    """rows: estimate, sigma, and what does not grow with z."""
    estimates, sigmas, slacks = np.array(rows, np.float64).reshape(-1, 3).T
    half_widths = z * sigmas + slacks
    kth = float((estimates + half_widths).max(initial=-1.0)) + gap
    margin = least_margin(kth, estimates.astype(np.float32), half_widths.astype(np.float32), z)
    if not rows:
        assert margin == math.inf
        return
    assert margin >= z * (1 - 1e-3)
    assert (estimates + margin * sigmas + slacks <= kth + 1e-5 * margin).all()


@given(bounds.filter(bool), st.floats(0.5, 8), st.floats(0, 0.5))
def test_the_rests_margin_is_no_more_than_that_of_each_in_it(
    rows: list[tuple[float, float, float]], z: float, gap: float
) -> None:
    estimates, sigmas, slacks = np.array(rows, np.float64).T
    half_widths = z * sigmas + slacks
    upper = float((estimates + half_widths).max())
    margin = rest_margin(upper + gap, upper, float(half_widths.max()), z)
    assert margin >= z
    assert (estimates + margin * sigmas + slacks <= upper + gap + 1e-9).all()


def test_of_a_rest_without_widths_no_more_is_known_than_what_was_asked() -> None:
    assert rest_margin(0.9, 0.5, 0.0, 3.0) == 3.0
    assert rest_margin(0.9, -math.inf, 0.0, 3.0) == math.inf, "there is none"


def test_a_width_of_zero_is_no_doubt() -> None:
    one = np.array([0.5], np.float32)
    assert least_margin(0.6, one, 0 * one, 5.0) == math.inf
