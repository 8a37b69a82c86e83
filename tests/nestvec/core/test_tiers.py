"""A cut is renormalised, or it is refused."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.arrays import Floats
from nestvec.core.errors import DegenerateVector, InvalidRequest, TierNotTrained
from nestvec.core.space import Recipe, Space
from nestvec.core.tiers import accept_vectors, nearest_tier, prepare, require_trained, truncate
from tests.nestvec.core.synthetic import mrl_like

SPACE = Space("some-mrl", 8, trained_dims=(2, 4, 8))
NORMED = Space("some-mrl", 8, trained_dims=(2, 4, 8), recipe=Recipe(layer_norm=True))
NO_CARD = Space("no-card", 8)

coordinates = st.floats(-1, 1, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
raw_rows = st.lists(st.lists(coordinates, min_size=8, max_size=8).filter(any), max_size=4)


def matrix(rows: Sequence[Sequence[float]], dim: int = 8) -> Floats:
    return np.array(rows, np.float32).reshape(len(rows), dim)


def naive_unit(row: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in row))
    return [value / length for value in row]


def naive_layer_norm(row: Sequence[float]) -> list[float]:
    mean = math.fsum(row) / len(row)
    variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in row]


def assert_unit_rows(vectors: Floats, shape: tuple[int, int]) -> None:
    assert vectors.shape == shape
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors.astype(np.float64), axis=1) == pytest.approx(1.0, abs=1e-6)


# --- which tiers there are ------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [-2, 0, 1, 3, 5, 7, 9, 16])
def test_an_untrained_tier_is_refused_everywhere(dim: int) -> None:
    with pytest.raises(TierNotTrained, match=rf"^dim: tier {dim} .*trained: 2, 4, 8"):
        require_trained(dim, SPACE)
    with pytest.raises(TierNotTrained):
        truncate(mrl_like(3, 8, seed=1), dim, SPACE)


def test_the_refusal_names_the_field_it_was_asked_in() -> None:
    with pytest.raises(TierNotTrained) as caught:
        require_trained(3, SPACE, "query.coarse_dim")
    assert caught.value.field == "query.coarse_dim"


@pytest.mark.parametrize("dim", [2, 4, 8])
def test_a_trained_tier_is_handed_back(dim: int) -> None:
    assert require_trained(dim, SPACE) == dim


def test_a_model_without_a_card_has_one_tier() -> None:
    assert require_trained(8, NO_CARD) == 8
    with pytest.raises(TierNotTrained, match="measure its tiers first"):
        require_trained(4, NO_CARD)


@given(st.integers(-3, 20))
def test_the_nearest_tier_is_the_smallest_that_is_no_worse(wanted: int) -> None:
    no_worse = [dim for dim in SPACE.trained_dims if dim >= wanted]
    assert nearest_tier(wanted, SPACE) == min(no_worse, default=SPACE.dim)


# --- truncate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 4, 8])
@given(seed=st.integers(0, 2**32), count=st.integers(0, 5))
def test_a_cut_is_the_prefix_at_unit_length(dim: int, seed: int, count: int) -> None:
    vectors = mrl_like(count, 8, seed)
    cut = truncate(vectors, dim, SPACE)
    assert_unit_rows(cut, (count, dim))
    naive = [naive_unit(row[:dim]) for row in vectors.tolist()]
    assert cut == pytest.approx(matrix(naive, dim), abs=1e-6)


@given(st.integers(0, 2**32))
def test_a_cut_of_a_cut_is_the_shorter_cut(seed: int) -> None:
    vectors = mrl_like(3, 8, seed)
    twice = truncate(truncate(vectors, 4, SPACE), 2, SPACE)
    assert twice == pytest.approx(truncate(vectors, 2, SPACE), abs=1e-6)


def test_the_full_tier_changes_no_bit() -> None:
    vectors = mrl_like(3, 8, seed=2)
    assert np.array_equal(truncate(vectors, 8, SPACE), vectors)


def test_a_cut_does_not_depend_on_the_other_rows() -> None:
    vectors = mrl_like(50, 8, seed=3)
    together = truncate(vectors, 4, SPACE)
    alone = [truncate(vectors[row : row + 1], 4, SPACE)[0] for row in range(50)]
    assert np.array_equal(together, alone)


def test_a_cut_is_contiguous_and_leaves_its_source_alone() -> None:
    vectors = mrl_like(3, 8, seed=4)
    before = vectors.copy()
    cut = truncate(vectors, 4, SPACE)
    cut[:] = 0
    assert cut.flags.c_contiguous
    assert np.array_equal(vectors, before)


@pytest.mark.parametrize("head", [0.0, 1e-8, 5e-5])
def test_a_prefix_with_no_direction_is_refused_with_its_row_and_length(head: float) -> None:
    rows = [[1.0] + [0.0] * 7, [head, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    with pytest.raises(DegenerateVector, match=r"^vector: row 1 has length .* its first 4 dim"):
        truncate(matrix(rows), 4, SPACE)


def test_the_shortest_prefix_with_a_direction_is_kept() -> None:
    short = truncate(matrix([[0.0, 2e-4] + [0.0] * 5 + [1.0]]), 4, SPACE)
    assert short.tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_prefix_is_refused_not_passed_on(broken: float) -> None:
    rows = [[1.0] + [0.0] * 7, [broken] + [1.0] * 7]
    with np.errstate(all="ignore"), pytest.raises(DegenerateVector):
        truncate(matrix(rows), 4, SPACE)


# --- prepare --------------------------------------------------------------------------------------


@given(raw_rows)
def test_raw_output_becomes_unit_rows(rows: list[list[float]]) -> None:
    prepared = prepare(matrix(rows), SPACE)
    assert_unit_rows(prepared, (len(rows), 8))
    assert prepared == pytest.approx(matrix([naive_unit(row) for row in rows]), abs=1e-6)


@given(raw_rows)
def test_a_layer_norm_comes_before_the_unit_length(rows: list[list[float]]) -> None:
    rows = [row for row in rows if max(row) - min(row) > 0.01]
    prepared = prepare(matrix(rows), NORMED)
    assert_unit_rows(prepared, (len(rows), 8))
    naive = [naive_unit(naive_layer_norm(row)) for row in rows]
    assert prepared == pytest.approx(matrix(naive), abs=1e-4)
    assert prepared.sum(axis=1) == pytest.approx(0.0, abs=1e-4)


def test_the_layer_norm_changes_the_direction() -> None:
    """So that leaving it out, or doing it twice on prefixes, cannot pass for the same."""
    raw = mrl_like(3, 8, seed=5) + np.float32(0.3)
    assert not np.allclose(prepare(raw, NORMED), prepare(raw, SPACE), atol=0.05)


@pytest.mark.parametrize("space", [SPACE, NORMED], ids=["l2", "layer-norm"])
@given(scale=st.sampled_from([0.01, 0.5, 1.0, 100.0, 1e4]), seed=st.integers(0, 2**32))
def test_the_scale_of_raw_output_means_nothing(space: Space, scale: float, seed: int) -> None:
    raw = mrl_like(3, 8, seed)
    scaled = raw * np.float32(scale)
    assert prepare(scaled, space) == pytest.approx(prepare(raw, space), abs=1e-5)


@pytest.mark.parametrize("space", [SPACE, NORMED], ids=["l2", "layer-norm"])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e15, 1e19, 1e25, 1e38])
def test_finite_output_of_any_size_becomes_unit_rows_or_is_refused(
    space: Space, scale: float
) -> None:
    """float32 squares overflow at 1.8e19: what then leaves must not be a row of zeros or NaN."""
    raw = mrl_like(3, 8, seed=6) * np.float32(scale)
    try:
        prepared = prepare(raw, space)
    except DegenerateVector:
        return
    assert_unit_rows(prepared, (3, 8))


@pytest.mark.parametrize("space", [SPACE, NORMED], ids=["l2", "layer-norm"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_refused(space: Space, broken: float) -> None:
    raw = mrl_like(3, 8, seed=7)
    raw[1, 5] = broken
    with pytest.raises(DegenerateVector, match=r"^texts: NaN or infinite values") as caught:
        prepare(raw, space, "texts")
    assert caught.value.field == "texts"


def test_a_zero_row_is_refused_by_its_number() -> None:
    raw = mrl_like(3, 8, seed=8)
    raw[2] = 0
    with pytest.raises(DegenerateVector, match="row 2 has length 0 over its first 8 dimensions"):
        prepare(raw, SPACE)


@pytest.mark.parametrize("dim", [7, 100, 768, 1024])
@pytest.mark.parametrize("constant", [0.1, 1.0, -33.3, 999.7, 1e6])
def test_a_constant_row_has_no_direction_after_a_layer_norm(dim: int, constant: float) -> None:
    """The mean's rounding error must not be blown up into a direction."""
    raw = np.full((1, dim), constant, np.float32)
    with pytest.raises(DegenerateVector):
        prepare(raw, Space("some-mrl", dim, recipe=Recipe(layer_norm=True)))


@pytest.mark.parametrize("space", [SPACE, NORMED], ids=["l2", "layer-norm"])
def test_no_output_prepares_to_no_vectors(space: Space) -> None:
    assert_unit_rows(prepare(matrix([]), space), (0, 8))


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((3, 7), "7 dimensions, expected 8"),
        ((3, 9), "9 dimensions, expected 8"),
        ((0, 7), "7 dimensions, expected 8"),
        ((8,), r"shape \(8,\) dimensions, expected 8"),
        ((1, 3, 8), r"shape \(1, 3, 8\) dimensions, expected 8"),
    ],
)
def test_another_shape_is_refused(shape: tuple[int, ...], complaint: str) -> None:
    for check in (prepare, accept_vectors):
        with pytest.raises(InvalidRequest, match=f"^vector: {complaint}"):
            check(np.ones(shape, np.float32), SPACE)


@pytest.mark.parametrize("space", [SPACE, NORMED], ids=["l2", "layer-norm"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_are_prepared_to_float32(space: Space, dtype: type) -> None:
    raw: Floats = mrl_like(3, 8, seed=9).astype(dtype)
    prepared = prepare(raw, space)
    assert_unit_rows(prepared, (3, 8))
    assert prepared == pytest.approx(prepare(raw.astype(np.float32), space), abs=1e-6)


@pytest.mark.parametrize("space", [SPACE, NORMED], ids=["l2", "layer-norm"])
def test_preparing_leaves_its_source_alone(space: Space) -> None:
    raw = mrl_like(3, 8, seed=10) * np.float32(3)
    before = raw.copy()
    prepare(raw, space)
    assert np.array_equal(raw, before)


# --- accept_vectors -------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 768, 4096])
def test_what_was_accepted_once_is_accepted_again_to_the_last_bit(dim: int) -> None:
    space = Space("long", dim, trained_dims=(dim,))
    vectors = mrl_like(200, dim, seed=21)
    assert accept_vectors(vectors, space).tolist() == vectors.tolist()
    lengths = np.linspace(0.991, 1.009, 200, dtype=np.float32)[:, None]
    once = accept_vectors(vectors * lengths, space)
    assert accept_vectors(once, space).tolist() == once.tolist()
    assert np.linalg.norm(once.astype(np.float64), axis=1) == pytest.approx(1.0, abs=1e-6)
    # Whatever stands beside it.
    assert accept_vectors(once[:1], space).tolist() == once[:1].tolist()


@given(st.integers(0, 2**32), st.floats(-0.009, 0.009))
def test_rounding_is_mended(seed: int, error: float) -> None:
    vectors = mrl_like(3, 8, seed)
    accepted = accept_vectors(vectors * np.float32(1 + error), SPACE)
    assert_unit_rows(accepted, (3, 8))
    assert accepted == pytest.approx(vectors, abs=1e-6)


def test_what_fp16_does_to_long_vectors_is_rounding() -> None:
    space = Space("long", 4096)
    halved = mrl_like(20, 4096, seed=11).astype(np.float16).astype(np.float32)
    assert_unit_rows(accept_vectors(halved, space), (20, 4096))


@pytest.mark.parametrize("length", [1e-3, 0.5, 0.98, 1.02, 17.0, 1e18, 1e30])
def test_a_length_clearly_off_one_is_refused_with_the_recipe(length: float) -> None:
    vectors = mrl_like(3, 8, seed=12)
    vectors[1] *= np.float32(length)
    with (
        np.errstate(all="ignore"),
        pytest.raises(InvalidRequest, match=r"^vector: vector of length .*expected unit") as plain,
    ):
        accept_vectors(vectors, SPACE)
    with np.errstate(all="ignore"), pytest.raises(InvalidRequest) as normed:
        accept_vectors(vectors, NORMED)
    assert "recipe (L2)" in str(plain.value)
    assert "recipe (layer-norm, then L2)" in str(normed.value)
    assert "or send the text" in str(plain.value)


def test_the_vector_furthest_off_is_the_one_named() -> None:
    vectors = np.eye(4, 8, dtype=np.float32) * matrix([[1.0], [0.95], [3.0], [1.5]], 1)
    with pytest.raises(InvalidRequest, match="vector of length 3, expected unit length"):
        accept_vectors(vectors, SPACE)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused(broken: float) -> None:
    vectors = mrl_like(3, 8, seed=13)
    vectors[2, 0] = broken
    with pytest.raises(DegenerateVector, match=r"^query.vector: NaN or infinite"):
        accept_vectors(vectors, SPACE, "query.vector")


def test_a_zero_vector_is_refused() -> None:
    with pytest.raises(DegenerateVector, match="zero vector"):
        accept_vectors(np.zeros((1, 8), np.float32), SPACE)


def test_no_vectors_are_accepted_as_no_vectors() -> None:
    assert_unit_rows(accept_vectors(matrix([]), SPACE), (0, 8))


def test_a_caller_may_send_a_cut_where_that_is_what_is_asked() -> None:
    cut = truncate(mrl_like(3, 8, seed=15), 4, SPACE)
    assert accept_vectors(cut, SPACE, dim=4) == pytest.approx(cut, abs=1e-6)
    with pytest.raises(InvalidRequest, match="8 dimensions, expected 4"):
        accept_vectors(mrl_like(3, 8, seed=15), SPACE, dim=4)


def test_a_raw_slice_that_was_never_renormalised_is_refused() -> None:
    """The commonest mistake with MRL vectors: it would search, and rank wrongly."""
    sliced = mrl_like(3, 8, seed=15)[:, :4]
    with pytest.raises(InvalidRequest, match="expected unit length"):
        accept_vectors(sliced, SPACE, dim=4)


def test_accepting_leaves_its_source_alone() -> None:
    vectors = mrl_like(3, 8, seed=14) * np.float32(1.001)
    before = vectors.copy()
    accept_vectors(vectors, SPACE)
    assert np.array_equal(vectors, before)
