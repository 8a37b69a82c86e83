"""External ids of what a shard indexes, so that hits have names when the store is lost.

One table a collection and shard, shared by its tiers: immutable chunks sorted by internal id, each
with its names in one run of bytes. What is deleted is a bitmap beside a chunk until a merge drops
it, as in segments. 8 bytes id, 4 bytes offset and the name itself a document.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Bools, Ids

# Fresh rows are merged as they come up to this many; more of them in the background.
_SMALL_ROWS = 4096
# Of one chunk: a merge copies no more than this, and offsets of names of 512 bytes fit 32 bits.
_LARGEST_ROWS = 1 << 20
_DEAD_SHARE = 0.2
# Names that a merge gathers at once: what it needs beside the chunks is eight times their bytes.
_GATHERED_ROWS = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class NameChunk:
    """Names of some documents. A look-up ignores `alive`: an internal id never means another
    document, and a search that began before a deletion may still ask for it.

    ids: (n,) int64, ascending. offsets: (n + 1,) uint32, where each name begins in `text`. text:
    (m,) uint8, UTF-8. alive: (n,) bool, None when all rows are.
    """

    ids: Ids
    offsets: NDArray[np.uint32]
    text: NDArray[np.uint8]
    alive: Bools | None = None
    live: int = field(init=False)

    def __post_init__(self) -> None:
        live = len(self.ids) if self.alive is None else int(np.count_nonzero(self.alive))
        object.__setattr__(self, "live", live)

    @classmethod
    def of(cls, ids: Ids, names: Sequence[str]) -> NameChunk:
        """In any order. ids: (n,) int64, each once."""
        order = np.argsort(ids)
        encoded = [names[row].encode() for row in order.tolist()]
        offsets = np.zeros(len(ids) + 1, np.uint32)
        np.cumsum([len(name) for name in encoded], out=offsets[1:])
        return cls(ids[order], offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name: for a snapshot. `from_arrays` reverses it."""
        arrays: dict[str, NDArray[Any]] = {
            "ids": self.ids,
            "offsets": self.offsets,
            "text": self.text,
        }
        return arrays if self.alive is None else arrays | {"alive": self.alive}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> NameChunk:
        """Raises KeyError where one is missing, ValueError where they do not fit together."""
        ids, offsets, text = arrays["ids"], arrays["offsets"], arrays["text"]
        alive = arrays.get("alive")
        if len(offsets) != len(ids) + 1 or (alive is not None and len(alive) != len(ids)):
            raise ValueError("columns of external ids differ in length")
        if offsets[0] != 0 or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("offsets of external ids do not fit their text")
        return cls(ids, offsets, text, alive)

    def rows_of(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(places in `ids`, row numbers here) of those that are here."""
        if not len(self.ids):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows = np.searchsorted(self.ids, ids)
        rows[rows == len(self.ids)] = 0
        places = np.flatnonzero(self.ids[rows] == ids)
        return places, rows[places]

    def name(self, row: int) -> str:
        """Of one row."""
        return self.text[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def without(self, ids: Ids) -> NameChunk:
        """The chunk after deleting those of `ids` that are here."""
        _, rows = self.rows_of(ids)
        if not len(rows):
            return self
        alive = np.ones(len(self), np.bool_) if self.alive is None else self.alive.copy()
        alive[rows] = False
        return NameChunk(self.ids, self.offsets, self.text, alive)


class NameTable:
    """Internal id -> external id. Any number of threads look up while one writes."""

    def __init__(self, chunks: Sequence[NameChunk] = ()) -> None:
        """chunks: of an earlier table, as a snapshot kept them."""
        self._chunks = tuple(chunks)
        self._write = threading.Lock()

    @property
    def chunks(self) -> tuple[NameChunk, ...]:
        """What a look-up that begins now would see, largest first."""
        return self._chunks

    def __len__(self) -> int:
        return sum(chunk.live for chunk in self._chunks)

    @property
    def nbytes(self) -> int:
        """Bytes held, those of deleted documents included."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def lookup(self, ids: Ids) -> list[str | None]:
        """In the order of `ids`, (n,) int64; None where a name is not known."""
        names: list[str | None] = [None] * len(ids)
        for chunk in self._chunks:
            for place, row in zip(*(part.tolist() for part in chunk.rows_of(ids)), strict=True):
                names[place] = chunk.name(row)
        return names

    def unknown(self, ids: Ids) -> Ids:
        """Those of `ids` that have no name here, in their order."""
        wanted = np.ones(len(ids), np.bool_)
        for chunk in self._chunks:
            wanted[chunk.rows_of(ids)[0]] = False
        return ids[wanted]

    # --- writing --------------------------------------------------------------------------------

    def apply(self, ids: Ids, names: Sequence[str | None], removed: Ids) -> None:
        """Add and delete in one step. None: what is known of that document, if anything, stays.
        Applying the same again changes nothing.

        ids: (n,) int64, each once. removed: (m,) int64; one that is in `ids` too is added again.
        """
        named = np.array([name is not None for name in names], np.bool_)
        fresh = NameChunk.of(ids[named], [name for name in names if name is not None])
        gone = np.concatenate([np.setdiff1d(removed, ids), fresh.ids])
        with self._write:
            chunks = [chunk.without(gone) for chunk in self._chunks]
            chunks = [chunk for chunk in chunks if chunk.live]
            # As a binary counter: each row moves a few times at most.
            while (
                chunks
                and len(chunks[-1]) <= max(len(fresh), 1)
                and len(chunks[-1]) + len(fresh) <= _SMALL_ROWS
            ):
                fresh = _merged([chunks.pop(), fresh])
            if len(fresh):
                chunks.append(fresh)
            self._chunks = tuple(chunks)

    def compact(self, idle: bool) -> bool:
        """Merge once if that is worth it; `idle` allows every merge that makes chunks fewer.

        Merges without the lock; deletions that come meanwhile are carried over. Only one thread may
        call this at a time. Returns whether it did anything.
        """
        group = _worth_merging(self._chunks, idle)
        if not group:
            return False
        merged = _merged(group)
        with self._write:
            now = {id(chunk.ids): chunk for chunk in self._chunks}
            # What a write has merged meanwhile lives in another chunk.
            dead = [chunk.ids[_newly_dead(chunk, now.get(id(chunk.ids)))] for chunk in group]
            members = {id(chunk.ids) for chunk in group}
            kept = [chunk for chunk in self._chunks if id(chunk.ids) not in members]
            merged = merged.without(np.concatenate(dead))
            larger = [chunk for chunk in kept if len(chunk) > len(merged)]
            smaller = [chunk for chunk in kept if len(chunk) <= len(merged)]
            middle = [merged] if merged.live else []
            self._chunks = (*larger, *middle, *smaller)
        return True


def _worth_merging(chunks: Sequence[NameChunk], idle: bool) -> list[NameChunk]:
    """What to merge next, or nothing. The smallest first, up to twice what is gathered so far."""
    group: list[NameChunk] = []
    rows = 0
    for chunk in sorted(chunks, key=len):
        if rows + chunk.live > _LARGEST_ROWS:
            break
        if group and not idle and len(chunk) > 2 * rows:
            break
        group.append(chunk)
        rows += chunk.live
    if len(group) > 1 and (idle or rows > _SMALL_ROWS):
        return group
    return [chunk for chunk in chunks if chunk.live < (1 - _DEAD_SHARE) * len(chunk)][:1]


def _newly_dead(before: NameChunk, after: NameChunk | None) -> Bools:
    """Rows that were alive when the merge began and are deleted now."""
    was = np.ones(len(before), np.bool_) if before.alive is None else before.alive
    if after is None:
        return was
    now = np.ones(len(before), np.bool_) if after.alive is None else after.alive
    newly: Bools = was & ~now
    return newly


def _merged(chunks: Sequence[NameChunk]) -> NameChunk:
    """The live rows of several chunks in one."""
    rows = [
        np.arange(len(chunk)) if chunk.alive is None else np.flatnonzero(chunk.alive)
        for chunk in chunks
    ]
    ids = np.concatenate([chunk.ids[some] for chunk, some in zip(chunks, rows, strict=True)])
    shifts = np.cumsum([0, *(len(chunk.text) for chunk in chunks)])
    starts = np.concatenate(
        [c.offsets[some] + shift for c, some, shift in zip(chunks, rows, shifts[:-1], strict=True)]
    )
    lengths = np.concatenate(
        [np.diff(c.offsets)[some].astype(np.int64) for c, some in zip(chunks, rows, strict=True)]
    )
    order = np.argsort(ids)
    starts, lengths = starts[order], lengths[order]
    offsets = np.zeros(len(ids) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    together = np.concatenate([chunk.text for chunk in chunks])
    text = np.empty(int(offsets[-1]), np.uint8)
    for at, piece in _gathered(together, starts, lengths):
        text[at : at + len(piece)] = piece
    return NameChunk(ids[order], offsets, text)


def _gathered(
    text: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(where it goes, bytes): names one after the other, some thousand at a time."""
    at = 0
    for first in range(0, len(starts), _GATHERED_ROWS):
        some = lengths[first : first + _GATHERED_ROWS]
        before = np.cumsum(some) - some
        places = np.repeat(starts[first : first + _GATHERED_ROWS] - before, some)
        piece = text.take(places + np.arange(len(places)))
        yield at, piece
        at += len(piece)
