"""Input files as documents: what was written is read back, what is broken is told, not fatal."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from nestvec_cluster import readers
from nestvec_cluster.readers import Format, open_input
from nestvec_cluster.rows import Columns, Entry, UnreadableInput

ALL = Columns()
words = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.one_of(
    words, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False)
)
rows = st.lists(st.fixed_dictionaries({"id": words, "text": words, "more": scalars}), max_size=12)


def _read(path: Path | str, columns: Columns = ALL, wanted: Format = Format.AUTO) -> list[Entry]:
    with open_input(str(path), wanted, columns) as source:
        return list(source.entries)


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _as_tuples(entries: list[Entry]) -> list[tuple[str, str, dict[str, Any]]]:
    documents = [entry.document for entry in entries]
    assert all(document is not None for document in documents), [e.problem for e in entries]
    return [(one.id, one.text, dict(one.fields)) for one in documents if one is not None]


# --- what was written is read back --------------------------------------------------------------


@given(rows, st.booleans(), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_json_lines_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    given_rows: list[dict[str, Any]],
    packed: bool,
    marked: bool,
    end: str,
) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + end for row in given_rows)
    data = (b"\xef\xbb\xbf" if marked else b"") + lines.encode()
    name = "rows.jsonl.gz" if packed else "rows.jsonl"
    path = _written(
        tmp_path_factory.getbasetemp(), name, gzip.compress(data, 1) if packed else data
    )
    expected = [(row["id"], row["text"], {"more": row["more"]}) for row in given_rows]
    assert _as_tuples(_read(path)) == expected


@given(st.lists(st.tuples(words, words, words), max_size=12))
def test_csv_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[str, str, str]]
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "text", "more"])
    writer.writerows(given_rows)
    path = _written(tmp_path_factory.getbasetemp(), "rows.csv", out.getvalue().encode())
    assert _as_tuples(_read(path)) == [(a, b, {"more": c}) for a, b, c in given_rows]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=12))
def test_plain_text_is_one_passage_a_line_with_its_place_as_its_id(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    data = "".join(line + "\n" for line in lines).encode()
    path = _written(tmp_path_factory.getbasetemp(), "rows.txt", data)
    # Like the reader: a byte-order mark before the first line is not part of it.
    lines = [line.removeprefix("\ufeff") if n == 0 else line for n, line in enumerate(lines)]
    nothing: dict[str, Any] = {}
    expected = [
        (f"{path}:{number}", line, nothing) for number, line in enumerate(lines, 1) if line.strip()
    ]
    assert _as_tuples(_read(path)) == expected


def test_tsv_takes_quotes_as_they_stand(tmp_path: Path) -> None:
    data = 'id\ttext\tkind\n1\t"half a quote\tx\n2\tsay "hi"\ty\n'
    entries = _as_tuples(_read(_written(tmp_path, "rows.tsv", data.encode())))
    assert entries == [("1", '"half a quote', {"kind": "x"}), ("2", 'say "hi"', {"kind": "y"})]


def test_parquet_keeps_types_and_prints_what_no_field_can_hold(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([7, 8], pa.int64()),
            "text": ["a", "b"],
            "score": [0.5, None],
            "yes": [True, False],
            "tags": [["x", "y"], []],
            "day": pa.array([0, 1], pa.date32()),
        }
    )
    path = tmp_path / "rows.parquet"
    parquet.write_table(table, path)
    assert _as_tuples(_read(path)) == [
        ("7", "a", {"score": 0.5, "yes": True, "tags": '["x", "y"]', "day": "1970-01-01"}),
        ("8", "b", {"yes": False, "tags": "[]", "day": "1970-01-02"}),
    ]
    few = _as_tuples(_read(path, Columns(fields=("yes",))))
    assert few == [("7", "a", {"yes": True}), ("8", "b", {"yes": False})]
    with open_input(str(path), Format.AUTO, ALL) as source:
        assert (source.total, source.position()) == (2, 0)
        next(source.entries)
        assert source.position() == 1


# --- which columns ------------------------------------------------------------------------------


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    data = b"key,body,year,noise\nk1,some text,1999,x\n"
    path = _written(tmp_path, "rows.csv", data)
    columns = Columns(id="key", text="body", fields=("year",))
    assert _as_tuples(_read(path, columns)) == [("k1", "some text", {"year": "1999"})]
    assert _as_tuples(_read(path, Columns(id="key", text="body", fields=()))) == [
        ("k1", "some text", {})
    ]


def test_a_row_without_an_id_is_called_by_its_place(tmp_path: Path) -> None:
    data = b'{"text": "a"}\n\n{"text": "b", "id": 5}\n{"text": "c", "id": null}\n'
    path = _written(tmp_path, "rows.jsonl", data)
    assert [entry[0] for entry in _as_tuples(_read(path))] == [f"{path}:1", "5", f"{path}:4"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="body"), "no column 'body'; its columns: id, text; .*--text-column"),
        (Columns(id="key"), "no column 'key'.*--id-column"),
        (Columns(fields=("year",)), "no column 'year'.*--field-columns"),
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.parquet"])
def test_a_table_without_a_wanted_column_names_those_it_has(
    tmp_path: Path, columns: Columns, message: str, name: str
) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        parquet.write_table(pa.table({"id": ["1"], "text": ["a"]}), path)
    else:
        path.write_text("id,text\n1,a\n".replace(",", "\t" if name.endswith("tsv") else ","))
    with pytest.raises(UnreadableInput, match=message):
        _read(path, columns)


# --- what is broken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "a list, expected an object"),
        (b"\xff\xfe\xfd", "is not UTF-8 (byte 1 of the line)"),
        (b'{"id": "a"}', "no 'text', which was to be the text; it has id"),
        (b'{"id": "a", "text": 5}', "'text' is a int, expected a string"),
        (b'{"id": [1], "text": "x"}', "'id' is a list, expected a string"),
        (b'{"id": true, "text": "x"}', "'id' is a bool, expected a string"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_json_line_is_told_by_its_place_and_the_next_is_read(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    path = _written(tmp_path, "rows.jsonl", b'{"text": "x"}\n' + line + b'\n{"text": "y"}')
    first, bad, last = _read(path)
    assert (bad.document, bad.where) == (None, f"{path}:2")
    assert problem in bad.problem
    assert len(_as_tuples([first, last])) == 2


def test_a_bad_table_row_is_told_by_its_first_line(tmp_path: Path) -> None:
    data = b'id,text\n1,"two\nlines"\n2\n3,\xff\n\n4,d\n'
    path = _written(tmp_path, "rows.csv", data)
    good, short, foreign, last = _read(path)
    assert [entry.where for entry in (good, short, foreign, last)] == [
        f"{path}:{number}" for number in (2, 4, 5, 7)
    ]
    assert short.problem == "1 values, expected 2 columns"
    assert foreign.problem == "is not UTF-8"
    assert [entry[1] for entry in _as_tuples([good, last])] == ["two\nlines", "d"]


def test_a_line_too_long_is_skipped_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_LONGEST_LINE", 100)
    path = _written(tmp_path, "rows.txt", b"first\n" + b"x" * 1000 + b"\nlast\n")
    first, long, last = _read(path)
    assert long.where == f"{path}:2"
    assert "longer than 100 bytes" in long.problem
    assert [entry[1] for entry in _as_tuples([first, last])] == ["first", "last"]
    # A line of exactly that length is one.
    path = _written(tmp_path, "rows.txt", b"x" * 100 + b"\n" + b"y" * 99 + b"\n" + b"z" * 101)
    assert [entry.problem[:6] for entry in _read(path)] == ["", "", "longer"]
    path = _written(tmp_path, "rows.csv", b"id,text\n1," + b"x" * 1000 + b"\n2,last\n")
    problem, last = _read(path)
    assert "field larger than field limit" in problem.problem
    assert _as_tuples([last])[0][1] == "last"


@given(st.binary(max_size=300), st.sampled_from([one for one in Format if one.value != "auto"]))
def test_any_bytes_give_entries_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, wanted: Format
) -> None:
    path = _written(tmp_path_factory.getbasetemp(), "noise", data)
    try:
        entries = _read(path, wanted=wanted)
    except UnreadableInput as error:
        assert str(path) in str(error)  # noqa: PT017  either outcome will do
    else:
        assert all((entry.document is None) == bool(entry.problem) for entry in entries)


def test_a_gzip_file_that_breaks_off_gives_what_was_whole(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"line {number}\n" for number in range(20_000)).encode())
    path = _written(tmp_path, "rows.txt.gz", whole[: len(whole) // 2])
    got: list[Entry] = []
    with (
        open_input(str(path), Format.AUTO, ALL) as source,
        pytest.raises(UnreadableInput, match=r"rows\.txt\.gz: the gzip file is damaged"),
    ):
        # extend keeps what came before the error.
        got.extend(source.entries)
    assert len(got) > 100
    assert got[0].document is not None
    assert got[0].document.text == "line 0"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "text".encode("utf-16"), "is UTF-16"),
        ("a.csv", b"id,text,id\n", "stands twice"),
        ("a.csv", b"", "no column 'text'; its columns: none"),
        ("a.parquet", b"PAR1 but no", "is not Parquet"),
        ("a.parquet.gz", gzip.compress(b"x"), "is not Parquet"),
        ("a.gz", b"\x1f\x8b but no", "gzip file is damaged"),
    ],
)
def test_an_input_that_is_something_else_says_so(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = _written(tmp_path, name, data)
    with pytest.raises(UnreadableInput, match=message) as caught:
        _read(path)
    assert str(path) in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnreadableInput, match=r"pip install 'nestvec\[parquet\]'"):
        _read(tmp_path / "a.parquet")


# --- which format -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.ndjson", b"", Format.JSONL),
        ("a.JSON", b"", Format.JSONL),
        ("a.tab", b"id\ttext\n", Format.TSV),
        ("a.csv.gz", gzip.compress(b"id,text\n"), Format.CSV),
        ("a.txt", b'{"text": "x"}', Format.TEXT),
        ("no-ending", b' {"text": "x"}\n', Format.JSONL),
        ("no-ending", b"plain\n", Format.TEXT),
        ("a.log.gz", gzip.compress(b'{"text": "x"}'), Format.JSONL),
        ("plain-name-of-gzip", gzip.compress(b"plain"), Format.TEXT),
    ],
)
def test_the_format_goes_by_the_ending_and_then_by_the_first_character(
    tmp_path: Path, name: str, data: bytes, expected: Format
) -> None:
    path = _written(tmp_path, name, data)
    with open_input(str(path), Format.AUTO, ALL) as source:
        assert source.format is expected
        assert source.total == len(data)


def test_standard_input_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    piped(b"one\ntwo\n")
    assert _as_tuples(_read("-")) == [("stdin:1", "one", {}), ("stdin:2", "two", {})]
    piped(gzip.compress(b'{"id": "a", "text": "x"}\n'))
    assert _as_tuples(_read("-")) == [("a", "x", {})]
    piped(b"id,text\n1,x\n")
    assert _as_tuples(_read("-", wanted=Format.CSV)) == [("1", "x", {})]
    with pytest.raises(UnreadableInput, match="name the file"):
        _read("-", wanted=Format.PARQUET)
