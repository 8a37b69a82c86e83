"""A sketch's bound holds, is as tight as its formula, and its estimate leans to neither side."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nestvec.core.arrays import Bytes, Floats
from nestvec.core.codec import quantise_int8
from nestvec.core.sketch import (
    SketchColumns,
    SketchQuery,
    TailSketch,
    dither_name,
    random_dither,
    random_rotation,
    rotation_name,
)
from tests.nestvec.core.synthetic import as_stored, mrl_like, unit
from tests.support.long_runs import takes_long

# What a bound may add to z standard deviations, from its docstring: fp16's rounding of the two
# parts, and float32 arithmetic. Twice that, so that a careful change of the slack is no failure.
FP16_SLACK = 2 * 2.0**-11
ARITHMETIC_SLACK = 1e-5


@dataclass(frozen=True)
class Bounds:
    """Of one query and many vectors, with the truth beside them. All (n,), float64."""

    exact: NDArray[np.float64]
    estimates: NDArray[np.float64]
    half_widths: NDArray[np.float64]

    @property
    def errors(self) -> NDArray[np.float64]:
        return self.estimates - self.exact

    @property
    def violated(self) -> int:
        return int((np.abs(self.errors) > self.half_widths).sum())


def prefixes_of(vectors: Floats, coarse_dim: int) -> Floats:
    """Unit prefixes; a head of zeros stays one."""
    heads = vectors[:, :coarse_dim]
    norms = np.linalg.norm(heads, axis=1, keepdims=True)
    prefixes: Floats = np.divide(heads, norms, out=np.zeros_like(heads), where=norms > 0)
    return prefixes


def sketch_of(coarse_dim: int, full_dim: int, rotation: Floats) -> TailSketch:
    return TailSketch(coarse_dim, full_dim, rotation, dither_beside(rotation, coarse_dim))


def dither_beside(rotation: Floats, coarse_dim: int) -> Floats:
    """Another dither for another rotation: a trial draws both anew."""
    return random_dither(coarse_dim, seed=zlib.crc32(rotation.tobytes()))


class Shard:
    """As a coarse worker keeps vectors: int8 prefixes for the head, the sketch for the tail."""

    def __init__(
        self, vectors: Floats, coarse_dim: int, rotation: Floats, int8: bool = True
    ) -> None:
        self._exact = vectors.astype(np.float64)
        self._coarse_dim = coarse_dim
        self._sketch = sketch_of(coarse_dim, vectors.shape[1], rotation)
        self._columns = self._sketch.encode(vectors)
        self._prefixes = prefixes_of(vectors, coarse_dim)
        self._scales = np.zeros(len(vectors), np.float32)
        if int8:
            quantised = quantise_int8(self._prefixes, dither_beside(rotation, coarse_dim))
            self._prefixes, self._scales = quantised.decode(), quantised.scales

    def bound(self, query: Floats, z: float) -> Bounds:
        prefix_scores = self._prefixes @ query[: self._coarse_dim]
        prepared = self._sketch.query(query)
        estimates, half_widths = prepared.bound(prefix_scores, self._scales, self._columns, z)
        exact = self._exact @ query.astype(np.float64)
        return Bounds(exact, estimates.astype(np.float64), half_widths.astype(np.float64))


def bound(
    query: Floats, vectors: Floats, coarse_dim: int, rotation: Floats, z: float, int8: bool = True
) -> Bounds:
    """One query to a shard of its own."""
    return Shard(vectors, coarse_dim, rotation, int8).bound(query, z)


def queries_near_and_far(vectors: Floats, count: int, seed: int) -> Floats:
    """Half of them stored vectors with noise on top, half of no relation to any."""
    rng = np.random.default_rng(seed)
    near = vectors[: count // 2]
    noise = rng.standard_normal(near.shape) * np.abs(near).mean()
    far = mrl_like(count - count // 2, vectors.shape[1], seed + 1)
    return np.concatenate([unit((near + noise).astype(np.float32)), far])


# --- the bound holds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coarse_dim", "full_dim", "count"),
    [
        (64, 128, 1000),
        (256, 768, 500),
        (128, 256, 1000),
        (60, 101, 500),  # a tail that fills no byte
        (8, 13, 500),  # a tail shorter than a byte
        (8, 9, 500),  # a tail of one dimension
    ],
)
@pytest.mark.parametrize("decay", [0.3, 0.7])
def test_five_sigma_contain_the_exact_score_of_the_stored_vector(
    coarse_dim: int, full_dim: int, count: int, decay: float
) -> None:
    """40,000 or 80,000 pairs each, of which Gaussian errors would break 0.05 at most."""
    vectors = as_stored(mrl_like(count, full_dim, seed=1, decay=decay))
    queries = queries_near_and_far(vectors, 20, seed=2)
    for seed in range(4):
        shard = Shard(vectors, coarse_dim, random_rotation(full_dim - coarse_dim, seed))
        assert sum(shard.bound(query, z=5.0).violated for query in queries) == 0


def with_zero_tails(vectors: Floats) -> Floats:
    vectors[:, 24:] = 0
    return unit(vectors)


def with_zero_heads(vectors: Floats) -> Floats:
    vectors[:, :24] = 0
    return unit(vectors)


def with_faint_tails(vectors: Floats) -> Floats:
    """In fp16's subnormal range, where a norm keeps few bits or none."""
    vectors[:, 24:] *= np.float32(1e-6)
    return unit(vectors)


def with_faint_heads(vectors: Floats) -> Floats:
    vectors[:, :24] *= np.float32(1e-4)
    return unit(vectors)


def one_hot(vectors: Floats) -> Floats:
    return np.eye(len(vectors), vectors.shape[1], dtype=np.float32)


def all_equal(vectors: Floats) -> Floats:
    """All coordinates of one size, in every pattern of signs that the source has."""
    return unit(np.sign(vectors))


def with_a_loud_coordinate(vectors: Floats) -> Floats:
    """As transformers have them: int8's scale is all its own."""
    vectors[:, 3] = 2.0
    return unit(vectors)


@pytest.mark.parametrize(
    "make",
    [
        with_zero_tails,
        with_zero_heads,
        with_faint_tails,
        with_faint_heads,
        one_hot,
        all_equal,
        with_a_loud_coordinate,
    ],
)
def test_five_sigma_hold_for_vectors_no_model_should_make(
    make: Callable[[Floats], Floats],
) -> None:
    """Asked by their own kind, by each other, by their opposites and by ordinary queries."""
    vectors = as_stored(make(mrl_like(67, 67, seed=3)))
    queries = np.concatenate([vectors[::6], -vectors[::8], mrl_like(6, 67, seed=4)])
    for seed in range(10):
        shard = Shard(vectors, 24, random_rotation(43, seed))
        assert sum(shard.bound(query, z=5.0).violated for query in queries) == 0


@pytest.mark.parametrize("tail_dim", [1, 2, 3, 4, 8])
def test_five_sigma_hold_for_the_shortest_tails(tail_dim: int) -> None:
    """Where a tail lies so near a corner of the cube that fp16 rounds its correction to 1.

    Two dimensions leave the error no choice but its sign: there, one sigma is certain.
    """
    z = 1.0 if tail_dim <= 2 else 5.0
    vectors = as_stored(mrl_like(500, 8 + tail_dim, seed=5, decay=0.0))
    queries = mrl_like(5, 8 + tail_dim, seed=6, decay=0.0)
    for seed in range(20):
        shard = Shard(vectors, 8, random_rotation(tail_dim, seed), int8=False)
        assert sum(shard.bound(query, z).violated for query in queries) == 0


def test_five_sigma_hold_when_every_int8_rounding_favours_the_query() -> None:
    """A loud coordinate over an even floor: the floor rounds to zero, and the query asks for it.

    Rounding to the nearest makes all errors one; the dither draws each on its own.
    """
    vector = np.full((1, 320), 0.49 / 127, np.float32)
    vector[0, 0] = 1.0
    vectors = as_stored(unit(vector))
    floor = np.ones(320, np.float32)
    floor[0] = 0.0
    for seed in range(50):
        assert bound(unit(floor), vectors, 256, random_rotation(64, seed), z=5.0).violated == 0


def test_a_vector_that_asks_for_itself_finds_a_score_of_one_within_the_bound() -> None:
    vectors = as_stored(mrl_like(200, 128, seed=8))
    rotation = random_rotation(64, seed=9)
    for row in range(0, 200, 10):
        found = bound(unit(vectors[row]), vectors[row : row + 1], 64, rotation, z=5.0)
        assert found.exact == pytest.approx(1.0, abs=1e-3)
        assert found.violated == 0


def test_a_query_of_one_part_only_is_bounded_by_that_part() -> None:
    vectors = as_stored(mrl_like(300, 64, seed=10))
    rotation = random_rotation(32, seed=11)
    head_only, tail_only = mrl_like(2, 64, seed=12)
    head_only[32:] = 0
    tail_only[:32] = 0
    by_head = bound(unit(head_only), vectors, 32, rotation, z=5.0)
    by_tail = bound(unit(tail_only), vectors, 32, rotation, z=5.0)
    assert by_head.violated == by_tail.violated == 0
    # Without a tail to ask for, only int8's rounding is left in doubt.
    assert by_head.half_widths.max() < 0.02 < by_tail.half_widths.mean()


def test_a_query_with_neither_part_scores_nothing() -> None:
    vectors = as_stored(mrl_like(20, 64, seed=10))
    found = bound(np.zeros(64, np.float32), vectors, 32, random_rotation(32, seed=11), z=5.0)
    assert not found.estimates.any()
    assert found.half_widths.max() < ARITHMETIC_SLACK


# --- and is no wider than it must be --------------------------------------------------------------


@pytest.mark.parametrize(("coarse_dim", "full_dim"), [(64, 128), (128, 256), (20, 61)])
def test_one_sigma_is_violated_as_often_as_a_gaussian_would(coarse_dim: int, full_dim: int) -> None:
    """0.317 of 200,000 pairs. A bound that were too wide, or too narrow, would show here."""
    vectors = as_stored(mrl_like(1000, full_dim, seed=13))
    queries = queries_near_and_far(vectors, 20, seed=14)
    tail_dim = full_dim - coarse_dim
    shards = [Shard(vectors, coarse_dim, random_rotation(tail_dim, n), False) for n in range(10)]
    found = [shard.bound(query, z=1.0) for shard in shards for query in queries]
    share = sum(one.violated for one in found) / sum(len(one.exact) for one in found)
    assert 0.29 < share < 0.33


def formula(
    query: Floats, vector: Floats, coarse_dim: int, rotation: Floats, scale: float, z: float
) -> float:
    """z sigma of the module's docstring for one pair, in double precision."""
    head, tail = vector[:coarse_dim].astype(float), vector[coarse_dim:].astype(float)
    tail_dim = len(tail)
    head_term = np.linalg.norm(head) * np.linalg.norm(query[:coarse_dim]) * scale / 2
    if tail_dim == 0 or not tail.any():
        return z * float(head_term)
    rotated = rotation.astype(float) @ tail
    o = np.abs(rotated).sum() / math.sqrt(tail_dim) / np.linalg.norm(tail)
    tail_term = (
        np.linalg.norm(tail)
        * np.linalg.norm(query[coarse_dim:])
        * math.sqrt(max(1 - o * o, 0.0) / (o * o * max(tail_dim - 1, 1)))
    )
    return z * math.hypot(float(head_term), float(tail_term))


@pytest.mark.parametrize(("coarse_dim", "full_dim"), [(64, 128), (20, 61), (8, 13), (32, 32)])
@pytest.mark.parametrize("z", [0.0, 1.0, 5.0])
def test_half_widths_are_those_of_the_formula(coarse_dim: int, full_dim: int, z: float) -> None:
    vectors = as_stored(mrl_like(50, full_dim, seed=15))
    query = mrl_like(1, full_dim, seed=16)[0]
    rotation = random_rotation(full_dim - coarse_dim, seed=17)
    scales = quantise_int8(prefixes_of(vectors, coarse_dim)).scales.tolist()
    found = bound(query, vectors, coarse_dim, rotation, z)
    oracle = np.array(
        [
            formula(query, vector, coarse_dim, rotation, scale, z)
            for vector, scale in zip(vectors, scales, strict=True)
        ]
    )
    slack = FP16_SLACK * (np.abs(found.estimates) + 2.0) + ARITHMETIC_SLACK
    assert (found.half_widths >= oracle * 0.995).all()
    assert (found.half_widths <= oracle * 1.005 + slack).all()
    assert found.half_widths.mean() <= oracle.mean() * 1.005 + slack.mean()


def test_the_slack_is_what_fp16_needs_and_no_more() -> None:
    """A vector asked for itself has no tail error but rounding: the slack must do at z = 0.

    Tails near one in length make the tail's two roundings, of norm and correction, both count.
    """
    vectors = as_stored(mrl_like(4000, 64, seed=51, decay=0.0))
    rotation = random_rotation(62, seed=52)
    sketch = sketch_of(2, 64, rotation)
    columns = sketch.encode(vectors)
    violated = 0
    for row, vector in enumerate(vectors):
        scores = np.linalg.norm(vector[None, :2], axis=1)
        one = columns.take(np.array([row]))
        estimate, slack = sketch.query(vector).bound(scores, np.zeros_like(scores), one, 0.0)
        exact = float(vector.astype(np.float64) @ vector.astype(np.float64))
        violated += abs(float(estimate[0]) - exact) > slack[0]
        assert 0.0 < slack[0] < 2 * 2.0**-11 * 1.01 + ARITHMETIC_SLACK
    assert violated == 0


def test_five_sigma_are_far_narrower_than_what_is_certain_without_a_sketch() -> None:
    """Cauchy-Schwarz on the tail alone: what the sketch has to beat to be worth its bytes."""
    vectors = as_stored(mrl_like(500, 768, seed=18, decay=0.3))
    query = mrl_like(1, 768, seed=19, decay=0.3)[0]
    found = bound(query, vectors, 256, random_rotation(512, seed=20), z=5.0)
    certain = np.linalg.norm(vectors[:, 256:], axis=1) * np.linalg.norm(query[256:])
    assert found.half_widths.mean() < 0.25 * certain.mean()


@given(seed=st.integers(0, 2**32), low=st.floats(0, 5), more=st.floats(0.01, 5))
def test_more_sigmas_widen_and_move_nothing(seed: int, low: float, more: float) -> None:
    vectors = as_stored(mrl_like(5, 24, seed))
    query = mrl_like(1, 24, seed + 1)[0]
    rotation = random_rotation(16, seed)
    narrow = bound(query, vectors, 8, rotation, low)
    wide = bound(query, vectors, 8, rotation, low + more)
    assert np.array_equal(narrow.estimates, wide.estimates)
    assert (wide.half_widths > narrow.half_widths).all()


# --- the estimate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda vectors: vectors, one_hot, all_equal, with_zero_heads])
def test_estimates_lean_to_neither_side(make: Callable[[Floats], Floats]) -> None:
    """Over many rotations the mean error of each pair is within its own sampling error of 0."""
    vectors = as_stored(make(mrl_like(40, 40, seed=21)))
    query = unit(vectors.sum(axis=0) + mrl_like(1, 40, seed=22)[0])
    errors = np.array(
        [
            bound(query, vectors, 24, random_rotation(16, seed), z=1.0, int8=False).errors
            for seed in range(1000)
        ]
    )
    # fp16 norms lean too, by at most half a unit of theirs; beyond that, the mean must vanish.
    standard_errors = errors.std(axis=0) / math.sqrt(len(errors)) + 2.0**-11 / 4
    assert (np.abs(errors.mean(axis=0)) / standard_errors).max() < 4.5


@pytest.mark.parametrize("full_dim", [1, 8, 33])
def test_without_a_tail_the_estimate_is_the_prefix_score(full_dim: int) -> None:
    vectors = as_stored(mrl_like(30, full_dim, seed=23))
    query = mrl_like(1, full_dim, seed=24)[0]
    sketch = sketch_of(full_dim, full_dim, random_rotation(0, seed=0))
    assert sketch.encode(vectors).bits.shape == (30, 0)
    found = bound(query, vectors, full_dim, random_rotation(0, seed=0), z=5.0)
    assert found.violated == 0
    exactly = bound(query, vectors, full_dim, random_rotation(0, seed=0), z=5.0, int8=False)
    assert exactly.errors == pytest.approx(0.0, abs=1e-3)
    assert exactly.half_widths.max() < 1e-3
    for_nothing = np.zeros(full_dim, np.float32)
    assert (bound(for_nothing, vectors, full_dim, random_rotation(0, 0), 5.0).half_widths > 0).all()


def test_a_tail_of_one_dimension_is_estimated_exactly() -> None:
    vectors = as_stored(mrl_like(100, 5, seed=25, decay=0.0))
    query = mrl_like(1, 5, seed=26, decay=0.0)[0]
    found = bound(query, vectors, 4, random_rotation(1, seed=27), z=5.0, int8=False)
    assert found.errors == pytest.approx(0.0, abs=1e-3)
    assert (found.half_widths < 0.2 * np.abs(vectors[:, 4] * query[4]) + 3e-3).all()


def test_a_zero_tail_leaves_the_head_alone_in_doubt() -> None:
    vectors = as_stored(with_zero_tails(mrl_like(50, 67, seed=28)))
    columns = sketch_of(24, 67, random_rotation(43, seed=29)).encode(vectors)
    assert not columns.tail_norms.any()
    assert np.isfinite(columns.corrections).all()
    query = mrl_like(1, 67, seed=30)[0]
    found = bound(query, vectors, 24, random_rotation(43, seed=29), z=5.0, int8=False)
    assert found.errors == pytest.approx(0.0, abs=1e-3)
    assert found.half_widths.max() < 1e-3


def test_a_zero_head_makes_the_prefix_score_mean_nothing() -> None:
    """Whatever an index says of a prefix without direction, a head norm of 0 wipes it out."""
    vectors = as_stored(with_zero_heads(mrl_like(20, 67, seed=31)))
    sketch = sketch_of(24, 67, random_rotation(43, seed=32))
    query = sketch.query(mrl_like(1, 67, seed=33)[0])
    columns = sketch.encode(vectors)
    scales = np.ones(20, np.float32)
    nothing = query.bound(np.zeros(20, np.float32), scales, columns, 5.0)
    anything = query.bound(np.linspace(-1, 1, 20, dtype=np.float32), scales, columns, 5.0)
    assert np.array_equal(nothing[0], anything[0])
    assert np.array_equal(nothing[1], anything[1])


# --- rows are on their own ------------------------------------------------------------------------


def test_duplicates_have_one_estimate_and_one_bound() -> None:
    vectors = as_stored(np.repeat(mrl_like(3, 61, seed=34), 20, axis=0))
    found = bound(mrl_like(1, 61, seed=35)[0], vectors, 20, random_rotation(41, seed=36), z=5.0)
    for column in (found.estimates, found.half_widths):
        assert len(set(column.tolist())) == 3


def test_a_bound_does_not_depend_on_the_other_rows() -> None:
    """Shards and blocks of one collection must agree to the last bit."""
    vectors = as_stored(mrl_like(60, 768, seed=37))
    sketch = sketch_of(256, 768, random_rotation(512, seed=38))
    columns = sketch.encode(vectors)
    query = sketch.query(mrl_like(1, 768, seed=39)[0])
    scores = np.linspace(-1, 1, 60, dtype=np.float32)
    scales = np.linspace(0.001, 0.01, 60, dtype=np.float32)
    estimates, half_widths = query.bound(scores, scales, columns, 5.0)
    picked = np.random.default_rng(40).permutation(60)
    for rows in (picked, picked[:7], picked[:1], np.arange(30, 60)):
        some = query.bound(scores[rows], scales[rows], columns.take(rows), 5.0)
        assert np.array_equal(some[0], estimates[rows])
        assert np.array_equal(some[1], half_widths[rows])


def test_taking_rows_takes_them_from_every_column() -> None:
    columns = sketch_of(8, 24, random_rotation(16, seed=41)).encode(mrl_like(9, 24, seed=42))
    taken = columns.take(np.array([4, 0, 4]))
    for name in ("bits", "head_norms", "tail_norms", "corrections"):
        assert np.array_equal(getattr(taken, name), getattr(columns, name)[[4, 0, 4]])
    assert len(columns.take(np.empty(0, np.int64)).bits) == 0


@pytest.mark.parametrize(("coarse_dim", "full_dim"), [(8, 24), (8, 8), (8, 13)])
def test_no_vectors_have_no_sketches_and_no_bounds(coarse_dim: int, full_dim: int) -> None:
    sketch = sketch_of(coarse_dim, full_dim, random_rotation(full_dim - coarse_dim, seed=43))
    columns = sketch.encode(np.empty((0, full_dim), np.float32))
    none = np.empty(0, np.float32)
    for column in sketch.query(mrl_like(1, full_dim, seed=44)[0]).bound(none, none, columns, 5.0):
        assert (column.shape, column.dtype) == ((0,), np.dtype(np.float32))


# --- what a worker keeps --------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    coarse_dim=st.integers(1, 12),
    tail_dim=st.integers(1, 20),
    count=st.integers(0, 4),
)
def test_columns_are_the_naive_columns(
    seed: int, coarse_dim: int, tail_dim: int, count: int
) -> None:
    vectors = as_stored(mrl_like(count, coarse_dim + tail_dim, seed))
    rotation = random_rotation(tail_dim, seed)
    columns = sketch_of(coarse_dim, coarse_dim + tail_dim, rotation).encode(vectors)
    assert columns.bits.shape == (count, -(-tail_dim // 8))
    for row, vector in enumerate(vectors.tolist()):
        head, tail = vector[:coarse_dim], vector[coarse_dim:]
        rotated = [
            math.fsum(map(math.prod, zip(axis, tail, strict=True))) for axis in rotation.tolist()
        ]
        tail_norm = math.sqrt(math.fsum(value * value for value in tail))
        aligned = math.fsum(map(abs, rotated)) / math.sqrt(tail_dim)
        correction = aligned / tail_norm if tail_norm else 1.0
        bits = np.unpackbits(columns.bits[row])
        assert not bits[tail_dim:].any()
        signs_are = [bool(bit) for bit in bits[:tail_dim]]
        assert all(
            sign == (value > 0)
            for sign, value in zip(signs_are, rotated, strict=True)
            if abs(value) > 1e-6
        )
        head_norm = math.sqrt(math.fsum(value * value for value in head))
        assert columns.head_norms[row] == pytest.approx(head_norm, rel=2.0**-10, abs=1e-7)
        assert columns.tail_norms[row] == pytest.approx(tail_norm, rel=2.0**-10, abs=1e-7)
        assert columns.corrections[row] == pytest.approx(correction, rel=2.0**-9)
        assert 1 / math.sqrt(tail_dim) * 0.998 <= columns.corrections[row] <= 1.0


@pytest.mark.parametrize("tail_dim", [0, 1, 7, 8, 9, 41, 512])
def test_a_sketch_takes_the_bytes_it_says(tail_dim: int) -> None:
    sketch = sketch_of(4, 4 + tail_dim, random_rotation(tail_dim, seed=45))
    columns = sketch.encode(mrl_like(10, 4 + tail_dim, seed=46))
    kept = (columns.bits, columns.head_norms, columns.tail_norms, columns.corrections)
    assert sum(column.nbytes for column in kept) == 10 * sketch.bytes_per_vector


def test_prefixes_are_kept_as_dithered_codes_of_the_renormalised_head() -> None:
    vectors = as_stored(mrl_like(30, 24, seed=55))
    dither = random_dither(8, seed=56)
    sketch = TailSketch(8, 24, random_rotation(16, seed=57), dither)
    kept = sketch.encode_prefixes(vectors)
    naive = quantise_int8(prefixes_of(vectors, 8), dither)
    assert np.array_equal(kept.codes, naive.codes)
    assert np.array_equal(kept.scales, naive.scales)
    assert sketch.encode_prefixes(vectors[:0]).codes.shape == (0, 8)


def test_the_doubt_about_a_dithered_prefix_is_hoeffdings() -> None:
    """Over the draw of the dither, for the vector and the query that suit each other worst."""
    vector = np.full((1, 64), 0.49 / 127, np.float32)
    vector[0, 0] = 1.0
    vector = unit(vector)
    query = np.ones(64)
    query[0] = 0.0
    query /= np.linalg.norm(query)
    sigma = float(quantise_int8(vector).scales[0]) / 2
    draws = [quantise_int8(vector, random_dither(64, seed)).decode()[0] for seed in range(4000)]
    errors = (np.array(draws, np.float64) - vector[0]) @ query
    sigmas = np.abs(errors) / sigma
    for z in (1.0, 2.0, 3.0):
        assert (sigmas > z).mean() <= 2 * math.exp(-z * z / 2)
    assert sigmas.max() > 2.5  # so the formula's variance is not idle
    assert 0.9 < errors.std() / sigma < 1.05


@pytest.mark.parametrize("dim", [1, 64, 256])
def test_a_dither_is_uniform_below_one(dim: int) -> None:
    dithers = np.array([random_dither(dim, seed) for seed in range(2000)])
    assert (dithers.shape, dithers.dtype) == ((2000, dim), np.dtype(np.float32))
    assert ((dithers >= 0.0) & (dithers < 1.0)).all()
    assert dithers.mean(axis=0) == pytest.approx(0.5, abs=4.5 * math.sqrt(1 / 12 / 2000))
    assert dithers.var(axis=0) == pytest.approx(1 / 12, rel=0.15)
    assert np.array_equal(random_dither(dim, 58), random_dither(dim, 58))


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_dither_of_another_head_is_our_own_bug(length: int) -> None:
    with pytest.raises(AssertionError):
        TailSketch(8, 24, random_rotation(16, seed=59), np.zeros(length, np.float32))


@pytest.mark.parametrize("shape", [(15, 15), (17, 17), (16, 15), (0, 0)])
def test_a_rotation_of_another_tail_is_our_own_bug(shape: tuple[int, int]) -> None:
    with pytest.raises(AssertionError):
        sketch_of(8, 24, np.zeros(shape, np.float32))


# --- the look-up tables ---------------------------------------------------------------------------


def naive_dot(bits: Bytes, rotated_query: list[float]) -> float:
    """The signs of one row against the query, one by one: bit j of byte i is dimension 8 i + j."""
    total = 0.0
    for dim, value in enumerate(rotated_query):
        is_set = int(bits[dim // 8]) >> (7 - dim % 8) & 1
        total += value if is_set else -value
    return total


@given(data=st.data(), tail_dim=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_byte_tables_agree_with_an_unpacked_dot_product(
    data: st.DataObject, tail_dim: int, seed: int
) -> None:
    """Any bytes at all, also such as set the bits that pad the last one."""
    count, groups = data.draw(st.integers(0, 4)), -(-tail_dim // 8)
    drawn = data.draw(st.binary(min_size=count * groups, max_size=count * groups))
    bits = np.frombuffer(drawn, np.uint8).reshape(count, groups)
    query = mrl_like(1, 3 + tail_dim, seed, decay=0.0)[0]
    rotation = random_rotation(tail_dim, seed)
    dots = table_dots(sketch_of(3, 3 + tail_dim, rotation).query(query), bits, tail_dim)
    rotated = (rotation.astype(np.float64) @ query[3:].astype(np.float64)).tolist()
    assert dots == pytest.approx([naive_dot(row, rotated) for row in bits], abs=1e-5)


def table_dots(query: SketchQuery, bits: Bytes, tail_dim: int) -> Floats:
    """<R q_t, signs>, taken out of a bound whose every other part is 1 or 0."""
    ones, zeros = np.ones(len(bits), np.float16), np.zeros(len(bits), np.float32)
    columns = SketchColumns(bits, zeros.astype(np.float16), ones, ones)
    estimates, _ = query.bound(zeros, zeros, columns, 0.0)
    return estimates * np.float32(math.sqrt(tail_dim))


def test_every_byte_has_its_own_entry_in_the_table() -> None:
    query = mrl_like(1, 11, seed=47, decay=0.0)[0]
    sketch = sketch_of(3, 11, np.eye(8, dtype=np.float32))
    every_byte = np.arange(256, dtype=np.uint8)[:, None]
    naive = [naive_dot(row, query[3:].tolist()) for row in every_byte]
    assert table_dots(sketch.query(query), every_byte, 8) == pytest.approx(naive, abs=1e-6)
    assert len(set(naive)) == 256


def test_half_precision_is_all_that_a_bound_takes_from_a_column() -> None:
    """A norm off by one unit of fp16 moves the estimate by less than the slack allows for."""
    vectors = as_stored(mrl_like(50, 64, seed=48))
    sketch = sketch_of(32, 64, random_rotation(32, seed=49))
    columns = sketch.encode(vectors)
    nudged = replace(columns, tail_norms=np.nextafter(columns.tail_norms, np.float16(2)))
    query = sketch.query(mrl_like(1, 64, seed=50)[0])
    zeros = np.zeros(50, np.float32)
    estimates, slack = query.bound(zeros, zeros, columns, 0.0)
    moved, _ = query.bound(zeros, zeros, nudged, 0.0)
    assert (np.abs(moved - estimates) <= 2 * slack).all()
    assert (moved != estimates).any()


# --- rotations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 5, 64, pytest.param(512, marks=takes_long)])
def test_a_rotation_keeps_lengths_and_angles(dim: int) -> None:
    rotation = random_rotation(dim, seed=51)
    assert (rotation.shape, rotation.dtype) == ((dim, dim), np.dtype(np.float32))
    assert rotation @ rotation.T == pytest.approx(np.eye(dim), abs=1e-5)


def test_a_rotation_of_no_dimensions_is_none() -> None:
    assert random_rotation(0, seed=52).shape == (0, 0)


def test_a_seed_makes_one_rotation_and_another_seed_another() -> None:
    assert np.array_equal(random_rotation(16, seed=53), random_rotation(16, seed=53))
    assert not np.allclose(random_rotation(16, seed=53), random_rotation(16, seed=54), atol=0.1)


def test_the_names_that_the_store_keeps_draws_under_are_pinned() -> None:
    assert dither_name(256) == "dither:256"
    assert rotation_name(256) == "rotation:256"


def test_rotations_favour_no_direction() -> None:
    """QR alone gives a diagonal of one sign; uniform ones have mean 0 and variance 1 / dim."""
    rotations = np.array([random_rotation(4, seed) for seed in range(2000)], np.float64)
    standard_error = math.sqrt(1 / 4 / 2000)
    assert np.abs(rotations.mean(axis=0)).max() < 4.5 * standard_error
    assert np.square(rotations).mean(axis=0) == pytest.approx(0.25, abs=0.03)
    mirrored = (np.linalg.det(rotations) < 0).mean()
    assert 0.45 < mirrored < 0.55
