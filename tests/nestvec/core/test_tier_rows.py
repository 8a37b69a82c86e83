"""Rows of a tier come back byte for byte; what cannot be one is refused, as is another draw's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.codec import VectorCodec, VectorDtype
from nestvec.core.sketch import TailSketch, asset_names, dither_name, rotation_name
from nestvec.core.tier_rows import RowCodec, TierRows, draw_of
from tests.nestvec.core.synthetic import as_stored, mrl_like
from tests.support.rooms import a_sketch

FULL, HEAD = 24, 8
SKETCH = a_sketch(HEAD, FULL)
CODEC = RowCodec(HEAD, FULL, "0123456789abcdef")


def rows_of(count: int, sketch: TailSketch = SKETCH, seed: int = 1) -> TierRows:
    dim = sketch.coarse_dim + sketch.tail_dim
    vectors = as_stored(mrl_like(count, dim, seed))
    return TierRows(sketch.encode_prefixes(vectors), sketch.encode(vectors))


def same(one: TierRows, other: TierRows) -> bool:
    return (
        np.array_equal(one.prefixes.codes, other.prefixes.codes)
        and np.array_equal(one.prefixes.scales, other.prefixes.scales)
        and np.array_equal(one.sketch.bits, other.sketch.bits)
        and np.array_equal(one.sketch.head_norms, other.sketch.head_norms)
        and np.array_equal(one.sketch.tail_norms, other.sketch.tail_norms)
        and np.array_equal(one.sketch.corrections, other.sketch.corrections)
    )


@given(st.integers(0, 40), st.sampled_from([(8, 24), (8, 8), (3, 24), (23, 24), (5, 18)]))
def test_rows_come_back_as_they_were(count: int, dims: tuple[int, int]) -> None:
    head, full = dims
    rows, codec = rows_of(count, a_sketch(head, full)), RowCodec(head, full, "ab" * 8)
    values = codec.encode(rows)
    assert {len(value) for value in values} <= {codec.nbytes}
    assert codec.nbytes == 8 + head + 4 + 6 + -(-(full - head) // 8)
    assert [codec.header + body for body in codec.bodies(rows)] == values
    positions, back = codec.decode_sound(values)
    assert positions.tolist() == list(range(count))
    assert same(back, rows)


def test_what_is_missing_is_passed_over_and_the_others_keep_their_places() -> None:
    values: list[bytes | None] = [*CODEC.encode(rows_of(4))]
    values[1], values[3] = None, b"cut"
    positions, back = CODEC.decode_sound(values)
    assert positions.tolist() == [0, 2]
    assert same(back, rows_of(4).take(np.array([0, 2])))


@given(st.binary(max_size=80))
def test_other_bytes_are_no_row(value: bytes) -> None:
    positions, _ = CODEC.decode_sound([value])
    assert not len(positions)


@given(st.integers(0, 7), st.integers(1, 255))
def test_a_changed_header_is_refused(place: int, change: int) -> None:
    (value,) = CODEC.encode(rows_of(1))
    changed = bytearray(value)
    changed[place] ^= change
    assert CODEC.problem(bytes(changed)) is not None
    assert not len(CODEC.decode_sound([bytes(changed)])[0])


@pytest.mark.parametrize(
    ("start", "data"),
    [
        (8, bytes(HEAD)),  # a prefix without a direction
        (8 + HEAD, np.float32(np.nan).tobytes()),
        (8 + HEAD, np.float32(np.inf).tobytes()),
        (8 + HEAD, np.float32(0.0).tobytes()),
        (8 + HEAD, np.float32(1.0).tobytes()),
        (8 + HEAD + 4, np.float16(0.0).tobytes()),
        (8 + HEAD + 4, np.float16(np.nan).tobytes()),
        (8 + HEAD + 6, np.float16(-0.2).tobytes()),
        (8 + HEAD + 6, np.float16(3.0).tobytes()),
        (8 + HEAD + 8, np.float16(0.0).tobytes()),
        (8 + HEAD + 8, np.float16(1.5).tobytes()),
    ],
)
def test_numbers_that_no_unit_vector_has_are_refused(start: int, data: bytes) -> None:
    first, second = CODEC.encode(rows_of(2))
    spoiled = first[:start] + data + first[start + len(data) :]
    assert CODEC.problem(spoiled) is None
    positions, _ = CODEC.decode_sound([spoiled, second])
    assert positions.tolist() == [1]


def test_vectors_and_rows_are_never_taken_for_each_other() -> None:
    kinds = {VectorCodec(dtype, HEAD, CODEC.draw).header for dtype in VectorDtype}
    assert CODEC.header not in kinds
    assert len({len(header) for header in (*kinds, CODEC.header)}) == 1


def test_another_space_tier_or_draw_has_another_header() -> None:
    assets = {name: name.encode() for name in asset_names((8,), 24)}
    draws = {
        draw_of("space", 24, 8, assets),
        draw_of("other", 24, 8, assets),
        draw_of("space", 32, 8, assets),
        draw_of("space", 24, 8, assets | {dither_name(8): b"x"}),
        draw_of("space", 24, 8, assets | {rotation_name(8): b"x"}),
    }
    assert len(draws) == 5
    assert len({RowCodec(8, 24, draw).header for draw in draws}) == 5
    assert RowCodec(8, 24, CODEC.draw).header != RowCodec(16, 24, CODEC.draw).header
