"""Input files as documents: JSON lines, CSV, TSV, Parquet and plain text, gzip or not.

A row that cannot be a document becomes an entry that says where and why, and reading goes on. Only
an input that cannot be read at all raises.
"""

from __future__ import annotations

import csv
import enum
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestvec.client.values import IngestDocument
from nestvec_cluster.rows import (
    Columns,
    Entry,
    UnreadableInput,
    entry_of,
    require_columns,
    typed,
)

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

STDIN = "-"
# A longer line is no passage. It is reported, and skipped without being held in memory.
_LONGEST_LINE = 16 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_ROWS = 1024


class Format(enum.StrEnum):
    """How an input is written. AUTO goes by the name's ending, then by the first character."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    TEXT = "text"


_ENDINGS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".txt": Format.TEXT,
    ".text": Format.TEXT,
}


@dataclass(frozen=True, slots=True)
class Input:
    """One input, open. total: bytes, or rows of Parquet; None when unknown. position: of those,
    how many are behind.
    """

    name: str
    format: Format
    entries: Iterator[Entry]
    total: int | None
    position: Callable[[], int]


@contextmanager
def open_input(name: str, wanted: Format, columns: Columns) -> Iterator[Input]:
    """Open `name` (`-` for standard input). Raises UnreadableInput or OSError."""
    chosen = _format_of(name, wanted)
    if chosen is Format.PARQUET:
        yield _parquet(name, columns)
        return
    shown = "stdin" if name == STDIN else name
    with ExitStack() as stack:
        if name == STDIN:
            raw = _peekable(sys.stdin.buffer)
        else:
            raw = stack.enter_context(Path(name).open("rb"))
        stream, start = _unpacked(raw, shown)
        if start.startswith(_UTF16):
            raise UnreadableInput(f"{shown}: is UTF-16; convert it to UTF-8 first")
        if chosen is Format.AUTO:
            begins_with = start.removeprefix(_BOM).lstrip()[:1]
            chosen = Format.JSONL if begins_with == b"{" else Format.TEXT
        entries = _guarded(shown, _ROWS[chosen](shown, stream, columns))
        if name != STDIN and Path(name).is_file():
            yield Input(shown, chosen, entries, Path(name).stat().st_size, raw.tell)
        else:
            yield Input(shown, chosen, entries, None, lambda: 0)


def _format_of(name: str, wanted: Format) -> Format:
    if wanted is not Format.AUTO:
        return wanted
    path = Path(name.removesuffix(".gz"))
    return _ENDINGS.get(path.suffix.lower(), Format.AUTO)


def _peekable(stream: Any) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)


def _unpacked(raw: io.BufferedReader, shown: str) -> tuple[io.BufferedReader, bytes]:
    """The bytes to read, and the first few of them. gzip is known by its magic number."""
    if not raw.peek(2).startswith(_GZIP_MAGIC):
        return raw, raw.peek(64)[:64]
    unpacked = _peekable(gzip.GzipFile(fileobj=raw))
    try:
        return unpacked, unpacked.peek(64)[:64]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableInput(f"{shown}: the gzip file is damaged ({error})") from None


def _guarded(name: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    """A file that breaks off in the middle names itself."""
    try:
        yield from entries
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableInput(f"{name}: the gzip file is damaged ({error})") from None


# --- formats ------------------------------------------------------------------------------------


def _text(name: str, stream: io.BufferedReader, columns: Columns) -> Iterator[Entry]:
    """One passage a line, with its place as its id; blank lines are none."""
    del columns
    for where, line, problem in _lines(name, stream):
        if problem:
            yield Entry(where, None, problem)
        elif line.strip():
            yield Entry(where, IngestDocument(where, line))


def _jsonl(name: str, stream: io.BufferedReader, columns: Columns) -> Iterator[Entry]:
    """One object a line; blank lines are none."""
    for number, (where, line, problem) in enumerate(_lines(name, stream), 1):
        if problem:
            yield Entry(where, None, problem)
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Entry(where, None, f"is not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield entry_of(name, number, row, columns)
        else:
            yield Entry(where, None, f"a {type(row).__name__}, expected an object on each line")


def _lines(name: str, stream: io.BufferedReader) -> Iterator[tuple[str, str, str]]:
    """(where, line, problem) of every physical line, in bounded memory."""
    number = 0
    while data := stream.readline(_LONGEST_LINE + 1):
        number += 1
        where = f"{name}:{number}"
        if len(data) > _LONGEST_LINE and not data.endswith(b"\n"):
            while (rest := stream.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            yield where, "", f"longer than {_LONGEST_LINE:,} bytes; split it into passages"
            continue
        if number == 1:
            data = data.removeprefix(_BOM)
        try:
            yield where, data.decode().rstrip("\r\n"), ""
        except UnicodeDecodeError as error:
            yield where, "", f"is not UTF-8 (byte {error.start + 1} of the line)"


def _csv(name: str, stream: io.BufferedReader, columns: Columns) -> Iterator[Entry]:
    """Comma-separated with a header; quotes as RFC 4180 has them. Every field is a string."""
    return _separated(name, stream, columns, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _tsv(name: str, stream: io.BufferedReader, columns: Columns) -> Iterator[Entry]:
    """Tab-separated with a header, never quoted, as text/tab-separated-values has it."""
    return _separated(name, stream, columns, delimiter="\t", quoting=csv.QUOTE_NONE)


def _separated(
    name: str, stream: io.BufferedReader, columns: Columns, **dialect: Any
) -> Iterator[Entry]:
    csv.field_size_limit(_LONGEST_LINE)
    # Bytes that are not UTF-8 pass as lone surrogates, and are found in their row.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, **dialect)
    try:
        yield from _rows(name, rows, columns)
    finally:
        text.detach()  # or it would close what it was lent


def _rows(name: str, rows: CsvReader, columns: Columns) -> Iterator[Entry]:
    header = _header(name, rows, columns)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Entry(f"{name}:{line}", None, f"is not CSV ({error})")
            continue
        if not row:
            continue
        where = f"{name}:{line}"
        if len(row) != len(header):
            yield Entry(where, None, f"{len(row)} values, expected {len(header)} columns")
        elif any(_is_damaged(value) for value in row):
            yield Entry(where, None, "is not UTF-8")
        else:
            yield entry_of(name, line, typed(dict(zip(header, row, strict=True)), columns), columns)


def _header(name: str, rows: Iterator[list[str]], columns: Columns) -> list[str]:
    try:
        header = [column.strip() for column in next(rows, [])]
    except csv.Error as error:
        raise UnreadableInput(f"{name}: its header cannot be read ({error})") from None
    if len(set(header)) != len(header):
        raise UnreadableInput(f"{name}: a column name stands twice in its header")
    require_columns(name, header, columns)
    return header


def _is_damaged(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


_ROWS = {Format.TEXT: _text, Format.JSONL: _jsonl, Format.CSV: _csv, Format.TSV: _tsv}


def _parquet(name: str, columns: Columns) -> Input:
    if name == STDIN:
        raise UnreadableInput("Parquet cannot be read from standard input; name the file")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UnreadableInput(
            f"{name}: reading Parquet needs pyarrow; install it with: "
            f"python -m pip install 'nestvec[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(name)
    except pyarrow.ArrowInvalid as error:
        raise UnreadableInput(f"{name}: is not Parquet ({error})") from None
    known = file.schema_arrow.names
    require_columns(name, known, columns)
    wanted = None
    if columns.fields is not None:
        chosen = {columns.id or "id", columns.text, *columns.fields}
        wanted = [column for column in known if column in chosen]
    done = [0]

    def entries() -> Iterator[Entry]:
        try:
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    done[0] += 1
                    yield entry_of(name, done[0], row, columns)
        except pyarrow.ArrowException as error:
            raise UnreadableInput(f"{name}: the Parquet file is damaged ({error})") from None

    total = file.metadata.num_rows
    return Input(name, Format.PARQUET, entries(), total, lambda: done[0])
