"""One tier of one shard: a state that searches read, and the changes that replace it.

The state is immutable and swapped whole, so a search sees a change completely or not at all and
never waits for one. Writers hold the lock; searches do not.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.coarse.segment import (
    Columns,
    View,
    build_segment,
    concatenate,
    encode_columns,
)
from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import DegenerateVector
from nestvec.core.ports import CoarseHits, CoarseIndexFactory, CoarseRows, TierStatus
from nestvec.core.sketch import TailSketch

# Fresh rows are indexed exactly and merged as they come, up to this many: cheap enough to do
# before the acknowledgement. More than that is sealed in the background.
_SMALL_ROWS = 4096
_SEAL_ROWS = 16384
# Up to this size one flat segment is the best index there is (benchmarks/RESULTS.md); above, two
# flat segments cost what one would, and merging them only burns time.
_LARGEST_MERGE = 2_000_000
# Deleted rows are skipped by the scan but still cost it time and memory.
_DEAD_SHARE = 0.2
# A plain tier answer is ordered by int8 scores, so the 4-bit scan must offer more than is asked.
_SCAN_FACTOR = 8
_SCAN_LEAST = 100


@dataclass(frozen=True, slots=True)
class TierState:
    """What one search sees: views in the order they were added, oldest and largest first."""

    views: tuple[View, ...] = ()

    @property
    def live(self) -> int:
        """How many documents can be found."""
        return sum(view.live for view in self.views)


class Tier:
    """The searchable prefixes of one length."""

    def __init__(self, dim: int, sketch: TailSketch, factory: CoarseIndexFactory) -> None:
        self.dim = dim
        self._sketch = sketch
        self._factory = factory
        self._state = TierState()
        self._write = threading.Lock()

    # --- reading --------------------------------------------------------------------------------

    def search(
        self, queries: Floats, count: int, bound_z: float | None
    ) -> tuple[list[CoarseHits], int]:
        """queries: (n, store_dim) float32, unit. Returns one hits a query and the documents
        searched. See ports.CoarseQuery.
        """
        state = self._state
        heads = queries[:, : self.dim]
        norms = np.sqrt(np.einsum("ij,ij->i", heads, heads))[:, None]
        if len(norms) and not norms.min() > 0.0:
            raise DegenerateVector(
                "query.vector",
                f"zero over its first {self.dim} dimensions; ask for a longer coarse_dim",
            )
        unit_heads = heads / norms
        scan = count if bound_z is not None else max(_SCAN_FACTOR * count, _SCAN_LEAST)
        found = [
            (view, view.segment.index.search(unit_heads, min(scan, len(view.segment)), view.alive))
            for view in state.views
        ]
        live = state.live
        hits = []
        for number, query in enumerate(queries):
            parts = []
            for view, (rows, _) in found:
                mine = rows[number]
                parts.append((view.segment.columns, mine[mine >= 0]))
            if not parts:
                hits.append(_nothing())
            elif bound_z is None:
                hits.append(_plain(parts, unit_heads[number], count))
            else:
                columns = concatenate([columns.take(rows) for columns, rows in parts])
                hits.append(self._bounded(columns, query, count, bound_z, live))
        return hits, live

    def _bounded(
        self, columns: Columns, query: Floats, count: int, bound_z: float, live: int
    ) -> CoarseHits:
        prefixes = columns.prefixes
        prefix_scores = (prefixes.codes.astype(np.float32) @ query[: self.dim]) * prefixes.scales
        estimates, half_widths = self._sketch.query(query).bound(
            prefix_scores, prefixes.scales, columns.sketch, bound_z
        )
        uppers = estimates + half_widths
        order = np.argsort(-uppers)
        best, rest = order[:count], order[count:]
        # Only where every live document was bounded is anything known of those not returned.
        bounded_all = len(columns) == live
        rest_upper = None
        if bounded_all:
            rest_upper = float(uppers[rest[0]]) if len(rest) else -np.inf
        return CoarseHits(
            columns.ids[best], estimates[best], half_widths[best], rest_upper, live - len(best)
        )

    @property
    def scan_size(self) -> int:
        """Rows times dimensions that one search scans."""
        return sum(len(view.segment) for view in self._state.views) * self.dim

    def status(self) -> TierStatus:
        """Documents, deleted rows, segments and bytes."""
        views = self._state.views
        live = sum(view.live for view in views)
        return TierStatus(
            dim=self.dim,
            documents=live,
            deleted=sum(len(view.segment) for view in views) - live,
            segments=tuple(view.segment.label for view in views),
            nbytes=sum(view.segment.nbytes for view in views),
        )

    # --- writing --------------------------------------------------------------------------------

    def apply(self, rows: CoarseRows) -> int:
        """Index and unindex in one step. Returns how many documents can then be found."""
        fresh = encode_columns(rows.ids, rows.vectors, self._sketch)
        with self._write:
            views = [view.without(rows.removed) for view in self._state.views]
            views = [view for view in views if view.live]
            # Small segments merge as a binary counter does: each row moves a few times at most.
            while (
                views
                and len(views[-1].segment) <= max(len(fresh), 1)
                and (len(views[-1].segment) + len(fresh) <= _SMALL_ROWS)
            ):
                fresh = concatenate([views.pop().live_columns(), fresh])
            if len(fresh):
                views.append(View(build_segment(fresh, self._factory)))
            self._state = TierState(tuple(views))
            return self._state.live

    def compact(self, idle: bool) -> bool:
        """Seal or merge once if that is worth it; `idle` allows the merge into one segment.

        Builds without the lock, so searches and writes go on; deletes that came meanwhile are
        carried over. Only one thread may call this at a time. Returns whether it did anything.
        """
        before = self._state.views
        group = _worth_merging(before, idle)
        if not group:
            return False
        merged = build_segment(concatenate([v.live_columns() for v in group]), self._factory)
        with self._write:
            # A segment that a write has merged or emptied meanwhile is gone from the state; what
            # lives on of it lives in another one.
            now = {id(view.segment): view for view in self._state.views}
            dead = [
                view.segment.columns.ids[_newly_dead(view, now.get(id(view.segment)))]
                for view in group
            ]
            view = View(merged).without(np.concatenate(dead))
            members = {id(old.segment) for old in group}
            kept = [old for old in self._state.views if id(old.segment) not in members]
            larger = [old for old in kept if len(old.segment) > len(merged)]
            smaller = [old for old in kept if len(old.segment) <= len(merged)]
            middle = (view,) if view.live else ()
            self._state = TierState((*larger, *middle, *smaller))
        return True


def _plain(
    parts: Sequence[tuple[Columns, np.ndarray]], unit_head: Floats, count: int
) -> CoarseHits:
    """The tier's own cosines, from the int8 prefixes; the sketch is not touched."""
    found = [columns.plain(rows, unit_head) for columns, rows in parts]
    ids, scores = found[0]
    if len(found) > 1:
        ids = np.concatenate([part[0] for part in found])
        scores = np.concatenate([part[1] for part in found])
    best = np.lexsort((ids, -scores))[:count]
    return CoarseHits(ids[best], scores[best], np.zeros(len(best), np.float32), None)


def _nothing() -> CoarseHits:
    empty = np.empty(0, np.float32)
    return CoarseHits(np.empty(0, np.int64), empty, empty, -np.inf)


def _worth_merging(views: tuple[View, ...], idle: bool) -> list[View]:
    """The views to merge next, or none."""
    small = [view for view in views if len(view.segment) < _SEAL_ROWS]
    dead = [v for v in views if v.live < (1 - _DEAD_SHARE) * len(v.segment)]
    total = sum(view.live for view in views)
    if idle and total <= _LARGEST_MERGE and (len(views) > 1 or dead):
        return list(views)
    if sum(len(view.segment) for view in small) < _SEAL_ROWS:
        return dead[:1]
    group = small
    # Absorb a larger neighbour once the group has grown to its half: merges stay logarithmic.
    for view in sorted(views, key=lambda v: len(v.segment)):
        size = sum(member.live for member in group)
        if view not in group and view.live <= 2 * size and size + view.live <= _LARGEST_MERGE:
            group.append(view)
    return group


def _newly_dead(before: View, after: View | None) -> np.ndarray:
    """Rows that were alive when the merge began and are deleted now."""
    size = len(before.segment)
    was = np.ones(size, np.bool_) if before.alive is None else before.alive
    if after is None:
        return was
    now = np.ones(size, np.bool_) if after.alive is None else after.alive
    return was & ~now


def ids_of(state: TierState) -> Ids:
    """Every live id, ascending: for comparing a tier with the store."""
    parts = [view.live_columns().ids for view in state.views]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
