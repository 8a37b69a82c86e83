"""Where a document lives is a promise for the life of a collection."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.placement import (
    DEFAULT_PARTITIONS,
    MAX_PARTITIONS,
    internal_id,
    internal_ids,
    partition_of,
    partitions_of,
    shard_of,
    split_id,
)

LAST_SEQUENCE = 2**48 - 1
LAST_PARTITION = 2**14 - 1

partition_counts = st.integers(1, 200) | st.sampled_from([1, 64, 256])
shard_counts = st.integers(1, 80) | st.just(250)
partitions_within = st.one_of(st.integers(0, LAST_PARTITION), st.sampled_from([0, LAST_PARTITION]))
sequences_within = st.one_of(st.integers(0, LAST_SEQUENCE), st.sampled_from([0, LAST_SEQUENCE]))


# --- external id -> partition ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("external_id", "of_7", "of_64", "of_16384"),
    [
        ("", 5, 36, 9956),
        ("a", 4, 0, 14400),
        ("doc-1", 4, 22, 13398),
        ("Zürich", 0, 48, 13424),
        ("日本語", 0, 52, 6644),
        ("x" * 512, 1, 55, 3895),
    ],
)
def test_partitions_are_pinned(external_id: str, of_7: int, of_64: int, of_16384: int) -> None:
    """A change here orphans every stored document: Get and Delete would look elsewhere."""
    found = [partition_of(external_id, partitions) for partitions in (7, 64, 16384)]
    assert found == [of_7, of_64, of_16384]


@given(st.text(), st.integers(1, MAX_PARTITIONS))
def test_a_partition_is_one_of_those_there_are(external_id: str, partitions: int) -> None:
    assert 0 <= partition_of(external_id, partitions) < partitions


@given(st.text())
def test_one_partition_takes_every_document(external_id: str) -> None:
    assert partition_of(external_id, 1) == 0


def test_like_looking_ids_spread_evenly() -> None:
    count = 16_000
    found = Counter(partition_of(f"doc-{number}", DEFAULT_PARTITIONS) for number in range(count))
    expected = count / DEFAULT_PARTITIONS
    chi_square = sum((found[p] - expected) ** 2 / expected for p in range(DEFAULT_PARTITIONS))
    assert chi_square < 120  # 63 degrees of freedom: exceeded with probability 2e-5


def test_composed_and_decomposed_accents_are_different_ids() -> None:
    """Ids are bytes to us: normalising them would make two callers' documents one."""
    composed, decomposed = "Z\u00fcrich", "Zu\u0308rich"
    assert partition_of(composed, MAX_PARTITIONS) != partition_of(decomposed, MAX_PARTITIONS)


# --- partition -> shard ---------------------------------------------------------------------------


@given(partition_counts, shard_counts)
def test_shards_own_every_partition_once_in_even_contiguous_ranges(
    partitions: int, shards: int
) -> None:
    owned = [partitions_of(shard, partitions, shards) for shard in range(shards)]
    assert [partition for one in owned for partition in one] == list(range(partitions))
    sizes = [len(one) for one in owned]
    assert max(sizes) - min(sizes) <= 1


@given(partition_counts, shard_counts)
def test_each_partition_says_the_shard_that_owns_it(partitions: int, shards: int) -> None:
    for shard in range(shards):
        naive = [p for p in range(partitions) if shard_of(p, partitions, shards) == shard]
        assert list(partitions_of(shard, partitions, shards)) == naive


def test_one_shard_owns_all_and_one_partition_has_one_owner() -> None:
    assert partitions_of(0, 64, 1) == range(64)
    assert [len(partitions_of(shard, 1, 5)) for shard in range(5)] == [1, 0, 0, 0, 0]
    assert shard_of(0, 1, 5) == 0


def test_more_shards_than_partitions_leave_some_empty_and_none_doubled() -> None:
    sizes = [len(partitions_of(shard, 3, 8)) for shard in range(8)]
    assert sum(sizes) == 3
    assert max(sizes) == 1


@given(partition_counts, shard_counts, shard_counts, st.lists(st.text(), max_size=30))
def test_a_reshard_moves_whole_partitions(
    partitions: int, before: int, after: int, external_ids: list[str]
) -> None:
    """Documents that share a partition share a shard, before a reshard and after it."""
    homes: dict[int, set[tuple[int, int]]] = {}
    for external_id in external_ids:
        partition = partition_of(external_id, partitions)
        moved = (shard_of(partition, partitions, before), shard_of(partition, partitions, after))
        assert partition in partitions_of(moved[0], partitions, before)
        assert partition in partitions_of(moved[1], partitions, after)
        homes.setdefault(partition, set()).add(moved)
    assert all(len(moves) == 1 for moves in homes.values())


@given(partition_counts, shard_counts)
def test_doubling_the_shards_splits_each_shard_in_place(partitions: int, shards: int) -> None:
    for partition in range(partitions):
        after = shard_of(partition, partitions, 2 * shards)
        assert after // 2 == shard_of(partition, partitions, shards)


# --- internal ids ---------------------------------------------------------------------------------


def test_internal_ids_are_pinned() -> None:
    assert internal_id(0, 0) == 0
    assert internal_id(0, 5) == 5
    assert internal_id(1, 5) == 281_474_976_710_661
    assert internal_id(LAST_PARTITION, LAST_SEQUENCE) == 2**62 - 1


@given(partitions_within, sequences_within)
def test_an_internal_id_gives_back_its_parts(partition: int, sequence: int) -> None:
    internal = internal_id(partition, sequence)
    assert split_id(internal) == (partition, sequence)
    assert 0 <= internal < 2**63


@given(st.lists(st.tuples(partitions_within, sequences_within), max_size=20))
def test_internal_ids_sort_by_partition_then_by_age(parts: list[tuple[int, int]]) -> None:
    by_id = sorted(parts, key=lambda part: internal_id(*part))
    assert by_id == sorted(parts)


@given(st.lists(st.tuples(partitions_within, sequences_within), max_size=20))
def test_columns_of_internal_ids_are_internal_ids(parts: list[tuple[int, int]]) -> None:
    ids = internal_ids([part[0] for part in parts], [part[1] for part in parts])
    assert (ids.dtype, ids.shape) == (np.dtype(np.int64), (len(parts),))
    assert ids.tolist() == [internal_id(*part) for part in parts]
    assert [split_id(id_) for id_ in ids] == parts


@pytest.mark.parametrize(
    ("partition", "sequence"),
    [(-1, 0), (LAST_PARTITION + 1, 0), (0, -1), (0, LAST_SEQUENCE + 1)],
)
def test_parts_beyond_the_limits_are_our_own_bug(partition: int, sequence: int) -> None:
    with pytest.raises(AssertionError):
        internal_id(partition, sequence)


def test_the_limits_and_the_default_are_pinned() -> None:
    assert MAX_PARTITIONS == LAST_PARTITION + 1
    assert DEFAULT_PARTITIONS == 64
