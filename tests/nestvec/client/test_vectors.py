"""numpy vectors on their way out."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.client import as_query_vector, normalise
from nestvec.core.errors import DegenerateVector, InvalidRequest
from nestvec.core.space import Recipe, Space
from nestvec.core.tiers import prepare

PLAIN = Space("plain", 8, trained_dims=(4, 8))
NORMED = Space("normed", 8, trained_dims=(4, 8), recipe=Recipe(layer_norm=True))
RAW = np.random.default_rng(0).standard_normal((5, 8)) * 9 + 2


@pytest.mark.parametrize("space", [PLAIN, NORMED])
def test_normalise_applies_the_recipe_to_one_vector_as_to_many(space: Space) -> None:
    many = normalise(RAW, space)
    assert many.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(many, prepare(RAW.astype(np.float32), space), atol=1e-6)
    for row, alone in zip(many, RAW, strict=True):
        np.testing.assert_allclose(normalise(alone, space), row, atol=1e-6)


def test_what_normalise_gives_is_accepted_as_a_query_and_raw_output_is_not() -> None:
    assert as_query_vector(normalise(RAW[0], NORMED), NORMED).shape == (8,)
    with pytest.raises(InvalidRequest, match="layer-norm, then L2"):
        as_query_vector(RAW[0], NORMED)
    # Without a space, only the shape can be judged.
    assert as_query_vector(RAW[0]).dtype == np.float32


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8)), np.zeros(0), np.array("text"), np.array([1j] * 8)]
)
def test_what_is_no_vector_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InvalidRequest):
        as_query_vector(bad)


def test_nothing_can_be_made_of_a_vector_without_direction() -> None:
    for bad in (np.zeros(8), np.full(8, np.nan)):
        with pytest.raises(DegenerateVector):
            normalise(bad, PLAIN)
    with pytest.raises(InvalidRequest, match="7 dimensions, expected 8"):
        normalise(np.ones(7), PLAIN)
