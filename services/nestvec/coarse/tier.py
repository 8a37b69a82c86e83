"""One tier of one shard: a state that searches read, and the changes that replace it.

The state is immutable and swapped whole, so a search sees a change completely or not at all and
never waits for one. Writers hold the lock; searches do not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.search import search_bounded, search_plain, unit_heads
from nestvec.coarse.segment import (
    CoarseRows,
    View,
    build_segment,
    concatenate,
    encode_columns,
)
from nestvec.core.arrays import Floats
from nestvec.core.document import FieldValue
from nestvec.core.filters import Filter, validate
from nestvec.core.ports import CoarseHits, CoarseIndexFactory, TierStatus
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


@dataclass(frozen=True, slots=True)
class TierState:
    """What one search sees: views in the order they were added, oldest and largest first. live: how
    many documents can be found.
    """

    views: tuple[View, ...] = ()
    live: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "live", sum(view.live for view in self.views))


class Tier:
    """The searchable prefixes of one length."""

    def __init__(
        self,
        dim: int,
        sketch: TailSketch,
        factory: CoarseIndexFactory,
        table: FieldTable | None = None,
    ) -> None:
        """table: the declared fields, one for all tiers of a shard; None declares none."""
        self.dim = dim
        self._sketch = sketch
        self._factory = factory
        self._table = table or FieldTable()
        self._state = TierState()
        self._write = threading.Lock()

    # --- reading --------------------------------------------------------------------------------

    @property
    def state(self) -> TierState:
        """What a search that begins now would see."""
        return self._state

    @property
    def sketch(self) -> TailSketch:
        """What its codes are made with."""
        return self._sketch

    def search(
        self,
        queries: Floats,
        count: int,
        bound_z: float | None,
        filter: Filter | None = None,  # noqa: A002  the word of ports.CoarseQuery
        certified_k: int = 0,
    ) -> tuple[Iterator[CoarseHits], int, int]:
        """queries: (n, store_dim) float32, unit. Returns one hits a query, each made as it is taken
        (the indexes are searched now), the documents searched, and how many of them match. See
        ports.CoarseQuery. Raises InvalidRequest for a filter that does not fit the fields.
        """
        state, table = self._state, self._table
        wanted = None if filter is None else validate(filter, table.fields)
        if bound_z is None:
            heads = unit_heads(queries, self.dim)
            hits, matching = search_plain(state.views, heads, count, table, wanted)
        else:
            hits, matching = search_bounded(
                state.views, queries, count, self._sketch, bound_z, table, wanted, certified_k
            )
        return hits, state.live, matching

    @property
    def scan_size(self) -> int:
        """Rows times dimensions that one search scans."""
        return sum(len(view.segment) for view in self._state.views) * self.dim

    def status(self) -> TierStatus:
        """Documents, deleted rows, segments and bytes."""
        views = self._state.views
        live = self._state.live
        return TierStatus(
            dim=self.dim,
            documents=live,
            deleted=sum(len(view.segment) for view in views) - live,
            segments=tuple(view.segment.label for view in views),
            nbytes=sum(view.segment.nbytes for view in views),
        )

    # --- writing --------------------------------------------------------------------------------

    def adopt(self, state: TierState) -> None:
        """Take over what a snapshot held, before anything else is done with this tier."""
        self._state = state

    def apply(self, rows: CoarseRows) -> int:
        """Index and unindex in one step. Returns how many documents can then be found."""
        nothing: list[Mapping[str, FieldValue]] = [{}] * len(rows.ids)
        documents = nothing if rows.fields is None else rows.fields
        fields = self._table.encode(documents)
        fresh = encode_columns(rows.ids, rows.vectors, self._sketch, fields)
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
