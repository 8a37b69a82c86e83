from __future__ import annotations

import numpy as np
import pytest

from nestvec.core.arrays import Floats
from nestvec.quality.matryoshka import decide, measure_dims
from nestvec.quality.subsets import Sample, asymmetric, energy, first, shared, top_rows, unit
from tests.support.long_runs import LONG

DIM = 96


def vectors(count: int, decay: float, seed: int = 0) -> Floats:
    """Topics with noise, whose coordinates matter less and less where `decay` is not 0."""
    generator = np.random.default_rng(seed)
    topics = generator.normal(size=(40, DIM))
    rows = topics[generator.integers(40, size=count)] + generator.normal(0.0, 0.8, (count, DIM))
    rows *= np.arange(1, DIM + 1) ** -decay
    return unit(rows.astype(np.float32))


def a_sample(decay: float, seed: int = 0) -> Sample:
    rows = vectors(600, decay, seed)
    return Sample(rows[500:], rows[:500])


def test_a_model_with_what_matters_first_is_matryoshka() -> None:
    verdict = decide(DIM, measure_dims(a_sample(0.7), (16, 32, 64), draws=99), (16, 32, 64, DIM))
    assert verdict.mrl
    assert verdict.tiers == (16, 32, 64, DIM)
    assert verdict.unconfirmed == ()
    assert verdict.monotone
    assert verdict.summary.startswith("Matryoshka: its first 16 ")


@pytest.mark.parametrize("seed", range(8 if LONG else 3))
def test_a_model_without_order_is_not(seed: int) -> None:
    claimed = (16, 32, 64, DIM)
    tests = measure_dims(a_sample(0.0, seed), (16, 32, 64), draws=99, seed=seed)
    verdict = decide(DIM, tests, claimed)
    assert not verdict.mrl
    assert verdict.tiers == (DIM,)
    assert verdict.unconfirmed == (16, 32, 64)
    # What fools whoever only looks whether a prefix still works:
    assert verdict.tests[-1].first > 0.5


def test_a_model_turned_round_is_not() -> None:
    sample = a_sample(0.7)
    turned = Sample(
        np.ascontiguousarray(sample.queries[:, ::-1]),
        np.ascontiguousarray(sample.documents[:, ::-1]),
    )
    verdict = decide(DIM, measure_dims(turned, (16, 32), draws=49))
    assert not verdict.mrl
    assert all(test.over_last.high < 0.0 for test in verdict.tests)


def test_without_a_claim_only_what_serves_is_a_tier() -> None:
    tests = measure_dims(a_sample(0.7), (2, 32), draws=99)
    assert tests[0].confirmed
    assert not tests[0].serves
    assert decide(DIM, tests).tiers == (32, DIM)


def test_holm_corrects_for_the_number_of_dimensions() -> None:
    alone = measure_dims(a_sample(0.7), (32,), draws=19)
    among = measure_dims(a_sample(0.7), (16, 32, 48), draws=19)
    assert alone[0].p_value == pytest.approx(1 / 20)
    assert [one.p_value for one in among] == pytest.approx([3 / 20] * 3)
    assert alone[0].confirmed
    assert not among[0].confirmed  # so few draws cannot tell three dimensions from chance


def test_the_same_seed_gives_the_same_verdict() -> None:
    first_time = measure_dims(a_sample(0.7), (16,), draws=19, seed=3)
    assert measure_dims(a_sample(0.7), (16,), draws=19, seed=3) == first_time


# --- subsets ------------------------------------------------------------------------------------


def test_all_coordinates_agree_with_themselves() -> None:
    sample = a_sample(0.3)
    assert sample.agreement(sample.scores(first(DIM))).tolist() == [1.0] * 100


def test_agreement_is_what_sorting_gives() -> None:
    sample = a_sample(0.3)
    prefix = unit(sample.documents[:, :20])
    got = sample.agreement(sample.scores(first(20)))
    for query, share in zip(sample.queries, got, strict=True):
        full = np.argsort(-(sample.documents @ query))[:10]
        short = np.argsort(-(prefix @ query[:20]))[:10]
        assert share == pytest.approx(len(set(full) & set(short)) / 10, abs=0.11)


def test_parts_share_nothing() -> None:
    sample = a_sample(0.3)
    parts = sample.parts(4)
    assert sum(len(part.documents) for part in parts) == 500
    rows = {row.tobytes() for part in parts for row in part.documents}
    assert len(rows) == 500


def test_energy_adds_up_and_lies_in_front() -> None:
    shares = energy(a_sample(0.7), (16, 48, DIM))
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
    assert list(shares) == ["0-16", "16-48", "48-96"]
    assert shares["0-16"] > shares["16-48"] + shares["48-96"]


def test_asymmetric_tiers_agree_on_the_diagonal_with_symmetric_ones() -> None:
    sample = a_sample(0.7)
    grid = asymmetric(sample, (16, DIM))
    assert grid["16"]["16"] == pytest.approx(sample.agreement(sample.scores(first(16))).mean())
    assert grid["96"]["96"] == 1.0
    # A longer query has the same order over a shorter document: only its own length changes.
    assert grid["96"]["16"] == pytest.approx(grid["16"]["16"])


def test_the_top_of_few_documents_is_all_of_them() -> None:
    scores = np.array([[0.1, 0.3, 0.2]], np.float32)
    assert sorted(top_rows(scores, 10)[0].tolist()) == [0, 1, 2]
    assert shared(np.array([[0, 1]]), np.array([[1, 2]])).tolist() == [0.5]
