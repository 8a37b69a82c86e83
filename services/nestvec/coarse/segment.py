"""Segments: immutable sets of rows with one index, and the columns that refine what it finds.

A segment never changes after it was built. What is deleted of it is a bitmap beside it, owned by
the tier's state; what is added becomes a new segment. That is how upserts, deletes and immutable
indexes (fast-scan, GPU) live together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codec import Int8Codes
from nestvec.core.errors import DegenerateVector
from nestvec.core.ports import CoarseIndex, CoarseIndexFactory
from nestvec.core.sketch import SketchColumns, TailSketch


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What a coarse tier keeps of each document beside the index. ids ascend.

    ids: (n,) int64. prefixes: int8 codes of the renormalised prefix. sketch: of the tail.
    """

    ids: Ids
    prefixes: Int8Codes
    sketch: SketchColumns

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        arrays = (
            self.ids,
            self.prefixes.codes,
            self.prefixes.scales,
            self.sketch.bits,
            self.sketch.head_norms,
            self.sketch.tail_norms,
            self.sketch.corrections,
        )
        return sum(array.nbytes for array in arrays)

    def take(self, rows: np.ndarray) -> Columns:
        """Some rows, in the order given."""
        # `take` gathers rows in half the time that indexing does.
        prefixes = Int8Codes(
            self.prefixes.codes.take(rows, axis=0), self.prefixes.scales.take(rows)
        )
        return Columns(self.ids.take(rows), prefixes, self.sketch.take(rows))

    def plain(self, rows: np.ndarray, unit_head: Floats) -> tuple[Ids, Floats]:
        """Ids and prefix cosines of some rows. unit_head: (dim,) float32, the query's prefix."""
        codes = self.prefixes.codes.take(rows, axis=0).astype(np.float32)
        scores: Floats = (codes @ unit_head) * self.prefixes.scales.take(rows)
        return self.ids.take(rows), scores

    def rows_of(self, ids: Ids) -> np.ndarray:
        """Row numbers of those of `ids` that are here."""
        if not len(self.ids):
            return np.empty(0, np.int64)
        rows = np.searchsorted(self.ids, ids)
        rows[rows == len(self.ids)] = 0
        here: np.ndarray = rows[self.ids[rows] == ids]
        return here


def encode_columns(ids: Ids, vectors: Floats, sketch: TailSketch) -> Columns:
    """Columns of new rows, sorted by id.

    ids: (n,) int64. vectors: (n, store_dim) float32, as the store gives them back.
    Raises DegenerateVector when a prefix has no direction: ingest refuses such documents first.
    """
    order = np.argsort(ids)
    vectors = vectors[order]
    dim = sketch.coarse_dim
    # Not the negation of "zero": NaN is no direction either.
    if not (np.linalg.norm(vectors[:, :dim], axis=1) > 0.0).all():
        raise DegenerateVector("vector", f"no direction over its first {dim} dimensions")
    return Columns(ids[order], sketch.encode_prefixes(vectors), sketch.encode(vectors))


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
    )


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Columns and the index over their prefixes."""

    columns: Columns
    index: CoarseIndex

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


def build_segment(columns: Columns, factory: CoarseIndexFactory) -> Segment:
    """Index the prefixes of `columns`: from the codes, so that a merge needs no store."""
    return Segment(columns, factory.build(columns.prefixes.decode()))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A segment as one state of the tier sees it. alive: (n,) bool, None when all rows are."""

    segment: Segment
    alive: Bools | None = None

    @property
    def live(self) -> int:
        """How many rows are not deleted."""
        return len(self.segment) if self.alive is None else int(self.alive.sum())

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
