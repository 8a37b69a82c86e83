"""Whatever core holds comes back from the wire as it was, and what cannot be right is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.codec import VectorDtype, floats_from_bytes, floats_to_bytes
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.document import Document, FieldValue
from nestvec.core.errors import InvalidRequest, SpaceMismatch
from nestvec.core.ports import CoarseHits, TierStatus
from nestvec.core.space import Prompts, Recipe, Role, Space
from nestvec.rpc import wire
from nestvec.v1 import admin_pb2, coarse_pb2, common_pb2, encoder_pb2
from tests.support.rooms import SPACE, a_collection

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
int64s = st.integers(-(1 << 63), (1 << 63) - 1)
floats = st.floats(width=32, allow_nan=False)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    dims = sorted(draw(st.sets(st.integers(1, 4096), min_size=1, max_size=6)))
    return Space(
        model=draw(texts),
        dim=dims[-1],
        weights=draw(texts),
        trained_dims=tuple(dims),
        recipe=Recipe(layer_norm=draw(st.booleans())),
        prompts=Prompts(draw(texts), draw(texts)),
    )


@st.composite
def hits(draw: st.DrawFn, bounded: bool = True) -> CoarseHits:
    size = draw(st.integers(0, 20))
    ids: Ids = draw(arrays(np.int64, size, elements=int64s))
    estimates: Floats = draw(arrays(np.float32, size, elements=floats))
    widths: Floats = np.zeros(size, np.float32)
    if bounded:
        widths = draw(arrays(np.float32, size, elements=floats))
    rest = draw(st.none() | st.just(-np.inf) | floats)
    outside = draw(st.integers(0, 1 << 40))
    return CoarseHits(ids, estimates, widths, rest, outside, abs(draw(floats)))


def same(one: CoarseHits, other: CoarseHits) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.estimates, other.estimates)
        and np.array_equal(one.half_widths, other.half_widths)
        and one.rest_upper_bound == other.rest_upper_bound
        and one.rest_count == other.rest_count
        and one.rest_half_width == other.rest_half_width
    )


# --- there and back -------------------------------------------------------------------------------


@given(spaces())
def test_a_space_comes_back(space: Space) -> None:
    message = wire.space_to_wire(space)
    back = wire.space_from_wire(common_pb2.SpaceDescription.FromString(message.SerializeToString()))
    assert back == space
    assert back.fingerprint == space.fingerprint


def test_a_space_whose_fingerprint_was_computed_otherwise_is_refused() -> None:
    message = wire.space_to_wire(SPACE)
    message.query_prompt = "query: "
    with pytest.raises(SpaceMismatch, match="described by the other side"):
        wire.space_from_wire(message)


@given(hits(), st.booleans())
def test_bounded_columns_come_back(columns: CoarseHits, copied: bool) -> None:
    message = wire.hits_to_wire(columns, bounded=True)
    if copied:
        message = coarse_pb2.CandidateColumns.FromString(message.SerializeToString())
    back = wire.hits_from_wire(message)
    assert same(back, columns)
    assert back.ids.dtype == np.int64
    assert back.estimates.dtype == back.half_widths.dtype == np.float32


@given(hits(bounded=False))
def test_plain_columns_come_back_and_send_no_widths(columns: CoarseHits) -> None:
    message = wire.hits_to_wire(columns, bounded=False)
    assert message.half_widths == b""
    assert same(wire.hits_from_wire(message), columns)


@given(arrays(np.int64, st.integers(0, 30), elements=int64s))
def test_ids_come_back(ids: Ids) -> None:
    data = wire.ids_to_bytes(ids)
    assert data == ids.astype("<i8").tobytes()
    assert wire.ids_from_bytes(data, "ids").tolist() == ids.tolist()


@given(st.integers(1, 8).flatmap(lambda dim: arrays(np.float32, (5, dim), elements=floats)))
def test_vectors_come_back(vectors: Floats) -> None:
    back = floats_from_bytes(floats_to_bytes(vectors), vectors.shape[1], "vectors")
    np.testing.assert_array_equal(back, vectors)


values = texts | int64s | st.floats(allow_nan=False) | st.booleans()


@given(texts, texts, st.dictionaries(texts, values, max_size=6))
def test_a_document_comes_back_with_the_types_of_its_fields(
    name: str, text: str, fields: dict[str, FieldValue]
) -> None:
    document = Document(name, text, fields)
    message = wire.document_to_wire(document)
    back = wire.document_from_wire(common_pb2.Document.FromString(message.SerializeToString()))
    assert back == document
    assert {k: type(v) for k, v in back.fields.items()} == {k: type(v) for k, v in fields.items()}


@given(
    st.builds(
        TierStatus,
        dim=st.integers(1, 4096),
        documents=st.integers(0, 1 << 40),
        deleted=st.integers(0, 1 << 40),
        segments=st.lists(texts).map(tuple),
        nbytes=st.integers(0, 1 << 50),
        name_nbytes=st.integers(0, 1 << 50),
    )
)
def test_a_tiers_figures_come_back(status: TierStatus) -> None:
    assert wire.tier_from_wire(wire.tier_to_wire(status)) == status


@pytest.mark.parametrize("dtype", list(VectorDtype))
def test_every_dtype_comes_back(dtype: VectorDtype) -> None:
    assert wire.dtype_from_wire(wire.dtype_to_wire(dtype)) is dtype
    assert wire.dtype_from_wire(admin_pb2.STORE_DTYPE_UNSPECIFIED) is None


@pytest.mark.parametrize("certificate", list(Certificate))
def test_every_certificate_comes_back(certificate: Certificate) -> None:
    assert wire.certificate_from_wire(wire.certificate_to_wire(certificate)) is certificate


def test_a_certificate_from_the_future_promises_nothing() -> None:
    unknown: common_pb2.Certificate.ValueType = 99  # type: ignore[assignment]
    assert wire.certificate_from_wire(unknown) is Certificate.NONE
    assert wire.certificate_from_wire(common_pb2.CERTIFICATE_UNSPECIFIED) is Certificate.NONE


@pytest.mark.parametrize("role", list(Role))
def test_every_role_comes_back(role: Role) -> None:
    assert wire.role_from_wire(wire.role_to_wire(role)) is role


@pytest.mark.parametrize("kind", list(DegradationKind))
def test_every_degradation_has_a_name_on_the_wire(kind: DegradationKind) -> None:
    message = wire.degradation_to_wire(Degradation(kind, "why"))
    name = common_pb2.DegradationKind.Name(message.kind)
    assert name == f"DEGRADATION_KIND_{kind.name}"
    assert message.detail == "why"


def test_every_enum_of_the_wire_has_its_counterpart() -> None:
    def names(enum: object, prefix: str) -> set[str]:
        keys: list[str] = enum.keys()  # type: ignore[attr-defined]
        return {key.removeprefix(prefix) for key in keys} - {"UNSPECIFIED"}

    assert names(common_pb2.Certificate, "CERTIFICATE_") == {c.name for c in Certificate}
    assert names(common_pb2.DegradationKind, "DEGRADATION_KIND_") == {
        kind.name for kind in DegradationKind
    }
    assert names(admin_pb2.StoreDtype, "STORE_DTYPE_") == {dtype.name for dtype in VectorDtype}
    assert names(encoder_pb2.TextRole, "TEXT_ROLE_") == {role.name for role in Role}


def test_coverage_is_sent_with_its_fraction() -> None:
    message = wire.coverage_to_wire(Coverage(4, 3, 100, 75))
    assert (message.shards_total, message.shards_answered) == (4, 3)
    assert (message.documents_total, message.documents_answered) == (100, 75)
    assert message.fraction == 0.75


def test_a_collection_is_described_whole() -> None:
    docs = a_collection(tiers=(8, 32), dtype=VectorDtype.INT8)
    message = wire.collection_to_wire(docs)
    assert message.name == "docs"
    assert list(message.tiers) == [8, 32]
    assert message.store_dim == 64
    assert message.store_dtype == admin_pb2.STORE_DTYPE_INT8
    assert (message.generation, message.partitions) == (1, 16)
    assert wire.space_from_wire(message.space) == docs.space
    ref = wire.collection_ref(docs)
    assert (ref.name, ref.generation) == ("docs", 1)
    assert (ref.space.fingerprint, ref.space.dim) == (docs.space.fingerprint, 64)


# --- what cannot be right -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 9])
def test_ids_of_a_ragged_length_are_refused_by_field(length: int) -> None:
    with pytest.raises(InvalidRequest, match="not a whole number of int64") as caught:
        wire.ids_from_bytes(b"\x00" * length, "removed_ids")
    assert caught.value.field == "removed_ids"


@pytest.mark.parametrize("column", ["estimates", "half_widths"])
@pytest.mark.parametrize("size", [4, 12, 9])
def test_columns_of_another_length_than_the_ids_are_refused(column: str, size: int) -> None:
    message = coarse_pb2.CandidateColumns(
        ids=b"\x00" * 16, estimates=b"\x00" * 8, half_widths=b"\x00" * 8
    )
    setattr(message, column, b"\x00" * size)
    with pytest.raises(InvalidRequest) as caught:
        wire.hits_from_wire(message)
    assert caught.value.field == f"candidates.{column}"


def test_a_field_without_a_value_is_refused_by_name() -> None:
    message = common_pb2.Document(id="a", text="t")
    message.fields["colour"].SetInParent()
    with pytest.raises(
        InvalidRequest, match="expected a string, integer, double or bool"
    ) as caught:
        wire.document_from_wire(message)
    assert caught.value.field == "document.fields.colour"


@pytest.mark.parametrize("value", [0, 99])
def test_a_role_that_is_not_given_is_refused(value: int) -> None:
    with pytest.raises(InvalidRequest, match="queries or documents") as caught:
        wire.role_from_wire(value)  # type: ignore[arg-type]
    assert caught.value.field == "role"
