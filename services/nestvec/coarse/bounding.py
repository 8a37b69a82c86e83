"""Bounding every document of a tier for one query, so that an answer can be certified.

Two passes. The first takes the int8 prefixes alone: what their tails can add at most is known from
their lengths. The second takes the sketch, and only of rows that could still matter: the best by
the first pass, and whatever may reach the best of these. The rest keeps its first bound, and no
document is without one.

No index is asked: reading every int8 prefix takes what an exact scan takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestvec.coarse.segment import Columns
from nestvec.core.arrays import Floats, Ids
from nestvec.core.ports import CoarseHits
from nestvec.core.sketch import SketchColumns, SketchQuery, TailSketch

# Rows at once: few enough that what is made of them stays in the processor's cache.
_BLOCK = 2048
# Rows are worth a second look down to so many standard deviations below the last estimate wanted.
# Its exact score is hardly ever lower; where it is, the answer is not certified, and not wrong.
_BELOW_SIGMAS = 1.5

_Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Of one segment the rows that match, ascending; None for all of them."""

    columns: Columns
    rows: _Rows | None

    def __len__(self) -> int:
        return len(self.columns) if self.rows is None else len(self.rows)


def bound_all(
    parts: Sequence[Part],
    query: Floats,
    count: int,
    wanted: int,
    sketch: TailSketch,
    bound_z: float,
) -> CoarseHits:
    """The `count` best by upper bound, and what none of the others exceeds.

    query: (full_dim,) float32, unit. wanted: how many best the bounds shall be good enough for.
    """
    prepared = sketch.query(query)
    every = [_first_look(part, prepared, query[: sketch.coarse_dim], bound_z) for part in parts]
    uppers = np.concatenate([one.uppers for one in every] or [np.empty(0, np.float32)])
    widths = np.concatenate([one.widths for one in every] or [np.empty(0, np.float32)])
    looked = np.zeros(len(uppers), np.bool_)
    best = _greatest(uppers, max(count, wanted))
    looked[best] = True
    first = _second_look(every, best, prepared, bound_z)
    further = np.flatnonzero((uppers >= _floor(first, wanted, bound_z)) & ~looked)
    looked[further] = True
    ids, estimates, half_widths = _joined(first, _second_look(every, further, prepared, bound_z))
    order = np.argsort(-(estimates + half_widths), kind="stable")
    kept, cut = order[:count], order[count:]
    outside = ~looked
    rest = np.concatenate([estimates[cut] + half_widths[cut], uppers[outside]])
    rest_widths = np.concatenate([half_widths[cut], widths[outside]])
    return CoarseHits(
        ids[kept],
        estimates[kept],
        half_widths[kept],
        float(rest.max(initial=-np.inf)),
        len(rest),
        float(rest_widths.max(initial=0.0)),
    )


@dataclass(frozen=True, slots=True)
class _Looked:
    """A segment's matching rows after the first pass, in columns."""

    part: Part
    scores: Floats
    uppers: Floats
    widths: Floats


_Bounded = tuple[Ids, Floats, Floats]


def _first_look(part: Part, query: SketchQuery, head: Floats, bound_z: float) -> _Looked:
    columns, rows = part.columns, part.rows
    scores = _prefix_scores(part, head)
    scales, sketch = columns.prefixes.scales, columns.sketch
    if rows is not None:
        # Without the bits, which this pass does not read.
        none = np.empty((len(rows), 0), np.uint8)
        sketch = SketchColumns(
            none, sketch.head_norms.take(rows), sketch.tail_norms.take(rows), sketch.corrections
        )
        scales = scales.take(rows)
    return _Looked(part, scores, *query.ceilings(scores, scales, sketch, bound_z))


def _prefix_scores(part: Part, head: Floats) -> Floats:
    """(n,) float32 inner products of unit prefixes with the query's head."""
    columns, rows = part.columns, part.rows
    if rows is not None and 2 * len(rows) < len(columns):
        return columns.prefix_scores(rows, head)
    # Rows in a row need no gathering.
    codes, scores = columns.prefixes.codes, np.empty(len(columns), np.float32)
    block = np.empty((min(_BLOCK, len(codes)), codes.shape[1]), np.float32)
    for start in range(0, len(codes), _BLOCK):
        some = codes[start : start + _BLOCK]
        block[: len(some)] = some
        np.dot(block[: len(some)], head, out=scores[start : start + len(some)])
    scores *= columns.prefixes.scales
    return scores if rows is None else scores.take(rows)


def _greatest(values: Floats, count: int) -> _Rows:
    """The places of the `count` greatest, ascending."""
    if len(values) <= count:
        return np.arange(len(values))
    places = np.argpartition(values, len(values) - count)[len(values) - count :]
    return np.sort(places)


def _floor(bounded: _Bounded, wanted: int, bound_z: float) -> float:
    """Below this no row is worth a second look."""
    _, estimates, half_widths = bounded
    if len(estimates) < wanted:
        return -np.inf
    low = estimates - np.float32(_BELOW_SIGMAS / bound_z) * half_widths
    return float(np.partition(low, len(low) - wanted)[len(low) - wanted])


def _second_look(
    every: Sequence[_Looked], places: _Rows, query: SketchQuery, bound_z: float
) -> _Bounded:
    """Ids, estimates and half widths of some rows. places: ascending, over all segments."""
    found: list[_Bounded] = []
    start = 0
    for one in every:
        stop = start + len(one.uppers)
        first, last = np.searchsorted(places, (start, stop))
        mine = places[first:last] - start
        found += [
            _bounded(one, mine[at : at + _BLOCK], query, bound_z)
            for at in range(0, len(mine), _BLOCK)
        ]
        start = stop
    return _joined(*found)


def _bounded(one: _Looked, mine: _Rows, query: SketchQuery, bound_z: float) -> _Bounded:
    columns = one.part.columns
    rows = mine if one.part.rows is None else one.part.rows.take(mine)
    estimates, half_widths = query.bound(
        one.scores.take(mine),
        columns.prefixes.scales.take(rows),
        columns.sketch.take(rows),
        bound_z,
    )
    return columns.ids.take(rows), estimates, half_widths


def _joined(*parts: _Bounded) -> _Bounded:
    if not parts:
        none = np.empty(0, np.float32)
        return np.empty(0, np.int64), none, none
    ids, estimates, half_widths = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(estimates), np.concatenate(half_widths)
