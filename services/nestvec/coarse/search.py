"""Searching one state of a tier: which rows come into question, and what is known of them.

Without a filter each segment's index offers its best rows. With one, the rows that match are known
first. Where they are few they are all scored from their int8 codes, which is exact but for rounding
and misses none; where they are many, the index searches among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nestvec.coarse.bounding import Part, bound_all
from nestvec.coarse.field_columns import FieldTable, Matching
from nestvec.coarse.segment import Columns, Segment, View, concatenate
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.errors import DegenerateVector
from nestvec.core.filters import CheckedFilter
from nestvec.core.ports import CoarseHits
from nestvec.core.sketch import TailSketch

# A plain tier answer is ordered by int8 scores, so the 4-bit scan must offer more than is asked.
_SCAN_FACTOR = 8
_SCAN_LEAST = 80
# Where matches are few, so many times the candidates asked for are bounded: more bounds cost less
# than they tell, since nothing is then left outside unknown.
_BOUND_FACTOR = 2
# So many are never too few: a GPU's index offers about twice as many and no more, whatever is
# asked, and all that are allowed may be millions.
_ENOUGH = 1024
# From so many scores on, those that cannot be among the best are left out before sorting.
_SORTED_WHOLE = 1000

_Rows = NDArray[np.int64]
# Of each segment, for each query: the rows that come into question, maybe padded with -1.
_Found = list[tuple[Columns, Sequence[_Rows]]]
_Parts = list[tuple[Columns, _Rows]]


def unit_heads(queries: Floats, dim: int) -> Floats:
    """(n, dim) float32: the queries' prefixes, of unit length. Raises DegenerateVector."""
    heads = queries[:, :dim]
    # One by one: for a single query that is four times as fast as what numpy does for many.
    norms = [math.sqrt(head.dot(head)) for head in heads]
    for norm in norms:
        # Not the negation of "zero": NaN is no length either.
        if not norm > 0.0:
            raise DegenerateVector(
                "query.vector", f"zero over its first {dim} dimensions; ask for a longer coarse_dim"
            )
    unit: Floats = heads / np.array(norms, np.float32)[:, None]
    return unit


def scan_count(count: int, bounded: bool) -> int:
    """How many rows each segment's index is asked for."""
    return count if bounded else max(_SCAN_FACTOR * count, _SCAN_LEAST)


def search_plain(
    views: Sequence[View],
    queries: Floats,
    count: int,
    table: FieldTable,
    wanted: CheckedFilter | None,
) -> tuple[Iterator[CoarseHits], int]:
    """The tier's own cosines. queries: (n, dim) float32, unit. Returns one hits a query, each made
    as it is taken, and how many documents match.
    """
    scan = scan_count(count, bounded=False)
    found, matching = _found(views, queries, scan, table, wanted)
    hits = (_plain(_parts(found, number), query, count) for number, query in enumerate(queries))
    return hits, matching


def search_bounded(
    views: Sequence[View],
    queries: Floats,
    count: int,
    sketch: TailSketch,
    bound_z: float,
    table: FieldTable,
    wanted: CheckedFilter | None,
    certified_k: int = 0,
) -> tuple[Iterator[CoarseHits], int]:
    """As `search_plain`, with estimates of the full cosine. queries: (n, full_dim), unit.
    certified_k: see ports.CoarseQuery.
    """
    heads = unit_heads(queries, sketch.coarse_dim)
    if certified_k > 0 and all(view.segment.index.reads_every_row for view in views):
        every = [_every(view, table, wanted) for view in views]
        return (
            bound_all(every, query, count, certified_k, sketch, bound_z) for query in queries
        ), sum(map(len, every))
    found, matching = _found(views, heads, count, table, wanted)

    def bounded(number: int) -> CoarseHits:
        parts = [
            (columns, _fewer(columns, rows, heads[number], count))
            for columns, rows in _parts(found, number)
        ]
        return _bounded(parts, queries[number], count, sketch, bound_z, matching)

    return map(bounded, range(len(queries))), matching


# --- which rows -----------------------------------------------------------------------------------


def _found(
    views: Sequence[View],
    heads: Floats,
    scan: int,
    table: FieldTable,
    wanted: CheckedFilter | None,
) -> tuple[_Found, int]:
    """Rows that come into question, at least `scan` a segment where so many match; and how many
    match in all.
    """
    found: _Found = []
    matching = 0
    for view in views:
        segment = view.segment
        if wanted is None:
            found_rows = _scanned(segment, heads, min(scan, view.live), view.alive)
            matching += view.live
        else:
            those = view.matching(table, wanted)
            found_rows = _matching_rows(view, heads, scan, those)
            matching += those.count
        found.append((segment.columns, found_rows))
    return found, matching


def _every(view: View, table: FieldTable, wanted: CheckedFilter | None) -> Part:
    """All rows of a segment that match, offered by an index or not."""
    columns = view.segment.columns
    if wanted is not None:
        those = view.matching(table, wanted)
        return Part(columns, None if those.count == len(columns) else those.numbers())
    return Part(columns, None if view.alive is None else np.flatnonzero(view.alive))


def _matching_rows(view: View, heads: Floats, scan: int, those: Matching) -> Sequence[_Rows]:
    if those.rows is not None or those.count <= scan:
        return [those.numbers()] * len(heads)
    allowed = None if those.count == len(view.segment) else those.mask
    return _scanned(view.segment, heads, scan, allowed)


def _scanned(segment: Segment, heads: Floats, count: int, allowed: Bools | None) -> Sequence[_Rows]:
    """count: at most as many as are allowed."""
    rows, _ = segment.index.search(heads, count, allowed)
    if allowed is None:
        return list(rows)
    short = rows[:, min(count, _ENOUGH) - 1] < 0
    if not short.any():
        return list(rows)
    # An index that takes no selector (a GPU's) drops what is not allowed from the best that it can
    # return; where too few are left, all that are allowed come into question.
    everything = np.flatnonzero(allowed)
    return [everything if few else mine for mine, few in zip(rows, short, strict=True)]


def _parts(found: _Found, number: int) -> _Parts:
    """What was found for one query."""
    parts = []
    for columns, rows in found:
        mine = rows[number]
        if len(mine) and mine[-1] < 0:
            mine = mine[mine >= 0]
        parts.append((columns, mine))
    return parts


def _fewer(columns: Columns, rows: _Rows, head: Floats, count: int) -> _Rows:
    """Of rows that are more than shall be bounded, the best by prefix."""
    if len(rows) <= _BOUND_FACTOR * count:
        return rows
    scores = columns.prefix_scores(rows, head)
    best: _Rows = rows[np.argpartition(scores, len(rows) - count)[len(rows) - count :]]
    return best


# --- what is known of them ------------------------------------------------------------------------


def _plain(parts: _Parts, head: Floats, count: int) -> CoarseHits:
    """The best by the cosine of int8 prefixes; the sketch is not touched. Ties by id."""
    if not parts:
        return _nothing()
    columns, rows = parts[0]
    if len(parts) == 1:
        # In one segment ids ascend with the rows: in that order they are gathered faster, and a
        # stable sort settles ties.
        rows = np.sort(rows)
        scores = columns.prefix_scores(rows, head)
        best = _first(-scores, count)
        ids = columns.ids.take(rows.take(best))
    else:
        scores = columns.prefix_scores(rows, head)
        rest = [columns.prefix_scores(rows, head) for columns, rows in parts[1:]]
        scores = np.concatenate([scores, *rest])
        all_ids = np.concatenate([columns.ids.take(rows) for columns, rows in parts])
        best = _best(all_ids, scores, count)
        ids = all_ids.take(best)
    return CoarseHits(ids, scores.take(best), np.zeros(len(best), np.float32), None)


def _first(lower: Floats, count: int) -> NDArray[np.int64]:
    """The places of the `count` lowest; of equal ones the earlier."""
    if len(lower) <= max(_SORTED_WHOLE, 2 * count):
        return lower.argsort(kind="stable")[:count]
    last = np.partition(lower, count - 1)[count - 1]
    kept = np.flatnonzero(lower <= last)
    return kept[lower[kept].argsort(kind="stable")[:count]]


def _best(ids: Ids, scores: Floats, count: int) -> NDArray[np.int64]:
    """The places of the best `count`: by score, then by id."""
    lower = -scores
    if len(scores) > max(_SORTED_WHOLE, 2 * count):
        last = np.partition(lower, count - 1)[count - 1]
        kept = np.flatnonzero(lower <= last)
        return kept[np.lexsort((ids[kept], lower[kept]))[:count]]
    return np.lexsort((ids, lower))[:count]


def _bounded(
    parts: _Parts, query: Floats, count: int, sketch: TailSketch, bound_z: float, matching: int
) -> CoarseHits:
    if not parts:
        return _nothing()
    columns = concatenate([columns.take(rows) for columns, rows in parts])
    prefixes = columns.prefixes
    head = query[: sketch.coarse_dim]
    prefix_scores = (prefixes.codes.astype(np.float32) @ head) * prefixes.scales
    estimates, half_widths = sketch.query(query).bound(
        prefix_scores, prefixes.scales, columns.sketch, bound_z
    )
    uppers = estimates + half_widths
    order = np.argsort(-uppers)
    best, rest = order[:count], order[count:]
    # Only where every document that matches was bounded is anything known of those not returned.
    rest_upper, rest_width = None, 0.0
    if len(columns) == matching:
        # A bound that is no number is none: NaN stays NaN.
        rest_upper = float(uppers[rest].max(initial=-np.inf))
        rest_width = float(half_widths[rest].max(initial=0.0))
    return CoarseHits(
        columns.ids[best],
        estimates[best],
        half_widths[best],
        rest_upper,
        matching - len(best),
        rest_width,
    )


def _nothing() -> CoarseHits:
    empty = np.empty(0, np.float32)
    return CoarseHits(np.empty(0, np.int64), empty, empty, -np.inf)
