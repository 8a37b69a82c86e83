"""What one tier knows of documents that a search should have found: see core/inspection.py.

Each segment's index is asked as the search asked it, and once more with nothing allowed but those
documents: so the score that its own code gives is known for any kind of index, and so is whether it
gets there at all.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.search import scan_count, unit_heads
from nestvec.coarse.segment import CoarseRows, View
from nestvec.coarse.tier import Tier
from nestvec.coarse.verify import different_rows
from nestvec.core.arrays import Floats, Ids
from nestvec.core.inspection import Inspection, InspectionRequest

# From the median deviation to the standard deviation of a Gaussian.
_TO_SIGMA = 1.4826
# So many of the documents that the index puts first tell how much its code errs.
_COMPARED = 256


def inspect_tier(
    tier: Tier, request: InspectionRequest, rows: CoarseRows, table: FieldTable
) -> Inspection:
    """rows: those of the documents whose stored vector can be read, as it is now. Raises
    DegenerateVector for a query without a direction in this tier.
    """
    began = time.thread_time()
    state = tier.state
    heads = unit_heads(request.queries, tier.dim)
    scan = scan_count(request.count, request.bounded)
    found = Inspection.unknown(len(request.ids))
    different, _ = different_rows(tier, state, rows, table)
    found.sound[:] = ~np.isin(request.ids, different)
    for view in state.views:
        pairs, places = _here(view, request.ids)
        for number in np.unique(request.rows[pairs]).tolist():
            mine = request.rows[pairs] == number
            _inspect_query(view, heads[number], scan, pairs[mine], places[mine], found)
    return replace(found, cpu_s=time.thread_time() - began)


def _here(view: View, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `ids` live in a segment, and the rows that they have there."""
    pairs, places = view.segment.columns.places_of(ids)
    if view.alive is None:
        return pairs, places
    alive = view.alive[places]
    return pairs[alive], places[alive]


def _inspect_query(
    view: View,
    head: Floats,
    scan: int,
    pairs: NDArray[np.int64],
    places: NDArray[np.int64],
    found: Inspection,
) -> None:
    """Fill in the pairs of one query and one segment. places: their rows."""
    index, columns = view.segment.index, view.segment.columns
    query = head[None]
    asked = min(scan, view.live)
    rows, scores = index.search(query, min(max(scan, _COMPARED), view.live), view.alive)
    best, best_scores = rows[0][rows[0] >= 0], scores[0][rows[0] >= 0]
    offered = best[:asked]
    found.indexed[pairs] = True
    found.offered[pairs] = np.isin(places, offered)
    found.code_scores[pairs] = columns.prefix_scores(places, head)
    found.scan_scores[pairs] = _alone(view, query, places)
    found.cutoffs[pairs] = best_scores[asked - 1] if len(offered) == asked else -np.inf
    if len(best):
        some = np.linspace(0, len(best) - 1, min(len(best), _COMPARED)).astype(np.int64)
        errors = best_scores[some] - columns.prefix_scores(best[some], head)
        median = np.median(errors)
        found.errors[pairs] = median
        found.spreads[pairs] = _TO_SIGMA * np.median(np.abs(errors - median))


def _alone(view: View, query: Floats, places: NDArray[np.int64]) -> Floats:
    """What the index gives some rows when no other ones are allowed; NaN for those it misses."""
    allowed = np.zeros(len(view.segment), np.bool_)
    allowed[places] = True
    wanted = np.unique(places)
    rows, scores = view.segment.index.search(query, len(wanted), allowed)
    by_row = dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
    return np.array([by_row.get(row, np.nan) for row in places.tolist()], np.float32)
