"""Vectors as bytes, and the codes that stand for them.

Everything on a wire or in a store is little-endian. Codes are made *after* a slice was cut and
renormalised, never before: a scale taken from discarded dimensions would waste the code's range.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nestvec.core.arrays import Floats, Ids, Int8s
from nestvec.core.errors import CorruptVector, InvalidRequest

# format, dtype, dim, first four bytes of the space's fingerprint.
_HEADER = struct.Struct("<BBH4s")
_FORMAT = 1
_INT8_MAX = 127
# How far from 1 the length of a stored unit vector may be: int8 codes of it come nearest to this.
_ROUNDING = 0.1


class VectorDtype(enum.StrEnum):
    """How the store keeps full vectors. fp16 keeps 11 bits, so a value is off by 2^-11 of it."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


_CODE_OF = {VectorDtype.FP32: 1, VectorDtype.FP16: 2, VectorDtype.INT8: 3}
_BYTES_PER_VALUE = {VectorDtype.FP32: 4, VectorDtype.FP16: 2, VectorDtype.INT8: 1}


@dataclass(frozen=True, slots=True)
class Int8Codes:
    """Rows as int8 with one scale each: value = code * scale.

    codes: (n, dim) int8. scales: (n,) float32, at least the smallest normal number.
    """

    codes: Int8s
    scales: Floats

    def decode(self) -> Floats:
        """(n, dim) float32; off by at most scale in each coordinate, half of it without dither."""
        decoded: Floats = self.codes.astype(np.float32)
        # In place: a merge decodes a whole segment, and a second copy would be its peak.
        decoded *= self.scales[:, None]
        return decoded


def quantise_int8(vectors: Floats, dither: Floats | None = None) -> Int8Codes:
    """Symmetric int8 codes, one scale a row.

    vectors: (n, dim) float32. dither: (dim,) float32, uniform in [0, 1): rounds up where the
    fraction exceeds 1 - dither. Drawn once and independently of all queries, it makes each
    rounding error a random variable of mean zero, which is what a bound on their sum rests on
    (core/sketch.py). Without it, to the nearest.
    """
    peaks = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32)
    scales = np.maximum(peaks / _INT8_MAX, np.finfo(np.float32).tiny).astype(np.float32)
    steps = vectors / scales[:, None]
    rounded = np.rint(steps) if dither is None else np.floor(steps + dither)
    codes = np.clip(rounded, -_INT8_MAX, _INT8_MAX).astype(np.int8)
    return Int8Codes(codes, scales)


@dataclass(frozen=True)
class VectorCodec:
    """Full vectors to and from the store's bytes: an 8-byte header, then the values.

    The header names format, dtype, dimension and the space, so that a truncated or foreign value
    is recognised before it is scored.
    """

    dtype: VectorDtype
    dim: int
    fingerprint: str

    @cached_property
    def header(self) -> bytes:
        """The eight bytes that every value of this codec begins with."""
        space = bytes.fromhex(self.fingerprint[:8])
        return _HEADER.pack(_FORMAT, _CODE_OF[self.dtype], self.dim, space)

    @cached_property
    def nbytes(self) -> int:
        """The length of one encoded vector in bytes."""
        scale = 4 if self.dtype is VectorDtype.INT8 else 0
        return _HEADER.size + scale + self.dim * _BYTES_PER_VALUE[self.dtype]

    def encode(self, vectors: Floats) -> list[bytes]:
        """vectors: (n, dim) float32. One value a row."""
        header = self.header
        if self.dtype is VectorDtype.INT8:
            quantised = quantise_int8(vectors)
            scales = quantised.scales.astype("<f4")
            return [
                header + scale.tobytes() + row.tobytes()
                for scale, row in zip(scales, quantised.codes, strict=True)
            ]
        kind = "<f4" if self.dtype is VectorDtype.FP32 else "<f2"
        return [header + row.tobytes() for row in vectors.astype(kind)]

    def problem(self, value: bytes) -> str | None:
        """Why `value` cannot be a vector of this codec, or None when it can."""
        if len(value) != self.nbytes:
            return f"{len(value)} bytes, expected {self.nbytes}"
        if value[: _HEADER.size] != self.header:
            return f"header {value[: _HEADER.size].hex()}, expected {self.header.hex()}"
        return None

    def decode(self, values: list[bytes]) -> Floats:
        """(n, dim) float32. Values must be sound: ask `problem` first, or see `decode_one`."""
        raw = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), self.nbytes)
        body = raw[:, _HEADER.size :]
        if self.dtype is VectorDtype.INT8:
            scales = np.ascontiguousarray(body[:, :4]).view("<f4")
            codes = body[:, 4:].view(np.int8)
            scaled: Floats = codes.astype(np.float32) * scales
            return scaled
        kind = "<f4" if self.dtype is VectorDtype.FP32 else "<f2"
        decoded: Floats = np.ascontiguousarray(body).view(kind).astype(np.float32)
        return decoded

    def decode_sound(self, values: Sequence[bytes | None]) -> tuple[Ids, Floats]:
        """Those that are there and sound: their positions, (m,), and (m, dim) float32."""
        sound = [
            (position, value)
            for position, value in enumerate(values)
            if value is not None and self.problem(value) is None
        ]
        positions = np.array([position for position, _ in sound], np.int64)
        return positions, self.decode([value for _, value in sound])

    def decode_searchable(
        self, values: Sequence[bytes | None], shortest: int
    ) -> tuple[Ids, Floats]:
        """As `decode_sound`, without those that cannot have been written: not unit but for
        rounding, or without a direction over their first `shortest` dimensions.
        """
        positions, vectors = self.decode_sound(values)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(vectors, axis=1)
            heads = np.linalg.norm(vectors[:, :shortest], axis=1)
            # Not negations: NaN is no length.
            searchable = (np.abs(lengths - 1.0) < _ROUNDING) & (heads > 0.0)
        return positions[searchable], vectors[searchable]

    def decode_one(self, value: bytes, document: str) -> Floats:
        """(dim,) float32. Raises CorruptVector, naming the document."""
        if reason := self.problem(value):
            raise CorruptVector(document, reason)
        vector: Floats = self.decode([value])[0]
        if not np.isfinite(vector).all():
            raise CorruptVector(document, "NaN or infinite values")
        return vector

    def round_trip(self, vectors: Floats) -> Floats:
        """What the store will give back for `vectors`: coarse tiers are built from this."""
        return self.decode(self.encode(vectors)) if len(vectors) else vectors


def floats_to_bytes(vectors: Floats) -> bytes:
    """Little-endian float32, for a message."""
    return vectors.astype("<f4", copy=False).tobytes()


def floats_from_bytes(data: bytes, dim: int, field: str) -> Floats:
    """(n, dim) float32 from little-endian bytes. Raises InvalidRequest on a ragged length."""
    if dim < 1 or len(data) % (4 * dim):
        raise InvalidRequest(
            field, f"{len(data)} bytes are not a whole number of {dim}-d float32 vectors"
        )
    return np.frombuffer(data, "<f4").reshape(-1, dim).astype(np.float32, copy=False)
