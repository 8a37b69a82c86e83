"""What cannot be sized, and why."""

from __future__ import annotations

from typing import Any

import pytest

from nestvec.core.codes import CoarseCode
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import InvalidRequest, TierNotTrained
from nestvec_cluster.sizing.plan import GIB, Store, documents_like, documents_of, spread
from tests.nestvec_cluster.sizing.conftest import MakePlan


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"shards": 0}, "shards: 0, expected 1 to 64"),
        ({"shards": 65}, "shards: 65, expected 1 to 64"),
        ({"replicas": 0}, "replicas: 0, expected 1"),
        ({"front_ends": 0}, "front_ends: 0"),
        ({"regions": 0}, "regions: 0"),
        ({"prefix_regions": -1}, "prefix_regions: -1"),
        ({"writes": -1}, "writes: -1"),
        ({"pod": 128 * GIB, "node": 64 * GIB}, "pod: 137,438,953,472"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    a_plan: MakePlan, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        a_plan(**changed)
    assert str(raised.value).startswith(says)


def test_an_untrained_tier_is_refused(a_plan: MakePlan) -> None:
    with pytest.raises(TierNotTrained, match="tier 100 was not trained"):
        a_plan(collection={"tiers": (100,)})
    with pytest.raises(TierNotTrained, match="tier 100"):
        a_plan(prefix_regions=1, prefix_dim=100)


def test_a_tier_longer_than_what_is_stored_is_refused(a_plan: MakePlan) -> None:
    with pytest.raises(InvalidRequest, match="longer than the 256 dimensions"):
        a_plan(collection={"store_dim": 256, "tiers": (512,)})


def test_a_code_that_does_not_divide_a_tier_is_refused() -> None:
    from nestvec.core.collection import Collection
    from nestvec.core.space import Space
    from nestvec_cluster.sizing.plan import Plan

    odd = Space("odd", 20, trained_dims=(10, 20))
    collection = Collection("docs", odd, 20, (10,), coarse_code=CoarseCode.PQ)
    with pytest.raises(InvalidRequest, match="pq does not divide a prefix of 10 dimensions"):
        Plan(collection, documents_like(10, 8, 8))


def test_a_store_without_a_primary_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="primaries: 0"):
        Store(primaries=0)


@pytest.mark.parametrize("lengths", [(0.0, 10.0), (8.0, -1.0), (600.0, 10.0)])
def test_lengths_that_no_document_has_are_refused(lengths: tuple[float, float]) -> None:
    with pytest.raises(InvalidRequest):
        documents_like(10, *lengths)


def test_no_documents_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="documents: 0, expected 1"):
        documents_like(0, 8, 8)


def test_a_sample_gives_the_lengths_of_real_payloads() -> None:
    some = [Document("a", "one"), Document("ünï", "two words", {"year": 1999})]
    found = documents_of(500, some)
    assert found.ids == (1, 5)
    assert found.payloads == tuple(len(payload_to_bytes(one)) for one in some)


def test_means_stand_for_lengths_around_them() -> None:
    found = documents_like(500, 12, 100)
    exact = len(payload_to_bytes(Document("x" * 12, "y" * 100)))
    assert found.payload_bytes == pytest.approx(exact)
    assert min(spread(100)) == 50
    assert max(spread(100)) == 150


def test_texts_and_fields_are_wider_in_python_than_as_bytes() -> None:
    latin, greek = (documents_of(1, [Document("a", one * 1000)]) for one in ("x", "λ"))
    assert latin.width == 1.0
    # Two bytes in UTF-8, two in Python; with one wide character, four for each.
    assert greek.width == pytest.approx(1.0, abs=0.02)
    wide = documents_of(1, [Document("a", "x" * 1000 + "\N{GRINNING FACE}")])
    assert wide.width == pytest.approx(4.0, abs=0.1)
    assert documents_of(1, [Document("a", "x", {"year": 1999})]).width > 2
