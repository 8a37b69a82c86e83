"""A collection serves what its model was trained at and its store keeps, and says so."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.codec import VectorCodec, VectorDtype
from nestvec.core.collection import Collection, check_name, new_identity
from nestvec.core.errors import ConfigError, DegenerateVector, InvalidRequest, TierNotTrained
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.placement import MAX_PARTITIONS
from nestvec.core.prefix_copy import PrefixCopy
from nestvec.core.space import Space
from nestvec.core.tier_rows import RowCodec
from nestvec.core.tiers import truncate
from tests.nestvec.core.synthetic import mrl_like

SPACE = Space("some-mrl", 16, trained_dims=(2, 4, 8, 16))
FULL = Collection("news", SPACE, store_dim=16, tiers=(4, 8))
EDGE = Collection("edge", SPACE, store_dim=8, tiers=(2, 8))


@st.composite
def collections(draw: st.DrawFn) -> Collection:
    trained = draw(st.sets(st.integers(1, 64), min_size=1, max_size=5))
    store_dim = draw(st.sampled_from(sorted(trained)))
    served = st.sampled_from([dim for dim in sorted(trained) if dim <= store_dim])
    return Collection(
        draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True)),
        Space("some-mrl", max(trained), trained_dims=tuple(sorted(trained))),
        store_dim,
        tuple(draw(st.lists(served, min_size=1, max_size=5))),
        draw(st.sampled_from(VectorDtype)),
        draw(st.integers(1, MAX_PARTITIONS)),
        draw(st.integers(1, 9)),
        draw(st.integers(0, 2**32)),
    )


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "news", "a.b_c-d", "9-lives", "x" * 63])
def test_good_names_are_handed_back(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 64, "News", "a b", "a:b", "{a}", "-a", ".a", "_a", "a\n", "\na", "é", "a/b", "a*"],
)
def test_names_that_would_break_a_key_or_a_label_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a collection; expected 1 to 63") as one:
        check_name(name)
    assert one.value.field == "collection"
    assert repr(name) in str(one.value)
    with pytest.raises(InvalidRequest):
        replace(FULL, name=name)


# --- what can be made -----------------------------------------------------------------------------


def test_tiers_ascend_without_repeats_whatever_was_given() -> None:
    assert replace(FULL, tiers=(8, 4, 8, 16)).tiers == (4, 8, 16)


@pytest.mark.parametrize(
    ("change", "field", "complaint"),
    [
        ({"store_dim": 12}, "store_dim", "tier 12 was not trained for some-mrl"),
        ({"tiers": ()}, "tiers", "no tier given; a collection serves at least one"),
        ({"tiers": (4, 5)}, "tiers", "tier 5 was not trained for some-mrl"),
        ({"tiers": (4, 32)}, "tiers", "tier 32 was not trained for some-mrl"),
        ({"store_dim": 8, "tiers": (16,)}, "tiers", "store_dim 16 or more and encode"),
        ({"partitions": 0}, "partitions", "0, expected 1 to 16384"),
        ({"partitions": -1}, "partitions", "-1, expected 1 to 16384"),
        ({"partitions": 16385}, "partitions", "16385, expected 1 to 16384"),
    ],
)
def test_what_cannot_be_served_cannot_be_made(
    change: dict[str, Any], field: str, complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        replace(FULL, **change)
    assert caught.value.field == field


@pytest.mark.parametrize("partitions", [1, MAX_PARTITIONS])
def test_partitions_reach_their_limits(partitions: int) -> None:
    assert replace(FULL, partitions=partitions).partitions == partitions


def test_a_collection_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        FULL.generation = 2  # type: ignore[misc]


# --- what it serves -------------------------------------------------------------------------------


@given(collections(), st.integers(-1, 70))
def test_a_dimension_is_searchable_when_trained_and_stored(
    collection: Collection, dim: int
) -> None:
    if dim in collection.space.trained_dims and dim <= collection.store_dim:
        assert collection.require_searchable(dim, "dim") == dim
    else:
        with pytest.raises(InvalidRequest):
            collection.require_searchable(dim, "dim")


@given(collections(), st.integers(-1, 70))
def test_a_tier_is_served_when_it_is_listed(collection: Collection, dim: int) -> None:
    if dim in collection.tiers:
        assert collection.require_tier(dim, "coarse_dim") == dim
    else:
        with pytest.raises(InvalidRequest):
            collection.require_tier(dim, "coarse_dim")


def test_each_refusal_has_its_own_way_out() -> None:
    with pytest.raises(
        TierNotTrained, match=r"^q.coarse_dim: tier 3 .* ask for one of 2, 4, 8, 16"
    ):
        EDGE.require_tier(3, "q.coarse_dim")
    with pytest.raises(
        InvalidRequest, match=r"^q.coarse_dim: tier 16 is longer than the 8 dim"
    ) as cut:
        EDGE.require_tier(16, "q.coarse_dim")
    assert "'edge'" in str(cut.value)
    assert "encode the texts again" in str(cut.value)
    with pytest.raises(
        InvalidRequest, match=r"collection 'edge' does not serve tier 4; it serves 2, 8$"
    ):
        EDGE.require_tier(4, "q.coarse_dim")


@given(collections(), st.integers(-1, 70))
def test_the_nearest_tier_is_served_and_no_worse_where_one_is(
    collection: Collection, wanted: int
) -> None:
    no_worse = [dim for dim in collection.tiers if dim >= wanted]
    assert collection.nearest_tier(wanted) == min(no_worse, default=max(collection.tiers))


# --- what it stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", [FULL, EDGE])
def test_vectors_are_cut_to_what_is_stored(collection: Collection) -> None:
    vectors = mrl_like(5, 16, seed=1)
    projected = collection.project(vectors)
    assert projected.shape == (5, collection.store_dim)
    assert (projected == truncate(vectors, collection.store_dim, SPACE)).all()


@pytest.mark.parametrize("collection", [FULL, EDGE])
@pytest.mark.parametrize("stored_already", [False, True])
def test_a_callers_vectors_may_be_full_or_cut_already(
    collection: Collection, stored_already: bool
) -> None:
    vectors = mrl_like(5, 16, seed=3)
    sent = truncate(vectors, collection.store_dim, SPACE) if stored_already else vectors
    accepted = collection.accept(sent * np.float32(1.005), "vectors")
    assert accepted == pytest.approx(collection.project(vectors), abs=1e-6)


@pytest.mark.parametrize("dim", [0, 2, 4, 15, 17])
def test_a_callers_vectors_of_any_other_length_are_refused(dim: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^query.vector: {dim} dimensions, expected 16"):
        EDGE.accept(np.ones((1, dim), np.float32), "query.vector")


def test_a_callers_single_vector_without_its_matrix_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"shape \(8,\)"):
        EDGE.accept(np.ones(8, np.float32), "query.vector")


def test_a_callers_full_vector_without_a_direction_in_the_store_is_refused() -> None:
    tail_only = np.zeros((1, 16), np.float32)
    tail_only[0, 12] = 1.0
    with pytest.raises(DegenerateVector):
        EDGE.accept(tail_only, "query.vector")


def test_the_codec_is_that_of_the_store_dim_and_the_space() -> None:
    assert FULL.codec == VectorCodec(VectorDtype.FP16, 16, SPACE.fingerprint)
    edge_int8 = replace(EDGE, store_dtype=VectorDtype.INT8)
    assert edge_int8.codec == VectorCodec(VectorDtype.INT8, 8, SPACE.fingerprint)


def test_a_generation_of_another_space_does_not_read_the_old_vectors() -> None:
    (value,) = FULL.codec.encode(mrl_like(1, 16, seed=2))
    assert FULL.codec.problem(value) is None
    after = replace(FULL, space=replace(SPACE, weights="newer"), generation=2)
    assert after.codec.problem(value) is not None


# --- plain data -----------------------------------------------------------------------------------


@given(collections())
def test_a_collection_survives_json(collection: Collection) -> None:
    assert Collection.from_dict(json.loads(json.dumps(collection.to_dict()))) == collection


def test_records_are_pinned() -> None:
    assert EDGE.to_dict() == {
        "format": 1,
        "name": "edge",
        "space": SPACE.to_dict(),
        "fingerprint": SPACE.fingerprint,
        "store_dim": 8,
        "tiers": [2, 8],
        "store_dtype": "fp16",
        "partitions": 64,
        "generation": 1,
        "rotation_seed": 20221201,
        "fields": {},
        "identity": "",
        "restoring": False,
        "coarse_code": "auto",
        "evidence": {"budget": None, "measured": [], "override": ""},
        "model": None,
        "calibration": None,
        "prefixes": None,
    }


def test_the_record_of_a_copy_of_prefixes_is_pinned_and_survives() -> None:
    made = PrefixCopy("us", "edge", 3, "ab12", 8, "0123456789abcdef")
    copy = replace(EDGE, name="edge~us", tiers=(8,), prefixes=made)
    record = copy.to_dict()
    assert (record["name"], record["tiers"]) == ("edge~us", [8])
    assert record["prefixes"] == {
        "region": "us",
        "collection": "edge",
        "generation": 3,
        "identity": "ab12",
        "dim": 8,
        "draw": "0123456789abcdef",
    }
    assert Collection.from_dict(json.loads(json.dumps(record))) == copy
    assert copy.rows == RowCodec(8, 8, "0123456789abcdef")


def test_records_of_before_there_were_fields_are_read() -> None:
    record = EDGE.to_dict()
    for name in ("fields", "identity", "restoring", "coarse_code", "evidence", "prefixes"):
        del record[name]
    assert Collection.from_dict(record) == EDGE


def test_records_keep_fields_identity_and_whether_they_are_being_restored() -> None:
    fields = (FieldSchema("lang", FieldType.KEYWORD), FieldSchema("year", FieldType.INTEGER))
    whole = replace(EDGE, fields=fields, identity=new_identity(), restoring=True)
    assert Collection.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_no_two_identities_are_alike() -> None:
    assert len({new_identity() for _ in range(100)}) == 100


@pytest.mark.parametrize("found", [0, 2, "1", None])
def test_a_record_of_another_format_is_refused_with_the_way_out(found: object) -> None:
    record = FULL.to_dict() | {"format": found}
    with pytest.raises(ConfigError, match=f"format {found!r}, this version reads 1; use the nest"):
        Collection.from_dict(record)


def test_a_record_without_a_format_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match="format None"):
        Collection.from_dict({})


@pytest.mark.parametrize(
    "changed", [{"model": "other"}, {"prompts": {"query": "q", "document": ""}}]
)
def test_a_record_whose_space_was_changed_is_refused_with_both_named(
    changed: dict[str, Any],
) -> None:
    record = FULL.to_dict()
    record["space"] |= changed
    with pytest.raises(ConfigError, match=f"'news': .*says {SPACE.fingerprint}") as caught:
        Collection.from_dict(record)
    assert Space.from_dict(record["space"]).fingerprint in str(caught.value)


def test_a_record_survives_learning_of_another_trained_tier() -> None:
    record = FULL.to_dict()
    record["space"]["trained_dims"] = [1, 2, 4, 8, 16]
    assert Collection.from_dict(record).space.trained_dims == (1, 2, 4, 8, 16)
