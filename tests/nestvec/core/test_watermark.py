"""Watermarks join, cover and travel; and what follows what in a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import internal_id
from nestvec.core.watermark import Watermark, follows, sequence_of, split_sequence

SEQUENCES = st.integers(0, (1 << 48) - 1)
PARTITIONS = st.integers(0, (1 << 14) - 1)
REGIONAL = st.builds(
    Watermark,
    st.just(3),
    st.dictionaries(PARTITIONS, SEQUENCES, max_size=12),
    st.integers(0, 255),
)
MARKS = st.builds(Watermark, st.just(3), st.dictionaries(PARTITIONS, SEQUENCES, max_size=12))


@given(REGIONAL)
def test_it_travels_unchanged(mark: Watermark) -> None:
    assert Watermark.from_bytes(mark.to_bytes()) == mark


def test_what_was_given_out_before_there_were_regions_is_read() -> None:
    data = bytes.fromhex("0103000000" + "0200" + "0700000000000000")
    assert Watermark.from_bytes(data) == Watermark(3, {2: 7})
    assert Watermark(3, {2: 7}).to_bytes() == data


@given(MARKS, MARKS, MARKS)
def test_joining_is_a_least_upper_bound(a: Watermark, b: Watermark, c: Watermark) -> None:
    joined = a.joined(b)
    assert a.reached_by(joined.sequences)
    assert b.reached_by(joined.sequences)
    assert joined == b.joined(a)
    assert joined.joined(c) == a.joined(b.joined(c))
    assert a.joined(a) == a
    for partition, sequence in joined.sequences.items():
        assert sequence in (a.sequences.get(partition), b.sequences.get(partition))


@given(MARKS, st.dictionaries(PARTITIONS, SEQUENCES, max_size=12))
def test_reaching_is_asked_of_every_partition(mark: Watermark, positions: dict[int, int]) -> None:
    behind = [p for p, s in mark.sequences.items() if positions.get(p, 0) < s]
    assert mark.reached_by(positions) == (not behind)
    assert mark.within(range(0)).reached_by({})


def test_a_later_generation_outlives_an_earlier_one() -> None:
    old, new = Watermark(1, {0: 9}), Watermark(2, {0: 1})
    assert old.joined(new) == new.joined(old) == new


def test_documents_make_the_least_one_that_covers_them() -> None:
    ids = [internal_id(2, 7), internal_id(2, 5), -1, internal_id(9, 1)]
    assert Watermark.of_ids(4, ids) == Watermark(4, {2: 7, 9: 1})


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x02" + bytes(4), Watermark(1, {1: 1}).to_bytes()[:-1], bytes(15)]
)
def test_what_is_no_watermark_is_refused_by_field(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a watermark") as caught:
        Watermark.from_bytes(data, "options.watermark")
    assert caught.value.field == "options.watermark"


@given(st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 32) - 1))
def test_a_sequence_is_its_epoch_and_its_count(epoch: int, count: int) -> None:
    assert split_sequence(sequence_of(epoch, count)) == (epoch, count)
    assert sequence_of(epoch, count) < 1 << 48


@pytest.mark.parametrize(
    ("previous", "first", "expected"),
    [
        ((1, 4), (1, 5), True),
        ((1, 4), (2, 5), True),  # another primary that had all of it
        ((1, 4), (1, 6), False),  # something between was trimmed
        ((1, 4), (2, 4), False),  # 1-4 was lost, its count given out again
        ((1, 4), (1, 4), False),
        ((2, 4), (1, 5), False),  # epochs never fall
        ((0, 0), (1, 1), True),
    ],
)
def test_what_comes_right_after_what(
    previous: tuple[int, int], first: tuple[int, int], expected: bool
) -> None:
    assert follows(sequence_of(*previous), sequence_of(*first)) is expected
