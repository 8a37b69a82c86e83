"""Declared fields as columns beside a segment's rows, and filters as masks over them.

One FieldTable serves all tiers of a shard. It turns what documents say into columns, keywords into
codes of a dictionary that only grows; a column never changes once it is made.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Bools
from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import MISSING_INTEGER, FieldSchema, FieldType, column_value
from nestvec.core.filters import AllOf, AnyOf, CheckedFilter, Exists, Filter, Not, OneOf, Range

Column = NDArray[Any]

_FEW_LEAST = 2048
_FEW_SHARE = 16
# Of each segment: 16 bytes a document beside the 300 to 400 that it takes anyway.
_KEPT_FILTERS = 16

# Of each type: what a column of it holds, and what stands for "missing" in it.
_DTYPE: dict[FieldType, tuple[type[np.generic], float]] = {
    FieldType.KEYWORD: (np.int32, -1),
    FieldType.INTEGER: (np.int64, MISSING_INTEGER),
    FieldType.FLOAT: (np.float64, np.nan),
    FieldType.BOOL: (np.int8, -1),
    FieldType.TIME: (np.int64, MISSING_INTEGER),
}


@dataclass(frozen=True, slots=True, eq=False)
class FieldColumns:
    """One array a declared field, by its name; rows as in the ids beside them.

    keyword: int32 codes of the table's dictionary, -1 where missing. integer, time: int64, the
    least one where missing. float: float64, NaN where missing. bool: int8, -1 where missing.
    """

    arrays: Mapping[str, Column] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays.values())

    def take(self, rows: NDArray[Any]) -> FieldColumns:
        """Some rows, in the order given."""
        if not self.arrays:
            return self
        return FieldColumns({name: array.take(rows) for name, array in self.arrays.items()})


NO_FIELDS = FieldColumns()


def concatenate_fields(parts: Sequence[FieldColumns], order: NDArray[Any]) -> FieldColumns:
    """All rows of several columns of one schema, in `order`."""
    if not parts[0].arrays:
        return NO_FIELDS
    return FieldColumns(
        {
            name: np.concatenate([part.arrays[name] for part in parts])[order]
            for name in parts[0].arrays
        }
    )


class FieldTable:
    """A schema with its keywords. One thread writes at a time; any number read beside it.

    A keyword keeps its code until the table is made again, even when no document has it any more:
    the dictionary is as large as what was ever said since the shard was loaded.
    """

    def __init__(
        self,
        fields: Sequence[FieldSchema] = (),
        keywords: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """keywords: field name -> what `keywords()` of an earlier table returned."""
        self.fields = tuple(fields)
        self._types = {one.name: one.type for one in self.fields}
        self._codes: dict[str, dict[str, int]] = {
            one.name: {word: code for code, word in enumerate((keywords or {}).get(one.name, ()))}
            for one in self.fields
            if one.type is FieldType.KEYWORD
        }
        self._write = threading.Lock()

    def keywords(self) -> dict[str, list[str]]:
        """Field name -> its keywords in the order of their codes: what a snapshot must keep."""
        with self._write:
            return {name: list(codes) for name, codes in self._codes.items()}

    def encode(self, documents: Sequence[Mapping[str, FieldValue]]) -> FieldColumns:
        """Columns of documents' fields, a row a document. What is not of its declared type, which
        ingest refuses, counts as missing.
        """
        if not self.fields:
            return NO_FIELDS
        with self._write:
            return FieldColumns(
                {
                    one.name: self._column(one, [document.get(one.name) for document in documents])
                    for one in self.fields
                }
            )

    def _column(self, schema: FieldSchema, values: list[FieldValue | None]) -> Column:
        dtype, missing = _DTYPE[schema.type]
        column = np.full(len(values), missing, dtype)
        codes = self._codes.get(schema.name)
        for row, value in enumerate(values):
            if value is None:
                continue
            try:
                compared = column_value(schema, value, schema.name)
            except InvalidRequest:
                continue
            if codes is not None:
                assert isinstance(compared, str)
                column[row] = codes.setdefault(compared, len(codes))
            else:
                column[row] = compared
        return column

    def mask(self, columns: FieldColumns, wanted: CheckedFilter, rows: int) -> Bools:
        """(rows,) bool: which rows match. wanted: checked against this table's fields."""
        return self._mask(columns, wanted.root, rows)

    def _mask(self, columns: FieldColumns, wanted: Filter, rows: int) -> Bools:
        match wanted:
            case AllOf(parts):
                mask = np.ones(rows, np.bool_)
                for part in parts:
                    mask &= self._mask(columns, part, rows)
                return mask
            case OneOf(parts):
                mask = np.zeros(rows, np.bool_)
                for part in parts:
                    mask |= self._mask(columns, part, rows)
                return mask
            case Not(part):
                return ~self._mask(columns, part, rows)
        column = columns.arrays[wanted.field]
        match wanted:
            case AnyOf():
                return self._any_of(wanted, column)
            case Range():
                return _range(column, wanted)
            case Exists():
                return _exists(column)

    def _any_of(self, wanted: AnyOf, column: Column) -> Bools:
        if self._types[wanted.field] is FieldType.KEYWORD:
            return self._any_keyword(self._codes[wanted.field], column, wanted.values)
        values = np.array(wanted.values, column.dtype)
        mask: Bools = column == values[0] if len(values) == 1 else np.isin(column, values)
        return mask

    def _any_keyword(
        self, codes: dict[str, int], column: Column, values: Iterable[FieldValue]
    ) -> Bools:
        wanted = [code for value in values if (code := codes.get(str(value))) is not None]
        if not wanted:
            return np.zeros(len(column), np.bool_)
        if len(wanted) == 1:
            mask: Bools = column == wanted[0]
            return mask
        # A look-up by code. The last place is that of -1, which stands for "missing".
        listed = np.zeros(len(codes) + 1, np.bool_)
        listed[wanted] = True
        return listed[column]


def _exists(column: Column) -> Bools:
    if column.dtype == np.float64:
        return ~np.isnan(column)
    mask: Bools = column != (MISSING_INTEGER if column.dtype == np.int64 else -1)
    return mask


def _range(column: Column, wanted: Range) -> Bools:
    """NaN is within no bounds by itself; the least integer lies below every upper one."""
    mask = np.ones(len(column), np.bool_)
    if wanted.greater_than is not None:
        mask &= column > wanted.greater_than
    if wanted.at_least is not None:
        mask &= column >= wanted.at_least
    if wanted.less_than is not None:
        mask &= column < wanted.less_than
    if wanted.at_most is not None:
        mask &= column <= wanted.at_most
    if wanted.greater_than is None and wanted.at_least is None:
        mask &= _exists(column)
    return mask


# --- what matches, kept ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Which rows of a segment match: their numbers, ascending, where they are few (see `few`), else
    a mask over all rows.
    """

    count: int
    rows: NDArray[np.int64] | None
    mask: Bools | None

    @classmethod
    def of(cls, mask: Bools) -> Matching:
        """mask: (rows,) bool."""
        count = int(np.count_nonzero(mask))
        if count <= few(len(mask)):
            return cls(count, np.flatnonzero(mask), None)
        return cls(count, None, mask)

    def among(self, alive: Bools) -> Matching:
        """Those of them that are not deleted. alive: (rows,) bool."""
        if self.rows is None:
            assert self.mask is not None
            return Matching.of(self.mask & alive)
        rows = self.rows[alive.take(self.rows)]
        return Matching(len(rows), rows, None)

    def numbers(self) -> NDArray[np.int64]:
        """As row numbers, however many."""
        if self.rows is not None:
            return self.rows
        assert self.mask is not None
        return np.flatnonzero(self.mask)


def few(rows: int) -> int:
    """Up to how many matches of a segment of `rows` are scored one by one from their int8 codes
    sooner than the index would search among them (benchmarks/RESULTS.md).
    """
    return max(_FEW_LEAST, rows // _FEW_SHARE)


class MaskCache:
    """What the last filters let through of one segment, which never changes: a filter that comes
    again costs nothing. Each holds at most a byte a row.
    """

    def __init__(self, most: int = _KEPT_FILTERS) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Matching] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, wanted: CheckedFilter, make: Callable[[], Bools]) -> Matching:
        """What is kept for `wanted`, or what `make` says, which is then kept."""
        with self._lock:
            found = self._kept.get(wanted.key)
            if found is not None:
                self._kept.move_to_end(wanted.key)
                return found
        # Without the lock: two that come at once both work, and neither waits.
        made = Matching.of(make())
        with self._lock:
            self._kept[wanted.key] = made
            self._kept.move_to_end(wanted.key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made
