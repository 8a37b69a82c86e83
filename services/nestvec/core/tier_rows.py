"""A document's row of one coarse tier, as bytes: what a copy of another region's prefixes is made
of, in the place of full vectors.

A row is what a segment keeps beside its index: the int8 prefix and its scale, three fp16 numbers,
and the 1-bit sketch of the tail; all little-endian. Where it is kept, the eight bytes before it
name format, tier and the draw that it was made with: read with another rotation or dither it would
be noise that looks like a row.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nestvec.core.arrays import Bools, Ids
from nestvec.core.codec import Int8Codes
from nestvec.core.sketch import SketchColumns

# format, kind, dim, first four bytes of the draw: as codec's header, of a kind that no vector has.
_HEADER = struct.Struct("<BBH4s")
_FORMAT = 1
_KIND = 16
# How far from 1 a unit vector's length may be by fp16 norms of an int8 vector, and a unit prefix's
# by its codes: each coordinate is off by up to one step.
_ROUNDING = 0.1
_STEPS = 0.25
# Columns of the sketch beside its bits.
_NORMS = ("head_norms", "tail_norms", "corrections")
# A correction is a cosine; fp16 may round it up.
_LARGEST_CORRECTION = 1.001


@dataclass(frozen=True, slots=True, eq=False)
class TierRows:
    """n rows, in columns. prefixes: (n, dim) int8 codes, with scales. sketch: of the tails."""

    prefixes: Int8Codes
    sketch: SketchColumns

    def __len__(self) -> int:
        return len(self.prefixes.scales)

    def take(self, rows: np.ndarray) -> TierRows:
        """Some rows, in the order given."""
        codes = self.prefixes.codes.take(rows, axis=0)
        return TierRows(Int8Codes(codes, self.prefixes.scales.take(rows)), self.sketch.take(rows))


@dataclass(frozen=True)
class RowCodec:
    """Rows of one tier to and from bytes. draw: see `draw_of`."""

    dim: int
    store_dim: int
    draw: str

    @cached_property
    def header(self) -> bytes:
        """The eight bytes that each kept row begins with; all rows of a draw have the same."""
        return _HEADER.pack(_FORMAT, _KIND, self.dim, bytes.fromhex(self.draw[:8]))

    @cached_property
    def nbytes(self) -> int:
        """The length of one kept row in bytes, header included."""
        return len(self.header) + self._layout.itemsize

    @cached_property
    def _layout(self) -> np.dtype[np.void]:
        groups = -(-(self.store_dim - self.dim) // 8)
        return np.dtype(
            [
                ("codes", "i1", (self.dim,)),
                ("scales", "<f4"),
                ("head_norms", "<f2"),
                ("tail_norms", "<f2"),
                ("corrections", "<f2"),
                ("bits", "u1", (groups,)),
            ]
        )

    def bodies(self, rows: TierRows) -> list[bytes]:
        """Each row without its header, which a message of many rows has once."""
        table = np.empty(len(rows), self._layout)
        table["codes"] = rows.prefixes.codes
        table["scales"] = rows.prefixes.scales
        for name in (*_NORMS, "bits"):
            table[name] = getattr(rows.sketch, name)
        data, size = table.tobytes(), self._layout.itemsize
        return [data[start : start + size] for start in range(0, len(data), size)]

    def encode(self, rows: TierRows) -> list[bytes]:
        """Each row as it is kept."""
        return [self.header + body for body in self.bodies(rows)]

    def problem(self, value: bytes) -> str | None:
        """Why `value` cannot be a kept row of this tier, by length and header; None when it can."""
        if len(value) != self.nbytes:
            return f"{len(value)} bytes, expected {self.nbytes}"
        if not value.startswith(self.header):
            return f"header {value[: len(self.header)].hex()}, expected {self.header.hex()}"
        return None

    def decode_sound(self, values: Sequence[bytes | None]) -> tuple[Ids, TierRows]:
        """Those that are there and can have been written: their positions, (m,), and m rows."""
        known = [
            (position, value)
            for position, value in enumerate(values)
            if value is not None and self.problem(value) is None
        ]
        positions = np.array([position for position, _ in known], np.int64)
        rows = self._decode([value for _, value in known])
        sound = _possible(rows)
        if sound.all():
            return positions, rows
        return positions[sound], rows.take(np.flatnonzero(sound))

    def _decode(self, values: Sequence[bytes]) -> TierRows:
        body = slice(len(self.header), None)
        table = np.frombuffer(b"".join(value[body] for value in values), self._layout)
        prefixes = Int8Codes(
            np.ascontiguousarray(table["codes"]), table["scales"].astype(np.float32)
        )
        sketch = SketchColumns(
            np.ascontiguousarray(table["bits"]),
            *(table[name].astype(np.float16) for name in _NORMS),
        )
        return TierRows(prefixes, sketch)


def _possible(rows: TierRows) -> Bools:
    """(n,) bool: which can be of a unit vector. Not negations: NaN is no length."""
    sketch = rows.sketch
    heads, tails, corrections = (getattr(sketch, name).astype(np.float32) for name in _NORMS)
    with np.errstate(over="ignore", invalid="ignore"):
        prefixes = np.linalg.norm(rows.prefixes.codes.astype(np.float32), axis=1)
        prefixes = prefixes * rows.prefixes.scales
        possible: Bools = np.abs(prefixes - 1.0) < _STEPS
        possible &= np.abs(np.hypot(heads, tails) - 1.0) < _ROUNDING
        possible &= (heads > 0.0) & (tails >= 0.0)
        possible &= (corrections > 0.0) & (corrections <= _LARGEST_CORRECTION)
    return possible


def draw_of(fingerprint: str, store_dim: int, dim: int, assets: Mapping[str, bytes]) -> str:
    """16 hex digits that stand for what a tier's rows are made with: the space, the dimensions, and
    the rotation and dither. assets: of that tier alone, by name.
    """
    digest = hashlib.sha256(f"{fingerprint}:{store_dim}:{dim}".encode())
    for name in sorted(assets):
        digest.update(f":{name}:{len(assets[name])}:".encode())
        digest.update(assets[name])
    return digest.hexdigest()[:16]
