"""A 1-bit sketch of the tail: the dimensions that a coarse tier did not search.

With it a coarse score becomes an estimate of the full cosine with an error bar, so that full
vectors are fetched only where they can still matter. Source: RaBitQ, Gao & Long 2024,
arXiv 2405.12497; applied here to the tail alone, with the head's score taken from its int8 code.

Let x = (x_h, x_t) be a stored vector, n_h = |x_h|, m the tail's dimension, R one fixed random
rotation, b = sign(R x_t) / sqrt(m) and o = <b, R x_t> / |x_t|. Then for a query q = (q_h, q_t),

    <q, x> = n_h <q_h, prefix(x)>  +  |x_t| <R q_t, b> / o   +-   z * sigma
    sigma^2 = (|x_t| |q_t|)^2 (1 - o^2) / (o^2 (m - 1))  +  (n_h |q_h| scale / 2)^2

The first term of sigma is the tail's: over the random rotation, the part of R q_t orthogonal to
the tail's own direction points anywhere, so the error is at most that length times a coordinate T
of a random direction in d = m - 1 dimensions. T is sub-Gaussian with variance 1 / d, for every d:
its moments E T^2k = (2k - 1)!! / (d (d + 2) ... (d + 2k - 2)) are at most the Gaussian's (2k - 1)!!
/ d^k, and summing their series gives E exp(t T) <= exp(t^2 / 2d). (Its tail is not below the
Gaussian's everywhere: of 2 dimensions, sqrt(2) T exceeds 1.3 with a probability of .13 against
.10.) The second is the int8 prefix's: over the random dither, the rounding errors are independent,
of mean zero, and take two values one `scale` apart, so that their sum over the query is
sub-Gaussian with this variance (Hoeffding 1963). Both draws are independent, so their variances
add. What z is then worth as a probability stands in core/certificate.py.

Rotation and dither are drawn once a generation, whatever is stored or asked; what is claimed is a
probability over that draw. A query made with knowledge of both can defeat it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.core.arrays import Bytes, Floats, Halfs
from nestvec.core.codec import Int8Codes, floats_from_bytes, floats_to_bytes, quantise_int8

Seed = int | Sequence[int]
# Covers float32 arithmetic and fp16's subnormal range, absolutely.
_ARITHMETIC_SLACK = 2e-6
# fp16 keeps 11 bits: a norm or a correction may be off by 2^-11 of itself, a product of two by
# twice that and a little more.
_ROUNDING = np.float32(2.0**-11 * (1 + 2.0**-9))
# 8 signs to their bit pattern, most significant first, as numpy.packbits lays them.
_SIGNS_OF_BYTE = (
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1
)


@dataclass(frozen=True, slots=True)
class SketchColumns:
    """What a coarse worker keeps of each tail.

    bits: (n, ceil(m / 8)) uint8. head_norms, tail_norms, corrections: (n,) float16.
    """

    bits: Bytes
    head_norms: Halfs
    tail_norms: Halfs
    corrections: Halfs

    def take(self, rows: np.ndarray) -> SketchColumns:
        """The columns of some rows."""
        return SketchColumns(
            self.bits.take(rows, axis=0),
            self.head_norms.take(rows),
            self.tail_norms.take(rows),
            self.corrections.take(rows),
        )


def random_rotation(dim: int, seed: Seed) -> Floats:
    """A random orthogonal (dim, dim) float32 matrix.

    Kept with the generation that uses it, never made again from the seed: the QR of two builds of
    a linear algebra library differ in the last bits and so in the signs that a sketch is made of.
    """
    gaussian = np.random.default_rng(seed).standard_normal((dim, dim))
    orthogonal, upper = np.linalg.qr(gaussian)
    # Without the sign fix the distribution is not uniform (Mezzadri 2007, arXiv math-ph/0609050).
    rotation: Floats = (orthogonal * np.sign(np.diag(upper))).astype(np.float32)
    return rotation


def rotation_name(coarse_dim: int) -> str:
    """The name under which the store keeps the rotation of a tier's sketch."""
    return f"rotation:{coarse_dim}"


def dither_name(coarse_dim: int) -> str:
    """The name under which the store keeps the dither of a tier's int8 prefixes."""
    return f"dither:{coarse_dim}"


def asset_names(dims: Iterable[int], full_dim: int) -> list[str]:
    """Of all that some tiers of a generation have drawn; the longest has no tail to rotate."""
    names = []
    for dim in dims:
        names.append(dither_name(dim))
        if dim < full_dim:
            names.append(rotation_name(dim))
    return names


def random_dither(dim: int, seed: Seed) -> Floats:
    """(dim,) float32, uniform in [0, 1). Kept with the generation, as the rotation is."""
    return np.random.default_rng(seed).random(dim, dtype=np.float32)


def drawn_assets(coarse_dim: int, full_dim: int, seed: int) -> dict[str, bytes]:
    """What a tier draws once for its codes, as it is kept: under `asset_names`. seed: of the
    generation.
    """
    # Two streams: the bound adds what the two draws do as independent.
    own = seed + coarse_dim
    assets = {dither_name(coarse_dim): floats_to_bytes(random_dither(coarse_dim, [own, 1]))}
    if coarse_dim < full_dim:
        rotation = random_rotation(full_dim - coarse_dim, [own, 0])
        assets[rotation_name(coarse_dim)] = floats_to_bytes(rotation)
    return assets


class TailSketch:
    """Makes int8 prefixes and sketches of full vectors, and bounds full scores from them."""

    def __init__(self, coarse_dim: int, full_dim: int, rotation: Floats, dither: Floats) -> None:
        """rotation: (m, m) float32 orthogonal, m = full_dim - coarse_dim (may be 0). dither:
        (coarse_dim,) float32 in [0, 1).
        """
        self.coarse_dim = coarse_dim
        self.tail_dim = full_dim - coarse_dim
        assert rotation.shape == (self.tail_dim, self.tail_dim)
        assert dither.shape == (coarse_dim,)
        self._rotation = rotation
        self._dither = dither
        # Bytes per row of the look-up tables below; the last byte may be padded with zero bits.
        self._groups = -(-self.tail_dim // 8)

    @classmethod
    def of(cls, coarse_dim: int, full_dim: int, assets: Mapping[str, bytes]) -> TailSketch:
        """From what the store keeps under `asset_names`. Raises InvalidRequest for a ragged one."""
        tail, rotation = full_dim - coarse_dim, np.empty((0, 0), np.float32)
        if tail:
            name = rotation_name(coarse_dim)
            rotation = floats_from_bytes(assets[name], tail, name)
        name = dither_name(coarse_dim)
        dither = floats_from_bytes(assets[name], coarse_dim, name)[0]
        return cls(coarse_dim, full_dim, rotation, dither)

    @property
    def bytes_per_vector(self) -> int:
        """Bits, two norms and the correction, in bytes."""
        return self._groups + 6

    def encode_prefixes(self, vectors: Floats) -> Int8Codes:
        """Renormalised prefixes as int8. vectors: (n, full_dim) float32, with a direction over
        their first coarse_dim dimensions.
        """
        heads = vectors[:, : self.coarse_dim]
        norms = np.linalg.norm(heads, axis=1, keepdims=True)
        return quantise_int8(heads / norms, self._dither)

    def encode(self, vectors: Floats) -> SketchColumns:
        """vectors: (n, full_dim) float32 as the store gives them back."""
        heads, tails = vectors[:, : self.coarse_dim], vectors[:, self.coarse_dim :]
        rotated = tails @ self._rotation.T
        tail_norms = np.linalg.norm(tails, axis=1)
        # <b, R x_t> = |R x_t|_1 / sqrt(m): at least |x_t| / sqrt(m), on average 0.8 |x_t|.
        aligned = np.abs(rotated).sum(axis=1) / np.sqrt(max(self.tail_dim, 1))
        corrections = np.divide(
            aligned, tail_norms, out=np.ones_like(aligned), where=tail_norms > 0
        )
        return SketchColumns(
            bits=np.packbits(rotated > 0, axis=1),
            head_norms=np.linalg.norm(heads, axis=1).astype(np.float16),
            tail_norms=tail_norms.astype(np.float16),
            corrections=corrections.astype(np.float16),
        )

    def query(self, query: Floats) -> SketchQuery:
        """Prepare one full query, (full_dim,) float32, unit."""
        head, tail = query[: self.coarse_dim], query[self.coarse_dim :]
        padded = np.zeros(self._groups * 8, np.float32)
        padded[: self.tail_dim] = self._rotation @ tail
        tables = (padded.reshape(self._groups, 8) @ _SIGNS_OF_BYTE.T).ravel()
        return SketchQuery(
            tables=tables,
            offsets=np.arange(self._groups, dtype=np.intp) * 256,
            head_norm=float(np.linalg.norm(head)),
            tail_norm=float(np.linalg.norm(tail)),
            tail_dim=self.tail_dim,
        )


@dataclass(frozen=True, slots=True)
class SketchQuery:
    """One query against many sketches.

    tables: (ceil(m / 8) * 256,) float32, the dot product of each possible byte with its part of
    the rotated query tail. offsets: where each byte's table begins.
    """

    tables: Floats
    offsets: np.ndarray
    head_norm: float
    tail_norm: float
    tail_dim: int

    def bound(
        self, prefix_scores: Floats, scales: Floats, sketch: SketchColumns, z: float
    ) -> tuple[Floats, Floats]:
        """Estimates of full cosines and their half-widths at `z` standard deviations.

        prefix_scores: (n,) float32, <q_h, prefix(x)> with prefix(x) of unit length and q_h the
        query's own first part, not renormalised. scales: (n,) float32 of the int8 prefixes.
        Returns two (n,) float32 arrays.
        """
        head, head_sigma = self._heads(prefix_scores, scales, sketch)
        if self.tail_dim == 0:
            slack = _ROUNDING * np.abs(head) + _ARITHMETIC_SLACK
            return head, (z * head_sigma + slack).astype(np.float32)
        tail_norms = sketch.tail_norms.astype(np.float32)
        corrections = sketch.corrections.astype(np.float32)
        # Look up, then sum rows: "clip" spares numpy its bounds check (no byte is out of bounds),
        # and einsum sums short rows four times as fast as `sum` does.
        looked_up = self.tables.take(sketch.bits + self.offsets, mode="clip")
        dots = np.einsum("ij->i", looked_up) / np.float32(np.sqrt(self.tail_dim))
        tail = tail_norms * dots / corrections
        # Near 1 the spread hangs on the correction's last bits: take the lowest it may have been.
        lowest = corrections * (1.0 - _ROUNDING)
        spread = np.sqrt(np.maximum(1.0 - np.square(lowest), 0.0)) / lowest
        freedom = max(self.tail_dim - 1, 1)
        reach = np.float32((1.0 + _ROUNDING) * self.tail_norm / np.sqrt(freedom))
        tail_sigma = tail_norms * reach * spread
        sigma = np.sqrt(np.square(tail_sigma) + np.square(head_sigma))
        slack = _ROUNDING * (np.abs(head) + 2.0 * np.abs(tail)) + _ARITHMETIC_SLACK
        half_widths: Floats = (z * sigma + slack).astype(np.float32)
        return (head + tail).astype(np.float32), half_widths

    def ceilings(
        self, prefix_scores: Floats, scales: Floats, sketch: SketchColumns, z: float
    ) -> tuple[Floats, Floats]:
        """Upper bounds of full cosines at `z` without a look at the bits, and of each the part that
        grows with z, or more.

        As `bound`, but a tail adds no more than the product of its length and the query's (Cauchy
        and Schwarz): wider, a fraction of the time, and without any probability.
        """
        head, head_sigma = self._heads(prefix_scores, scales, sketch)
        reach = np.float32((1.0 + 2.0 * _ROUNDING) * self.tail_norm)
        half_widths = z * head_sigma + (_ROUNDING * np.abs(head) + _ARITHMETIC_SLACK)
        uppers = head + reach * sketch.tail_norms.astype(np.float32) + half_widths
        return uppers.astype(np.float32), half_widths.astype(np.float32)

    def _heads(
        self, prefix_scores: Floats, scales: Floats, sketch: SketchColumns
    ) -> tuple[Floats, Floats]:
        """The heads' parts of the scores, and their standard deviations."""
        norms = sketch.head_norms.astype(np.float32)
        sigma = norms * np.float32((1.0 + _ROUNDING) * self.head_norm * 0.5) * scales
        return norms * prefix_scores, sigma
