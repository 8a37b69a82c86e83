"""What queries share with their documents comes first, whatever else varies more."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import ConfigError

pytest.importorskip("scipy")

from nestvec.training.alignment import align
from nestvec.training.pooling import mean_matrix, unit_means

TOPICS, WORDS, DIM = 30, 20, 8


def found_at_first(table: Floats, queries: list[Ids], documents: list[Ids], dim: int) -> float:
    """The share of queries whose own document is nearest by their first dimensions."""
    left, right = (
        unit_means(mean_matrix(side, len(table)), table[:, :dim]) for side in (queries, documents)
    )
    return float(((left @ right.T).argmax(axis=1) == np.arange(len(queries))).mean())


def shared_and_noise() -> tuple[Floats, list[Ids], list[Ids]]:
    """A token's last two dimensions are its topic's, of which a pair shares one; the first six vary
    five times as much, and tell nothing.
    """
    generator = np.random.default_rng(3)
    angle = 2 * np.pi * np.arange(TOPICS) / TOPICS
    topics = np.repeat(np.stack([np.cos(angle), np.sin(angle)], axis=1), WORDS, axis=0)
    noise = 5.0 * generator.standard_normal((TOPICS * WORDS, DIM - 2))
    table = np.concatenate([noise, topics], axis=1).astype(np.float32)
    words = np.arange(TOPICS * WORDS).reshape(TOPICS, WORDS)
    pairs = [generator.permutation(row) for row in words for _ in range(4)]
    return table, [row[:10] for row in pairs], [row[10:] for row in pairs]


def test_a_prefix_finds_what_the_whole_finds() -> None:
    table, queries, documents = shared_and_noise()
    aligned = align(table, queries, documents, shrink=1e-3)
    asked, answers = queries[::4], documents[::4]
    before = found_at_first(table, asked, answers, 2)
    after = found_at_first(aligned, asked, answers, 2)
    assert before < 0.3
    assert after > 0.7


def test_columns_come_by_falling_spread() -> None:
    table, queries, documents = shared_and_noise()
    aligned = align(table, queries, documents, power=0.5)
    assert aligned.shape == table.shape
    assert aligned.dtype == np.float32
    both = unit_means(mean_matrix(queries + documents, len(table)), table)
    turned = (both - both.mean(axis=0)) @ np.linalg.lstsq(table, aligned, rcond=None)[0]
    spread = turned.std(axis=0)
    assert (np.diff(spread) <= 0.05 * spread[0]).all()


def test_a_column_has_one_sign() -> None:
    """An eigenvector may come as its opposite, as threads finish; the table may not."""
    table, queries, documents = shared_and_noise()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(queries))
        asked, answers = ([side[row] for row in order] for side in (queries, documents))
        directions = np.linalg.lstsq(table, align(table, asked, answers), rcond=None)[0]
        largest = np.abs(directions).argmax(axis=0)
        assert (directions[largest, np.arange(DIM)] > 0).all()


def test_nothing_is_lost_without_a_power() -> None:
    table, queries, documents = shared_and_noise()
    aligned = align(table, queries, documents, power=0.0)
    # A turn and a scaling can be undone.
    assert np.linalg.matrix_rank(aligned) == np.linalg.matrix_rank(table)


def test_too_few_pairs_are_refused() -> None:
    table, queries, documents = shared_and_noise()
    with pytest.raises(ConfigError, match="7 queries and 7 documents cannot align 8 dimensions"):
        align(table, queries[:7], documents[:7])
    with pytest.raises(ConfigError, match="120 queries and 119 documents"):
        align(table, queries, documents[:-1])
