"""Codes keep what they promise; foreign or damaged bytes are recognised before they are read."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nestvec.core.arrays import Floats
from nestvec.core.codec import (
    Int8Codes,
    VectorCodec,
    VectorDtype,
    floats_from_bytes,
    floats_to_bytes,
    quantise_int8,
)
from nestvec.core.errors import CorruptVector, InvalidRequest
from tests.nestvec.core.synthetic import mrl_like

FINGERPRINT = "b1d5629e97fb59bf"
HEADER_BYTES = 8
VALUES_AS = {VectorDtype.FP32: "f", VectorDtype.FP16: "e", VectorDtype.INT8: "b"}

matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-2, 2, width=32),
)
any_dtype = pytest.mark.parametrize("dtype", list(VectorDtype))


def codec_of(dtype: VectorDtype, dim: int = 5) -> VectorCodec:
    return VectorCodec(dtype, dim, FINGERPRINT)


# --- int8 -----------------------------------------------------------------------------------------


@given(matrices)
def test_int8_is_off_by_at_most_half_a_scale_in_each_coordinate(vectors: Floats) -> None:
    quantised = quantise_int8(vectors)
    for row, codes, scale in zip(vectors, quantised.codes, quantised.scales, strict=True):
        for value, code in zip(row.tolist(), codes.tolist(), strict=True):
            assert abs(value - code * float(scale)) <= float(scale) * 0.50001


@given(vectors=matrices, seed=st.integers(0, 2**32))
def test_dithered_int8_rounds_to_one_of_the_two_codes_around_a_value(
    vectors: Floats, seed: int
) -> None:
    dither = np.random.default_rng(seed).random((vectors.shape[1],), dtype=np.float32)
    quantised = quantise_int8(vectors, dither)
    assert np.array_equal(quantised.scales, quantise_int8(vectors).scales)
    assert np.abs(quantised.codes.astype(int)).max() <= 127
    steps = vectors.astype(np.float64) / quantised.scales.astype(np.float64)[:, None]
    assert (np.abs(quantised.codes - steps) <= 1.0 + 1e-4).all()
    # Up where the fraction and the dither reach the next code; float32 may differ at its edge.
    reach = steps - np.floor(steps) + dither
    clear = np.abs(reach - 1.0) > 1e-4
    clear &= (reach > 1e-4) & (np.abs(steps) < 126.9)
    assert (quantised.codes[clear] == np.floor(steps + dither)[clear]).all()


def test_dithered_int8_leans_to_neither_side() -> None:
    """Whatever the value: where rounding to the nearest is off by half a scale, always one way."""
    vector = np.array([[1.0, 0.49 / 127, -0.49 / 127, 0.3, -0.777, 0.0]], np.float32)
    rng = np.random.default_rng(3)
    errors = np.array(
        [
            quantise_int8(vector, rng.random(6, dtype=np.float32)).decode()[0] - vector[0]
            for _ in range(4000)
        ]
    )
    standard_errors = errors.std(axis=0) / np.sqrt(len(errors)) + 1e-7
    assert (np.abs(errors.mean(axis=0)) / standard_errors).max() < 4.5
    assert errors[:, 1].std() == pytest.approx(0.5 / 127, rel=0.05)
    assert not errors[:, 5].any()


@given(matrices)
def test_int8_uses_its_whole_range_and_never_the_odd_one_out(vectors: Floats) -> None:
    """Symmetric: the peak of a row is 127 or -127, and -128 stands for nothing."""
    codes = quantise_int8(vectors).codes.astype(int)
    assert codes.min() >= -127
    for row, coded in zip(vectors, codes, strict=True):
        peak = int(np.abs(row).argmax())
        if abs(row[peak]) > 1e-30:
            assert coded[peak] == np.copysign(127, row[peak])


@given(matrices)
def test_int8_decodes_to_code_times_scale(vectors: Floats) -> None:
    quantised = quantise_int8(vectors)
    decoded = quantised.decode()
    assert decoded.dtype == np.float32
    naive = [
        [code * float(scale) for code in codes]
        for codes, scale in zip(quantised.codes.tolist(), quantised.scales, strict=True)
    ]
    assert decoded == pytest.approx(np.array(naive), rel=1e-6, abs=0)


@given(matrices)
def test_int8_of_a_row_does_not_depend_on_the_other_rows(vectors: Floats) -> None:
    together = quantise_int8(vectors)
    for row in range(len(vectors)):
        alone = quantise_int8(vectors[row : row + 1])
        assert np.array_equal(alone.codes[0], together.codes[row])
        assert alone.scales[0] == together.scales[row]


def test_int8_of_a_cut_row_wastes_no_range_on_what_was_cut_off() -> None:
    vector = np.array([[0.01, -0.03, 0.9]], np.float32)
    assert quantise_int8(vector[:, :2]).codes.tolist() == [[42, -127]]
    assert quantise_int8(vector).codes.tolist() == [[1, -4, 127]]


def test_int8_of_zero_is_zero_with_a_scale_that_can_be_divided_by() -> None:
    quantised = quantise_int8(np.zeros((2, 3), np.float32))
    assert not quantised.codes.any()
    assert (quantised.scales >= np.finfo(np.float32).tiny).all()
    assert not quantised.decode().any()


@pytest.mark.parametrize("peak", [1e-45, 1e-38, 1e-30, 1.0, 1e30, 3.4e38])
def test_int8_holds_at_the_ends_of_float32(peak: float) -> None:
    vector = np.array([[peak, -peak, peak / 2, 0.0]], np.float32)
    quantised = quantise_int8(vector)
    assert np.isfinite(quantised.scales).all()
    error = np.abs(quantised.decode().astype(float) - vector)
    assert (error <= 0.50001 * quantised.scales.astype(float)[:, None]).all()


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 0)])
def test_int8_of_nothing_is_nothing(shape: tuple[int, int]) -> None:
    quantised = quantise_int8(np.empty(shape, np.float32))
    assert quantised.codes.shape == quantised.decode().shape == shape
    assert quantised.scales.shape == shape[:1]


def test_int8_decodes_its_extremes() -> None:
    codes = np.array([[-128, -127, 0, 127]], np.int8)
    decoded = Int8Codes(codes, np.array([0.5], np.float32)).decode()
    assert decoded.tolist() == [[-64.0, -63.5, 0.0, 63.5]]


# --- the store's bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "header"),
    [
        (VectorDtype.FP32, "01010003b1d5629e"),
        (VectorDtype.FP16, "01020003b1d5629e"),
        (VectorDtype.INT8, "01030003b1d5629e"),
    ],
)
def test_headers_are_pinned(dtype: VectorDtype, header: str) -> None:
    """Format 1, dtype, 768 little-endian, the space: they stand before every stored vector."""
    assert codec_of(dtype, 768).header.hex() == header


def test_dtypes_keep_their_names() -> None:
    """They are in every collection's record."""
    assert [dtype.value for dtype in VectorDtype] == ["fp32", "fp16", "int8"]


def naive_value(codec: VectorCodec, row: Floats) -> bytes:
    """One encoded vector, by struct alone."""
    number = {VectorDtype.FP32: 1, VectorDtype.FP16: 2, VectorDtype.INT8: 3}[codec.dtype]
    header = struct.pack("<BBH", 1, number, codec.dim) + bytes.fromhex(codec.fingerprint)[:4]
    values: list[float] = row.tolist()
    if codec.dtype is VectorDtype.INT8:
        quantised = quantise_int8(row[None])
        header += struct.pack("<f", quantised.scales[0])
        values = quantised.codes[0].tolist()
    return header + struct.pack(f"<{codec.dim}{VALUES_AS[codec.dtype]}", *values)


@any_dtype
@given(vectors=matrices)
def test_encoding_is_the_naive_encoding(dtype: VectorDtype, vectors: Floats) -> None:
    codec = codec_of(dtype, vectors.shape[1])
    values = codec.encode(vectors)
    assert values == [naive_value(codec, row) for row in vectors]
    assert {len(value) for value in values} == {codec.nbytes}


@any_dtype
@given(vectors=matrices)
def test_what_is_encoded_is_sound_and_decodes_the_same_alone_and_together(
    dtype: VectorDtype, vectors: Floats
) -> None:
    codec = codec_of(dtype, vectors.shape[1])
    values = codec.encode(vectors)
    together = codec.decode(values)
    assert (together.shape, together.dtype) == (vectors.shape, np.dtype(np.float32))
    assert [codec.problem(value) for value in values] == [None] * len(vectors)
    for row, value in enumerate(values):
        assert np.array_equal(codec.decode_one(value, "7"), together[row])


@given(vectors=matrices)
def test_fp32_loses_nothing(vectors: Floats) -> None:
    assert np.array_equal(codec_of(VectorDtype.FP32, vectors.shape[1]).round_trip(vectors), vectors)


@given(vectors=matrices)
def test_fp16_loses_half_a_unit_in_the_eleventh_bit(vectors: Floats) -> None:
    back = codec_of(VectorDtype.FP16, vectors.shape[1]).round_trip(vectors)
    assert (np.abs(back - vectors) <= np.maximum(np.abs(vectors) * 2.0**-11, 2.0**-25)).all()


@given(vectors=matrices)
def test_int8_loses_what_its_codes_lose(vectors: Floats) -> None:
    back = codec_of(VectorDtype.INT8, vectors.shape[1]).round_trip(vectors)
    assert np.array_equal(back, quantise_int8(vectors).decode())


@pytest.mark.parametrize("dtype", [VectorDtype.FP32, VectorDtype.FP16])
@given(vectors=matrices)
def test_what_the_store_gave_back_is_stored_without_further_loss(
    dtype: VectorDtype, vectors: Floats
) -> None:
    codec = codec_of(dtype, vectors.shape[1])
    once = codec.round_trip(vectors)
    assert np.array_equal(codec.round_trip(once), once)


def test_fp16_moves_a_cosine_by_at_most_its_rounding() -> None:
    """2^-11 of each product, all of one sign at worst: 4.9e-4, and seldom near it."""
    vectors = mrl_like(200, 768, seed=1).astype(np.float64)
    stored = codec_of(VectorDtype.FP16, 768).round_trip(vectors.astype(np.float32))
    errors = np.abs(vectors @ stored.astype(np.float64).T - vectors @ vectors.T)
    assert (errors <= np.abs(vectors) @ np.abs(vectors).T * 2.0**-11 + 768 * 2.0**-25).all()
    assert errors.mean() < 1e-4


@any_dtype
def test_no_vectors_encode_and_decode_to_none(dtype: VectorDtype) -> None:
    codec = codec_of(dtype)
    empty = np.empty((0, 5), np.float32)
    assert codec.encode(empty) == []
    for decoded in (codec.decode([]), codec.round_trip(empty)):
        assert (decoded.shape, decoded.dtype) == ((0, 5), np.dtype(np.float32))


@any_dtype
def test_what_was_decoded_may_be_written_to(dtype: VectorDtype) -> None:
    """The bytes it came from are not; a reranker that normalises in place must not trip."""
    codec = codec_of(dtype)
    codec.decode(codec.encode(np.ones((2, 5), np.float32)))[:] = 0


# --- damage ---------------------------------------------------------------------------------------


@any_dtype
def test_a_truncated_or_longer_value_is_refused_by_its_length(dtype: VectorDtype) -> None:
    codec = codec_of(dtype)
    (value,) = codec.encode(np.ones((1, 5), np.float32))
    for damaged in [value[:length] for length in range(len(value))] + [value + b"\0", value * 2]:
        reason = codec.problem(damaged)
        assert reason == f"{len(damaged)} bytes, expected {codec.nbytes}"
        with pytest.raises(CorruptVector, match=rf"document 7 is corrupt: {reason}") as caught:
            codec.decode_one(damaged, "7")
        assert caught.value.document == "7"


@any_dtype
@given(bit=st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_bit_flipped_in_a_header_is_found(dtype: VectorDtype, bit: int) -> None:
    codec = codec_of(dtype)
    (value,) = codec.encode(np.ones((1, 5), np.float32))
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    reason = codec.problem(bytes(flipped))
    assert reason == f"header {flipped[:HEADER_BYTES].hex()}, expected {codec.header.hex()}"
    with pytest.raises(CorruptVector, match="header"):
        codec.decode_one(bytes(flipped), "7")


def test_a_vector_of_another_space_dim_or_dtype_is_refused_even_at_the_same_length() -> None:
    codec = VectorCodec(VectorDtype.FP16, 8, FINGERPRINT)
    strangers = [
        replace(codec, fingerprint="7714cd6f7406f37a"),
        VectorCodec(VectorDtype.FP32, 4, FINGERPRINT),
        VectorCodec(VectorDtype.INT8, 12, FINGERPRINT),
    ]
    for stranger in strangers:
        assert stranger.nbytes == codec.nbytes
        (value,) = stranger.encode(np.ones((1, stranger.dim), np.float32))
        assert "header" in (codec.problem(value) or "")


@pytest.mark.parametrize("dtype", [VectorDtype.FP32, VectorDtype.FP16])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_stored_values_that_are_not_finite_are_corrupt(dtype: VectorDtype, broken: float) -> None:
    codec = codec_of(dtype)
    vectors = np.ones((1, 5), np.float32)
    vectors[0, 3] = broken
    with pytest.raises(CorruptVector, match="document 7 is corrupt: NaN or infinite"):
        codec.decode_one(codec.encode(vectors)[0], "7")


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_stored_scale_that_is_not_finite_is_corrupt(broken: float) -> None:
    codec = codec_of(VectorDtype.INT8)
    value = codec.header + struct.pack("<f5b", broken, 1, 2, 3, 4, 5)
    with pytest.raises(CorruptVector, match="NaN or infinite"):
        codec.decode_one(value, "7")


def test_int8_extremes_are_read_from_the_store_with_their_sign() -> None:
    codec = codec_of(VectorDtype.INT8, 4)
    value = codec.header + struct.pack("<f4b", 0.5, -128, -127, 0, 127)
    assert codec.decode([value]).tolist() == [[-64.0, -63.5, 0.0, 63.5]]


# --- a message's bytes ----------------------------------------------------------------------------


@given(matrices)
def test_a_message_carries_little_endian_floats_and_loses_nothing(vectors: Floats) -> None:
    data = floats_to_bytes(vectors)
    assert data == struct.pack(f"<{vectors.size}f", *vectors.ravel().tolist())
    back = floats_from_bytes(data, vectors.shape[1], "vectors")
    assert back.dtype == np.float32
    assert np.array_equal(back, vectors)


def test_a_message_is_row_major_and_little_endian_whatever_the_array_is() -> None:
    vectors = mrl_like(3, 4, seed=2)
    expected = floats_to_bytes(vectors)
    assert floats_to_bytes(np.asfortranarray(vectors)) == expected
    assert floats_to_bytes(np.repeat(vectors, 2, axis=1)[:, ::2]) == expected
    assert floats_to_bytes(vectors.astype(">f4")) == expected
    assert floats_to_bytes(vectors.astype(np.float64)) == expected


@given(dim=st.integers(1, 9), data=st.binary(max_size=120))
def test_ragged_bytes_are_refused_and_whole_ones_are_not(dim: int, data: bytes) -> None:
    if len(data) % (4 * dim) == 0:
        assert floats_from_bytes(data, dim, "query.vector").shape == (len(data) // (4 * dim), dim)
        return
    with pytest.raises(InvalidRequest, match=f"^query.vector: {len(data)} bytes .* {dim}-d"):
        floats_from_bytes(data, dim, "query.vector")


@pytest.mark.parametrize("dim", [0, -1])
def test_vectors_without_dimensions_are_refused(dim: int) -> None:
    with pytest.raises(InvalidRequest):
        floats_from_bytes(b"\0" * 8, dim, "query.vector")


def test_no_bytes_are_no_vectors() -> None:
    assert floats_to_bytes(np.empty((0, 5), np.float32)) == b""
    assert floats_from_bytes(b"", 5, "vectors").shape == (0, 5)


def test_what_is_missing_or_unsound_is_left_out_and_the_rest_keeps_its_place() -> None:
    codec = VectorCodec(VectorDtype.FP16, 4, "ab" * 8)
    good = codec.encode(np.eye(4, dtype=np.float32)[:2])
    positions, vectors = codec.decode_sound([None, good[0], good[0][:-1], b"", good[1]])
    assert positions.tolist() == [1, 4]
    assert np.array_equal(vectors, np.eye(4, dtype=np.float32)[:2])
    none, empty = codec.decode_sound([None])
    assert none.dtype == np.int64
    assert empty.shape == (0, 4)
