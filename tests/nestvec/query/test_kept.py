"""Queries asked before are not encoded again; everything else is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Floats
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import Encoder
from nestvec.core.space import Role, Space
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.query.kept import KeptEncoders

PATIENT_S = 10.0


class Counting:
    """A real encoder that notes what it was asked."""

    def __init__(self, dim: int = 64) -> None:
        self.encoder = EncoderApp(HashModel(dim))
        self.asked: list[tuple[str, ...]] = []

    @property
    def space(self) -> Space:
        return self.encoder.space

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        self.asked.append(tuple(texts))
        return await self.encoder.encode(texts, role, timeout_s)


def kept_queries(encoder: Encoder, max_bytes: int) -> Encoder:
    return KeptEncoders(FixedEncoders(encoder), max_bytes).default


async def test_a_query_is_encoded_once_and_the_same_to_the_last_bit() -> None:
    counting = Counting()
    kept = kept_queries(counting, 1 << 20)
    plain = await counting.encoder.encode(["red door"], Role.QUERY, PATIENT_S)
    for _ in range(3):
        np.testing.assert_array_equal(await kept.encode(["red door"], Role.QUERY, PATIENT_S), plain)
    assert counting.asked == [("red door",)]
    with pytest.raises(ValueError, match="read-only"):
        (await kept.encode(["red door"], Role.QUERY, PATIENT_S))[0, 0] = 1.0


async def test_documents_batches_and_long_texts_go_through() -> None:
    counting = Counting()
    kept = kept_queries(counting, 1 << 20)
    for texts, role in [
        (["red"], Role.DOCUMENT),
        (["red", "blue"], Role.QUERY),
        (["long " * 200], Role.QUERY),
    ]:
        for _ in range(2):
            vectors = await kept.encode(texts, role, PATIENT_S)
            expected = await counting.encoder.encode(texts, role, PATIENT_S)
            np.testing.assert_array_equal(vectors, expected)
    assert len(counting.asked) == 6


async def test_it_is_bounded_and_forgets_what_was_used_least() -> None:
    counting = Counting()
    kept = kept_queries(counting, 5_000)  # room for four
    for number in [0, 1, 2, 3, 0, 4, 0]:
        await kept.encode([f"query {number}"], Role.QUERY, PATIENT_S)
    assert len(counting.asked) == 5
    await kept.encode(["query 1"], Role.QUERY, PATIENT_S)
    assert counting.asked[-1] == ("query 1",)
    assert len(counting.asked) == 6


async def test_nothing_is_kept_without_room_and_no_failure_is() -> None:
    counting = Counting()
    kept = kept_queries(counting, 0)
    for _ in range(2):
        await kept.encode(["red"], Role.QUERY, PATIENT_S)
    assert len(counting.asked) == 2
    kept = kept_queries(counting, 1 << 20)
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await kept.encode([" "], Role.QUERY, PATIENT_S)
    assert len(counting.asked) == 4
