"""The fake keeps what tests rely on."""

from __future__ import annotations

import numpy as np

from nestvec.adapters.models.memory import HashModel
from nestvec.core.space import Prompts, Recipe

# Of "one two" at 8 dimensions. A change here changes what every stored test vector means.
EXPECTED = [-0.310394, 0.095819, 0.113312, 0.002682, 0.277602, 0.110391, -0.097925, 0.079655]


def test_its_vectors_never_change_between_versions() -> None:
    row = HashModel(8).embed(["one two"])[0]
    np.testing.assert_allclose(row, EXPECTED, atol=1e-6)


def test_a_prefix_holds_most_of_the_energy() -> None:
    rows = HashModel(256).embed([f"word{number}" for number in range(500)])
    energy = np.square(rows).mean(axis=0)
    assert 0.6 < energy[:64].sum() / energy.sum() < 0.9


def test_its_tiers_are_halves_unless_told_otherwise() -> None:
    assert HashModel(64).space.trained_dims == (8, 16, 32, 64)
    assert HashModel(6).space.trained_dims == (6,)
    assert HashModel(64, (32, 64)).space.trained_dims == (32, 64)


def test_prompts_and_recipe_are_part_of_its_space() -> None:
    plain = HashModel(16).space
    assert HashModel(16, prompts=Prompts("q: ")).space.fingerprint != plain.fingerprint
    assert HashModel(16, recipe=Recipe(layer_norm=True)).space.fingerprint != plain.fingerprint


def test_a_text_without_words_is_a_zero_row() -> None:
    assert not HashModel(16).embed([" \n"]).any()
