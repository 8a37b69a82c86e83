"""Columns of declared fields against the documents themselves, one by one."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.coarse.field_columns import (
    NO_FIELDS,
    FieldColumns,
    FieldTable,
    MaskCache,
    Matching,
    concatenate_fields,
    few,
)
from nestvec.core.arrays import Bools
from nestvec.core.document import FieldValue
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf, Exists, Filter, Not, Range, validate
from tests.support.filtering import FIELDS, documents, filters, matches

Documents = list[dict[str, FieldValue]]


def mask(table: FieldTable, columns: FieldColumns, wanted: Filter, rows: int) -> list[bool]:
    found: list[bool] = table.mask(columns, validate(wanted, table.fields), rows).tolist()
    return found


# --- masks ----------------------------------------------------------------------------------------


@given(st.lists(documents, max_size=20), filters)
def test_a_mask_is_what_each_document_says_for_itself(some: Documents, wanted: Filter) -> None:
    table = FieldTable(FIELDS)
    columns = table.encode(some)
    assert mask(table, columns, wanted, len(some)) == [matches(wanted, one) for one in some]


@given(st.lists(documents, max_size=12), st.lists(documents, max_size=12), filters, st.data())
def test_rows_keep_their_fields_wherever_they_go(
    first: Documents, second: Documents, wanted: Filter, data: st.DataObject
) -> None:
    """Keywords that come later do not change what earlier columns say."""
    table = FieldTable(FIELDS)
    parts = [table.encode(first), table.encode(second)]
    order = data.draw(st.permutations(range(len(first) + len(second))))
    joined = concatenate_fields(parts, np.array(order, np.int64))
    everything = [(first + second)[row] for row in order]
    assert mask(table, joined, wanted, len(order)) == [matches(wanted, one) for one in everything]
    rows = data.draw(st.lists(st.sampled_from(range(len(order))))) if order else []
    taken = joined.take(np.array(rows, np.int64))
    assert mask(table, taken, wanted, len(rows)) == [
        matches(wanted, everything[row]) for row in rows
    ]
    assert mask(table, parts[0], wanted, len(first)) == [matches(wanted, one) for one in first]


@given(st.lists(documents, max_size=12), st.lists(documents, max_size=12), filters)
def test_a_table_that_was_kept_goes_on_with_its_codes(
    before: Documents, after: Documents, wanted: Filter
) -> None:
    table = FieldTable(FIELDS)
    columns = table.encode(before)
    restored = FieldTable(FIELDS, table.keywords())
    assert restored.keywords() == table.keywords()
    later = restored.encode(after)
    for one, some in ((columns, before), (later, after)):
        assert mask(restored, one, wanted, len(some)) == [matches(wanted, each) for each in some]


@pytest.mark.parametrize(
    "document",
    [
        {"lang": 3},
        {"year": 2.5},
        {"year": True},
        {"year": -(2**63)},
        {"year": 2**63},
        {"price": math.nan},
        {"price": "1"},
        {"draft": 1},
        {"at": "2024-01-01"},
        {"at": 0},
    ],
)
def test_what_is_not_of_its_type_counts_as_missing(document: dict[str, FieldValue]) -> None:
    """Ingest refuses it; a store may hold what another version let in."""
    table = FieldTable(FIELDS)
    (name,) = document
    columns = table.encode([document])
    assert mask(table, columns, Exists(name), 1) == [False]
    assert mask(table, columns, Not(Exists(name)), 1) == [True]
    assert not any(table.keywords().values())


def test_many_values_are_looked_up_at_once() -> None:
    table = FieldTable(FIELDS)
    some: Documents = [{"lang": f"l{n}", "year": n, "price": n / 2} for n in range(500)]
    columns = table.encode([*some, {}])
    chosen = set(range(0, 1000, 7))
    expected = [*(n in chosen for n in range(500)), False]
    for wanted in (
        AnyOf("lang", tuple(f"l{n}" for n in chosen)),
        AnyOf("year", tuple(chosen)),
        AnyOf("price", tuple(n / 2 for n in chosen)),
    ):
        assert mask(table, columns, wanted, 501) == expected


def test_a_keyword_that_no_document_has_matches_nothing() -> None:
    table = FieldTable(FIELDS)
    columns = table.encode([{"lang": "en"}, {}])
    assert mask(table, columns, AnyOf("lang", ("xx",)), 2) == [False, False]
    assert mask(table, columns, Not(AnyOf("lang", ("xx", "yy"))), 2) == [True, True]
    assert mask(table, columns, AnyOf("lang", ("xx", "en")), 2) == [True, False]


def test_a_collection_without_fields_has_no_columns() -> None:
    table = FieldTable()
    columns = table.encode([{"lang": "en"}] * 3)
    assert columns is NO_FIELDS
    assert columns.take(np.array([1])) is columns
    assert concatenate_fields([columns, columns], np.arange(6)) is NO_FIELDS
    assert columns.nbytes == 0
    assert table.keywords() == {}


def test_bytes_are_counted() -> None:
    table = FieldTable(FIELDS)
    columns = table.encode([{}] * 100)
    assert columns.nbytes == 100 * (4 + 8 + 8 + 1 + 8)


def test_readers_beside_a_writer_see_whole_columns() -> None:
    table = FieldTable([FieldSchema("tag", FieldType.KEYWORD)])
    published = [(0, table.encode([{"tag": "t0"}]))]
    done = threading.Event()

    def read() -> int:
        seen = 0
        while not done.is_set() or not seen:
            number, columns = published[-1]
            tags = tuple(f"t{n}" for n in range(number + 1))
            for wanted in (AnyOf("tag", (tags[-1],)), AnyOf("tag", tags), Exists("tag")):
                assert mask(table, columns, wanted, 1) == [True]
            assert mask(table, columns, Not(AnyOf("tag", tags)), 1) == [False]
            seen += 1
        return seen

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        for number in range(1, 400):
            columns = table.encode([{"tag": f"t{number}"}])
            published.append((number, columns))
        done.set()
        assert all(reader.result() for reader in readers)


# --- what matches ---------------------------------------------------------------------------------

masks = st.lists(st.booleans(), max_size=60).map(lambda bits: np.array(bits, np.bool_))


@pytest.fixture
def few_are_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestvec.coarse.field_columns._FEW_LEAST", 5)


@pytest.mark.usefixtures("few_are_five")
def test_few_matches_are_numbers_and_many_a_mask() -> None:
    wide = np.zeros(60, np.bool_)
    wide[:5] = True
    assert few(60) == 5
    assert Matching.of(wide).mask is None
    wide[5] = True
    assert Matching.of(wide).rows is None
    assert few(1600) == 100


@given(st.data())
def test_matching_says_the_same_in_either_form(data: st.DataObject) -> None:
    wide: Bools = data.draw(masks)
    alive: Bools = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(wide), max_size=len(wide))), np.bool_
    )
    rows = np.flatnonzero(wide)
    both = np.flatnonzero(wide & alive).tolist()
    for matching in (Matching(len(rows), rows, None), Matching(len(rows), None, wide)):
        assert matching.numbers().tolist() == rows.tolist()
        among = matching.among(alive)
        assert among.count == len(both)
        assert among.numbers().tolist() == both


def test_what_a_filter_matched_is_kept_and_the_oldest_goes_first() -> None:
    cache = MaskCache(most=2)
    checked = [validate(Range("year", at_least=n), FIELDS) for n in range(3)]
    made: list[int] = []

    def get(number: int) -> int:
        def make() -> Bools:
            made.append(number)
            return np.arange(10) >= number

        return cache.get(checked[number], make).count

    assert [get(0), get(1), get(0), get(1)] == [10, 9, 10, 9]
    assert made == [0, 1]
    assert get(2) == 8
    assert get(1) == 9
    assert made == [0, 1, 2], "1 was used after 0"
    assert get(0) == 10
    assert made == [0, 1, 2, 0]
