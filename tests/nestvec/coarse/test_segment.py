"""Segments are sets of rows: whatever is done to their columns, a row stays one row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse import segment as segment_module
from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.segment import (
    Columns,
    View,
    build_segment,
    concatenate,
    encode_columns,
)
from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import DegenerateVector
from nestvec.core.fields import FieldSchema, FieldType
from tests.nestvec.core.synthetic import as_stored, mrl_like
from tests.support.rooms import a_sketch

TABLE = FieldTable([FieldSchema("parity", FieldType.KEYWORD), FieldSchema("id", FieldType.INTEGER)])

FULL, HEAD = 24, 8
SKETCH = a_sketch(HEAD, FULL)

id_lists = st.lists(st.integers(0, 1 << 62), unique=True, max_size=30)


def vectors_of(ids: list[int], seed: int = 0) -> Floats:
    """One vector an id, the same wherever the id stands."""
    rows = [mrl_like(1, FULL, seed=(number + seed) % (1 << 32))[0] for number in ids]
    return as_stored(np.array(rows, np.float32).reshape(len(ids), FULL))


def columns_of(ids: list[int]) -> Columns:
    fields = TABLE.encode([{"parity": "odd" if one % 2 else "even", "id": one} for one in ids])
    return encode_columns(np.array(ids, np.int64), vectors_of(ids), SKETCH, fields)


def rows(columns: Columns) -> dict[int, tuple[bytes, ...]]:
    """Each row by its id, byte for byte."""
    found: dict[int, tuple[bytes, ...]] = {}
    for number, one in enumerate(columns.ids.tolist()):
        assert one not in found, "an id stands twice"
        found[one] = (
            columns.prefixes.codes[number].tobytes(),
            columns.prefixes.scales[number].tobytes(),
            columns.sketch.bits[number].tobytes(),
            columns.sketch.head_norms[number].tobytes(),
            columns.sketch.tail_norms[number].tobytes(),
            columns.sketch.corrections[number].tobytes(),
        )
        assert columns.fields.arrays["id"][number] == one
        assert TABLE.keywords()["parity"][columns.fields.arrays["parity"][number]] == (
            "odd" if one % 2 else "even"
        )
    return found


def ascend(ids: Ids) -> bool:
    return bool((np.diff(ids) > 0).all())


# --- columns --------------------------------------------------------------------------------------


@given(id_lists)
def test_encoding_sorts_rows_by_id_and_keeps_each_whole(ids: list[int]) -> None:
    columns = columns_of(ids)
    assert len(columns) == len(ids)
    assert ascend(columns.ids)
    one_by_one: dict[int, tuple[bytes, ...]] = {}
    for number in ids:
        one_by_one |= rows(columns_of([number]))
    # A batch's last bit may differ from a single row's in the rotation's product.
    assert rows(columns).keys() == one_by_one.keys()
    for number, whole in rows(columns).items():
        assert whole[:2] == one_by_one[number][:2]


@given(id_lists)
def test_prefixes_are_codes_of_the_renormalised_head(ids: list[int]) -> None:
    prefixes = columns_of(ids).prefixes
    heads = vectors_of(sorted(ids))[:, :HEAD]
    units = heads / np.linalg.norm(heads, axis=1, keepdims=True)
    assert (np.abs(prefixes.decode() - units) <= prefixes.scales[:, None] * 1.001).all()


@given(id_lists, st.data())
def test_concatenation_ignores_how_the_rows_were_split(ids: list[int], data: st.DataObject) -> None:
    whole = columns_of(ids)
    shuffled = data.draw(st.permutations(ids))
    cut = len(ids) // 3
    parts = [
        whole.take(whole.rows_of(np.array(part, np.int64)))
        for part in (shuffled[:cut], shuffled[cut : 2 * cut], shuffled[2 * cut :])
    ]
    joined = concatenate(parts)
    assert ascend(joined.ids)
    assert rows(joined) == rows(whole)
    nested = concatenate([concatenate(parts[:2]), parts[2]])
    assert rows(nested) == rows(whole)


@given(id_lists, st.data())
def test_take_gives_the_rows_asked_for_in_that_order(ids: list[int], data: st.DataObject) -> None:
    columns = columns_of(ids)
    wanted = data.draw(st.lists(st.integers(0, len(ids) - 1))) if ids else []
    taken = columns.take(np.array(wanted, np.int64))
    assert taken.ids.tolist() == columns.ids[wanted].tolist()
    known = rows(columns)
    for place in range(len(wanted)):
        (one,) = rows(taken.take(np.array([place]))).items()
        assert known[one[0]] == one[1]


@given(id_lists, st.lists(st.integers(0, 1 << 62), unique=True), st.data())
def test_rows_of_finds_those_that_are_here_and_no_others(
    ids: list[int], others: list[int], data: st.DataObject
) -> None:
    columns = columns_of(ids)
    asked = data.draw(st.permutations([*others, *ids[::2], -1]))
    found = columns.rows_of(np.array(asked, np.int64))
    wanted = [number for number in asked if number in set(ids)]
    assert columns.ids[found].tolist() == wanted


def test_bytes_are_counted_whole() -> None:
    columns = columns_of(list(range(10)))
    per_row = 8 + HEAD + 4 + SKETCH.bytes_per_vector + 4 + 8
    assert columns.nbytes == 10 * per_row


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_prefix_without_direction_is_refused(bad: float) -> None:
    vectors = vectors_of([1, 2, 3])
    vectors[1, :HEAD] = bad
    with pytest.raises(DegenerateVector, match="first 8 dimensions"):
        encode_columns(np.arange(3), vectors, SKETCH)


def test_scores_do_not_depend_on_how_many_rows_are_decoded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = columns_of(list(range(20)))
    head = mrl_like(1, HEAD, seed=1)[0]
    rows_asked = np.array([3, 19, 0, 7, 7, 12, 1])
    at_once = columns.prefix_scores(rows_asked, head)
    assert at_once == pytest.approx(columns.prefixes.decode()[rows_asked] @ head, abs=1e-6)
    monkeypatch.setattr(segment_module, "_DECODED_ROWS", 3)
    assert columns.prefix_scores(rows_asked, head) == pytest.approx(at_once, abs=1e-6)


@given(id_lists)
def test_columns_survive_as_named_arrays(ids: list[int]) -> None:
    columns = columns_of(ids)
    again = Columns.from_arrays(columns.arrays())
    assert rows(again) == rows(columns)
    assert {len(array) for array in columns.arrays().values()} == {len(ids)}


# --- views ----------------------------------------------------------------------------------------


@given(id_lists, st.lists(st.lists(st.integers(0, 1 << 62)), max_size=3), st.data())
def test_a_view_forgets_what_was_deleted_and_nothing_else(
    ids: list[int], strangers: list[list[int]], data: st.DataObject
) -> None:
    view = View(build_segment(columns_of(ids), NumpyFactory()))
    alive = set(ids)
    for others in strangers:
        gone = data.draw(st.lists(st.sampled_from(ids))) if ids else []
        before = view.live
        after = view.without(np.array(gone + others, np.int64))
        assert view.live == before, "views are immutable"
        view = after
        alive -= {*gone, *others}
        assert view.live == len(alive)
        assert view.live_columns().ids.tolist() == sorted(alive)


def test_deleting_strangers_makes_no_new_view() -> None:
    view = View(build_segment(columns_of([1, 5, 9]), NumpyFactory()))
    assert view.without(np.array([2, 10, -1])) is view
    assert view.without(np.empty(0, np.int64)) is view


def test_a_segment_tells_its_kind_size_and_bytes() -> None:
    columns = columns_of([3, 1, 2])
    segment = build_segment(columns, NumpyFactory())
    assert segment.label == "numpy:3"
    assert len(segment) == 3
    assert segment.nbytes == columns.nbytes + 3 * HEAD * 4
