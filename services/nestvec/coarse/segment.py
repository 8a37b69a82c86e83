"""Segments: immutable sets of rows with one index, and the columns that refine what it finds.

A segment never changes after it was built. What is deleted of it is a bitmap beside it, owned by
the tier's state; what is added becomes a new segment. That is how upserts, deletes and immutable
indexes (fast-scan, GPU) live together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nestvec.coarse.field_columns import (
    NO_FIELDS,
    FieldColumns,
    FieldTable,
    MaskCache,
    Matching,
    concatenate_fields,
)
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codec import Int8Codes
from nestvec.core.document import FieldValue
from nestvec.core.errors import DegenerateVector
from nestvec.core.filters import CheckedFilter
from nestvec.core.ports import CoarseIndex, CoarseIndexFactory
from nestvec.core.sketch import SketchColumns, TailSketch
from nestvec.core.tier_rows import TierRows

# Before the name of a field, among the names of columns.
_FIELD = "field-"
# Rows whose codes are decoded at once: few enough that they stay in the processor's cache.
_DECODED_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class CoarseRows:
    """What a shard indexes and unindexes in one step.

    ids: (n,) int64. vectors: (n, store_dim) float32, as the store gives them back; of a copy of
    prefixes, the rows of its tier. removed: (m,) int64 ids that must no longer be found; one that
    is in `ids` too is replaced. fields: n documents' fields, where the collection declares any.
    """

    ids: Ids
    vectors: Floats | TierRows
    removed: Ids
    fields: Sequence[Mapping[str, FieldValue]] | None = None

    def chosen(self, mask: Bools) -> CoarseRows:
        """Some of what is to be indexed, and nothing to be removed. mask: (n,) bool."""
        places = np.flatnonzero(mask)
        fields = self.fields
        if fields is not None:
            fields = [fields[place] for place in places.tolist()]
        return CoarseRows(self.ids[mask], _taken(self.vectors, places), self.removed[:0], fields)


def _taken(vectors: Floats | TierRows, places: NDArray[np.int64]) -> Floats | TierRows:
    return vectors.take(places) if isinstance(vectors, TierRows) else vectors[places]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What a coarse tier keeps of each document beside the index. ids ascend.

    ids: (n,) int64. prefixes: int8 codes of the renormalised prefix. sketch: of the tail. fields:
    what can be filtered on.
    """

    ids: Ids
    prefixes: Int8Codes
    sketch: SketchColumns
    fields: FieldColumns = NO_FIELDS

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """Every column by name, n rows each: for a snapshot. `from_arrays` reverses it."""
        return {
            "ids": self.ids,
            "codes": self.prefixes.codes,
            "scales": self.prefixes.scales,
            "bits": self.sketch.bits,
            "head_norms": self.sketch.head_norms,
            "tail_norms": self.sketch.tail_norms,
            "corrections": self.sketch.corrections,
            **{_FIELD + name: array for name, array in self.fields.arrays.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Columns:
        """Raises KeyError where a column is missing."""
        return cls(
            arrays["ids"],
            Int8Codes(arrays["codes"], arrays["scales"]),
            SketchColumns(
                arrays["bits"],
                arrays["head_norms"],
                arrays["tail_norms"],
                arrays["corrections"],
            ),
            FieldColumns(
                {
                    name.removeprefix(_FIELD): array
                    for name, array in arrays.items()
                    if name.startswith(_FIELD)
                }
            ),
        )

    def take(self, rows: np.ndarray) -> Columns:
        """Some rows, in the order given."""
        # `take` gathers rows in half the time that indexing does.
        prefixes = Int8Codes(
            self.prefixes.codes.take(rows, axis=0), self.prefixes.scales.take(rows)
        )
        return Columns(
            self.ids.take(rows), prefixes, self.sketch.take(rows), self.fields.take(rows)
        )

    def prefix_scores(self, rows: np.ndarray, head: Floats) -> Floats:
        """(m,) float32: inner products of some rows' prefixes, which are of unit length, with a
        query's. head: (dim,) float32.
        """
        if len(rows) > _DECODED_ROWS:
            pieces = [
                self.prefix_scores(rows[start : start + _DECODED_ROWS], head)
                for start in range(0, len(rows), _DECODED_ROWS)
            ]
            return np.concatenate(pieces)
        codes = self.prefixes.codes.take(rows, axis=0).astype(np.float32)
        scores: Floats = codes.dot(head)
        scores *= self.prefixes.scales.take(rows)
        return scores

    def rows_of(self, ids: Ids) -> np.ndarray:
        """Row numbers of those of `ids` that are here."""
        return self.places_of(ids)[1]

    def places_of(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(places in `ids`, row numbers here) of those that are here."""
        if not len(self.ids):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows = np.searchsorted(self.ids, ids)
        rows[rows == len(self.ids)] = 0
        places = np.flatnonzero(self.ids[rows] == ids)
        return places, rows[places]


def encode_columns(
    ids: Ids, vectors: Floats | TierRows, sketch: TailSketch, fields: FieldColumns = NO_FIELDS
) -> Columns:
    """Columns of new rows, sorted by id.

    ids: (n,) int64. vectors: (n, store_dim) float32, as the store gives them back; or n rows that
    another region made with this very sketch. fields: n rows. Raises DegenerateVector when a prefix
    has no direction: ingest refuses such documents first.
    """
    order = np.argsort(ids)
    if isinstance(vectors, TierRows):
        made = vectors.take(order)
        return Columns(ids[order], made.prefixes, made.sketch, fields.take(order))
    vectors = vectors[order]
    dim = sketch.coarse_dim
    # Not the negation of "zero": NaN is no direction either.
    if not (np.linalg.norm(vectors[:, :dim], axis=1) > 0.0).all():
        raise DegenerateVector("vector", f"no direction over its first {dim} dimensions")
    return Columns(
        ids[order], sketch.encode_prefixes(vectors), sketch.encode(vectors), fields.take(order)
    )


def concatenate(parts: Sequence[Columns]) -> Columns:
    """All rows of several columns, sorted by id; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    sketches = [part.sketch for part in parts]
    return Columns(
        ids[order],
        Int8Codes(
            np.concatenate([part.prefixes.codes for part in parts])[order],
            np.concatenate([part.prefixes.scales for part in parts])[order],
        ),
        SketchColumns(
            np.concatenate([sketch.bits for sketch in sketches])[order],
            np.concatenate([sketch.head_norms for sketch in sketches])[order],
            np.concatenate([sketch.tail_norms for sketch in sketches])[order],
            np.concatenate([sketch.corrections for sketch in sketches])[order],
        ),
        concatenate_fields([part.fields for part in parts], order),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Columns and the index over their prefixes. masks: of the last filters."""

    columns: Columns
    index: CoarseIndex
    masks: MaskCache = field(default_factory=MaskCache)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def nbytes(self) -> int:
        """Bytes held, index included."""
        return self.columns.nbytes + self.index.nbytes

    @property
    def label(self) -> str:
        """Kind and size, such as "pq128x4fs:200000"."""
        return f"{self.index.kind}:{len(self)}"

    def matching(self, table: FieldTable, wanted: CheckedFilter) -> Matching:
        """Its rows that match, deleted ones too."""
        return self.masks.get(
            wanted, lambda: table.mask(self.columns.fields, wanted, len(self.columns))
        )


def build_segment(columns: Columns, factory: CoarseIndexFactory) -> Segment:
    """Index the prefixes of `columns`: from the codes, so that a merge needs no store."""
    return Segment(columns, factory.build(columns.prefixes.decode()))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A segment as one state of the tier sees it. alive: (n,) bool, None when all rows are. live:
    how many are.
    """

    segment: Segment
    alive: Bools | None = None
    live: int = field(init=False)

    def __post_init__(self) -> None:
        # Counted once: every search asks.
        live = len(self.segment) if self.alive is None else int(np.count_nonzero(self.alive))
        object.__setattr__(self, "live", live)

    def matching(self, table: FieldTable, wanted: CheckedFilter) -> Matching:
        """Its live rows that match."""
        found = self.segment.matching(table, wanted)
        return found if self.alive is None else found.among(self.alive)

    def without(self, ids: Ids) -> View:
        """The view after deleting those of `ids` that are here."""
        rows = self.segment.columns.rows_of(ids)
        if not len(rows):
            return self
        alive = np.ones(len(self.segment), np.bool_) if self.alive is None else self.alive.copy()
        alive[rows] = False
        return View(self.segment, alive)

    def live_columns(self) -> Columns:
        """The columns without the deleted rows."""
        if self.alive is None:
            return self.segment.columns
        return self.segment.columns.take(np.flatnonzero(self.alive))
