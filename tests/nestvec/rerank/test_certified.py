"""No certificate is false more often than it states, over the draws that all bounds rest on.

Every draw of rotation and dither makes a tier of its own, of documents and queries that stay. The
bounds are narrow, so that failures do happen: of wide ones none would be seen, whatever was stated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.tier import Tier
from nestvec.core.arrays import Floats
from nestvec.core.certificate import Certificate
from nestvec.core.ports import RerankQuery
from nestvec.core.scoring import exact_top
from nestvec.core.sketch import TailSketch, random_dither, random_rotation
from nestvec.rerank.app import RerankApp
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.long_runs import takes_long
from tests.support.rooms import PATIENT_S, FaultyStore, a_collection, created, written

FULL, DOCUMENTS, QUERIES = 64, 80, 4
NONE = np.empty(0, np.int64)
LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5, 0.9)


def weighted(seed: int, head: int, in_head: float, in_tail: float) -> Floats:
    weights = np.repeat(np.array([in_head, in_tail], np.float32), [head, FULL - head])
    return unit(mrl_like(DOCUMENTS, FULL, seed) * weights)


# By what makes them hard: the tier's dimension, and the documents.
CORPORA: dict[str, tuple[int, Floats]] = {
    "as a model's": (16, mrl_like(DOCUMENTS, FULL, 1)),
    "all in the tail": (16, weighted(2, 16, 0.02, 1.0)),
    "all in the head": (16, weighted(3, 16, 1.0, 1e-3)),
    "near duplicates": (16, unit(mrl_like(1, FULL, 4) + 0.7 * mrl_like(DOCUMENTS, FULL, 5))),
    "a tail of three": (61, weighted(6, 61, 0.05, 1.0)),
    "a tail of two": (62, weighted(7, 62, 0.05, 1.0)),
    "no tail": (64, unit(mrl_like(1, FULL, 8) + 0.3 * mrl_like(DOCUMENTS, FULL, 9))),
}


@dataclass(frozen=True)
class Outcome:
    """Of one answer that was certified over the collection."""

    stated: float
    wrong: bool


async def outcomes(name: str, draws: int, k: int, z: float) -> list[Outcome]:
    dim, documents = CORPORA[name]
    store = FaultyStore()
    # Its own tiers matter to nobody here: a model is not trained at 61 dimensions.
    collection = await created(store, a_collection())
    ids = await written(store, collection, documents)
    stored = collection.codec.round_trip(documents)
    # Between two documents, so that the second may well be the first.
    pairs = stored[: 2 * QUERIES].reshape(QUERIES, 2, FULL).sum(axis=1)
    queries = unit(pairs + 0.2 * mrl_like(QUERIES, FULL, 11))
    app = RerankApp(store)
    found = []
    for draw in range(draws):
        rotation = random_rotation(FULL - dim, (draw, 1))
        sketch = TailSketch(dim, FULL, rotation, random_dither(dim, (draw, 2)))
        tier = Tier(dim, sketch, NumpyFactory())
        tier.apply(CoarseRows(ids, stored, NONE))
        hits, _, _ = tier.search(queries, DOCUMENTS // 2, z, certified_k=k)
        for query, mine in zip(queries, hits, strict=True):
            asked = RerankQuery(query, mine, k, z)
            answer = await app.rerank(collection, asked, PATIENT_S)
            if answer.certificate is Certificate.COLLECTION:
                wrong = answer.scores[:k].tolist() != exact_top(query, stored, k)[1].tolist()
                found.append(Outcome(answer.failure_probability, wrong))
    return found


def check(found: list[Outcome], asked: int) -> None:
    """At each level: wrong answers that claim so little, against what that level allows, and four
    standard errors.
    """
    assert len(found) > 0.5 * asked, "the bounds were good enough to be relied on"
    for level in LEVELS:
        wrong = sum(one.wrong and one.stated <= level for one in found)
        assert wrong <= level * asked + 4 * np.sqrt(level * asked), level
    wrong = sum(one.wrong for one in found)
    stated = sum(one.stated for one in found)
    assert wrong <= stated + 4 * np.sqrt(stated) + 1


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_no_certificate_is_false_more_often_than_it_states(name: str) -> None:
    for k, z in ((1, 0.5), (3, 1.5)):
        found = asyncio.run(outcomes(name, 15, k, z))
        check(found, 15 * QUERIES)


@takes_long
@pytest.mark.parametrize("name", sorted(CORPORA))
@pytest.mark.parametrize(("k", "z"), [(1, 0.5), (1, 1.0), (3, 1.5), (10, 2.5)])
def test_over_many_draws_too(name: str, k: int, z: float) -> None:
    check(asyncio.run(outcomes(name, 1500, k, z)), 1500 * QUERIES)


def test_narrow_bounds_do_fail() -> None:
    """So that the tests above can."""
    found = asyncio.run(outcomes("all in the tail", 40, 1, 0.5))
    assert sum(one.wrong for one in found) >= 5
