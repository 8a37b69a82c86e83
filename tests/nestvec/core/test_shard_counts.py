"""Each shard is asked for no more than it needs to, and misses with a stated probability."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.shard_counts import MISS_PROBABILITY, binomial_tails, shard_counts
from tests.support.long_runs import examples

holdings = st.lists(st.none() | st.integers(0, 10_000), min_size=1, max_size=8)


def exact_tail(count: int, share: Fraction, m: int) -> Fraction:
    """P(Binomial(count, share) > m), in whole numbers."""
    return sum(
        (
            math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)
            for hits in range(m + 1, count + 1)
        ),
        Fraction(0),
    )


@settings(max_examples=examples(50))
@given(st.integers(1, 60), st.integers(0, 64))
def test_tails_are_exact(count: int, part: int) -> None:
    share = Fraction(part, 64)
    tails = binomial_tails(count, float(share))
    for m in range(count + 1):
        assert tails[m] == pytest.approx(float(exact_tail(count, share, m)), rel=1e-9, abs=1e-300)


def test_long_tails_neither_overflow_nor_vanish() -> None:
    tails = binomial_tails(10_000, 0.25)
    assert (np.diff(tails) <= 0).all()
    assert tails[-1] == 0.0
    assert tails[0] == pytest.approx(1.0)
    assert tails[2499] == pytest.approx(0.5, abs=0.01)


@settings(max_examples=examples(200))
@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_of_equal_shards_each_is_asked_for_the_smallest_count_that_is_safe(
    count: int, shards: int, miss: float
) -> None:
    (asked,) = set(shard_counts(count, [64 // shards * shards] * shards, miss))
    # The share is rounded up to a 256th.
    share = Fraction(math.ceil(256 / shards), 256)
    assert shards * exact_tail(count, share, asked) <= miss * (1 + 1e-9)
    assert asked == 1 or shards * exact_tail(count, share, asked - 1) > miss * (1 - 1e-9)


@settings(max_examples=examples(200))
@given(st.integers(1, 40), holdings)
def test_the_chance_that_any_count_is_too_small_is_what_was_stated(
    count: int, documents: list[int | None]
) -> None:
    asked = shard_counts(count, documents)
    assert len(asked) == len(documents)
    assert all(1 <= one <= count for one in asked)
    known = [one for one in documents if one is not None]
    average = Fraction(sum(known), len(known)) if known else Fraction(1)
    numbers = [average if one is None else Fraction(one) for one in documents]
    total = sum(numbers)
    if total == 0:
        numbers, total = [Fraction(1)] * len(documents), Fraction(len(documents))
    missed = sum(
        exact_tail(count, number / total, one) for number, one in zip(numbers, asked, strict=True)
    )
    assert missed <= MISS_PROBABILITY


@settings(max_examples=examples(100))
@given(st.integers(1, 5000), holdings)
def test_one_shard_and_one_that_holds_all_are_asked_for_everything(
    count: int, documents: list[int | None]
) -> None:
    assert shard_counts(count, documents[:1]) == (count,)
    assert shard_counts(count, [100, 0, 0])[0] == count


def test_small_counts_are_asked_of_everybody() -> None:
    assert shard_counts(5, [None] * 4) == (5,) * 4
    assert shard_counts(10, [100] * 4) == (10,) * 4


def test_four_shards_are_asked_for_a_third_each() -> None:
    (asked,) = set(shard_counts(1000, [200_000] * 4))
    assert 310 <= asked <= 340


def test_placement_by_chance_keeps_what_was_stated() -> None:
    """Counts that are allowed to miss often, so that missing can be counted."""
    generator = np.random.default_rng(0)
    documents = [500, 300, 200]
    asked = np.array(shard_counts(100, documents, miss_probability=0.05))
    drawn = generator.multinomial(100, np.array(documents) / 1000, size=20_000)
    missed = (drawn > asked).any(axis=1).mean()
    assert 0.002 < missed <= 0.055
