"""The table of external ids says what a dict would, takes little memory, and can be saved."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.coarse import names as names_module
from nestvec.coarse.names import NameChunk, NameTable
from nestvec.core.arrays import Ids

external_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def ids_of(values: list[int]) -> Ids:
    return np.array(values, np.int64)


def table_of(count: int, batch: int = 1000) -> NameTable:
    """Documents 0 to `count`, each named after its number."""
    table = NameTable()
    for start in range(0, count, batch):
        rows = range(start, min(start + batch, count))
        table.apply(ids_of(list(rows)), [f"document-{row}" for row in rows], ids_of([]))
    return table


@dataclass
class Oracle:
    """Internal id -> external id, as plainly as can be."""

    live: dict[int, str] = field(default_factory=dict)
    ever: dict[int, str] = field(default_factory=dict)

    def apply(self, ids: list[int], names: list[str | None], removed: list[int]) -> None:
        for one in set(removed) - set(ids):
            self.live.pop(one, None)
        for one, name in zip(ids, names, strict=True):
            if name is not None:
                self.live[one] = self.ever[one] = name


# A document has one name for ever, so the name is made of the id; None where it cannot be read.
changes = st.lists(
    st.tuples(
        st.lists(st.integers(0, 60), unique=True, max_size=20),
        st.lists(st.integers(0, 60), max_size=10),
        st.sampled_from(["", "busy", "idle"]),
        st.booleans(),
    ),
    max_size=12,
)


@given(st.dictionaries(st.integers(0, 60), external_ids, min_size=61, max_size=61), changes)
def test_after_any_changes_and_merges_it_says_what_a_dict_says(
    named: dict[int, str], steps: list[tuple[list[int], list[int], str, bool]]
) -> None:
    table, oracle = NameTable(), Oracle()
    for ids, removed, merge, readable in steps:
        names = [named[one] if readable or one % 3 else None for one in ids]
        table.apply(ids_of(ids), names, ids_of(removed))
        oracle.apply(ids, names, removed)
        while merge and table.compact(idle=merge == "idle"):
            pass
        assert len(table) == len(oracle.live)
        asked = np.arange(-1, 62)
        found = table.lookup(asked)
        for one, name in zip(asked.tolist(), found, strict=True):
            if one in oracle.live:
                assert name == oracle.live[one]
            else:
                # What was deleted may still be told, until a merge drops it; never anything else.
                assert name in (None, oracle.ever.get(one))
        unknown = table.unknown(asked)
        assert unknown.tolist() == [
            one for one, name in zip(asked.tolist(), found, strict=True) if name is None
        ]


@given(st.dictionaries(st.integers(0, 1 << 62), external_ids, max_size=50), st.booleans())
def test_what_is_saved_comes_back(named: dict[int, str], some_deleted: bool) -> None:
    ids = list(named)
    table = NameTable()
    table.apply(ids_of(ids), [named[one] for one in ids], ids_of([]))
    if some_deleted:
        table.apply(ids_of([]), [], ids_of(ids[::2]))
    again = NameTable([NameChunk.from_arrays(chunk.arrays()) for chunk in table.chunks])
    assert again.lookup(ids_of(ids)) == table.lookup(ids_of(ids))
    assert len(again) == len(table)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays | {"ids": arrays["ids"][1:]},
        lambda arrays: arrays | {"text": arrays["text"][1:]},
        lambda arrays: arrays | {"offsets": arrays["offsets"][::-1].copy()},
        lambda arrays: arrays | {"alive": np.ones(3, np.bool_)},
    ],
)
def test_columns_that_do_not_fit_together_are_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    (chunk,) = table_of(10).chunks
    with pytest.raises(ValueError, match="external ids"):
        NameChunk.from_arrays(spoil(chunk.arrays()))


def test_a_document_takes_twelve_bytes_and_its_name() -> None:
    count = 50_000
    table = table_of(count)
    while table.compact(idle=True):
        pass
    text = sum(len(f"document-{row}") for row in range(count))
    assert len(table.chunks) == 1
    assert table.nbytes == 12 * count + 4 + text


def test_many_small_writes_leave_few_chunks() -> None:
    table = NameTable()
    for row in range(3000):
        table.apply(ids_of([row]), [f"d{row}"], ids_of([]))
    assert len(table.chunks) <= 13
    assert table.lookup(ids_of([0, 1500, 2999])) == ["d0", "d1500", "d2999"]


def test_deleted_names_are_dropped_by_a_merge() -> None:
    table = table_of(10_000)
    table.apply(ids_of([]), [], np.arange(0, 10_000, 2))
    before = table.nbytes
    while table.compact(idle=False):
        pass
    assert table.nbytes < 0.6 * before
    assert table.lookup(ids_of([0, 1])) == [None, "document-1"]


def test_no_chunk_grows_past_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "_LARGEST_ROWS", 2500)
    monkeypatch.setattr(names_module, "_SMALL_ROWS", 500)
    table = table_of(10_000)
    while table.compact(idle=True):
        pass
    assert max(map(len, table.chunks)) <= 2500
    assert table.lookup(np.arange(10_000)) == [f"document-{row}" for row in range(10_000)]


def test_what_changes_during_a_merge_is_carried_over(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(20_000, batch=5000)
    merged = names_module._merged

    def slowly(chunks):  # type: ignore[no-untyped-def]
        if len(chunks) > 2:
            monkeypatch.undo()
            table.apply(ids_of([20_000, 7]), ["new", "document-7"], ids_of([3, 4]))
        return merged(chunks)

    monkeypatch.setattr(names_module, "_merged", slowly)
    assert table.compact(idle=True)
    assert len(table) == 20_000 + 1 - 2
    assert table.lookup(ids_of([7, 20_000, 19_999])) == ["document-7", "new", "document-19999"]
    while table.compact(idle=True):
        pass
    table.apply(ids_of([]), [], np.arange(5000, 15_000))
    while table.compact(idle=True):
        pass
    assert table.lookup(ids_of([3, 4, 7])) == [None, None, "document-7"]


def test_a_look_up_beside_writes_and_merges_never_misses_a_document() -> None:
    table = table_of(5000)
    stop = threading.Event()

    def write() -> None:
        row = 5000
        while not stop.is_set():
            table.apply(ids_of([row]), [f"document-{row}"], ids_of([row - 1]) if row % 2 else _NONE)
            row += 1

    def merge() -> None:
        while not stop.is_set():
            table.compact(idle=True)

    threads = [threading.Thread(target=work) for work in (write, merge)]
    for thread in threads:
        thread.start()
    try:
        asked = np.arange(0, 4000, 7)
        wanted = [f"document-{row}" for row in asked.tolist()]
        for _ in range(200):
            assert table.lookup(asked) == wanted
    finally:
        stop.set()
        for thread in threads:
            thread.join()


_NONE = np.empty(0, np.int64)
