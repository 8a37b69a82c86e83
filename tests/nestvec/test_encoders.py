"""Fixed encoders: each its own space, and a refusal that names them."""

from __future__ import annotations

import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.core.errors import InvalidRequest, SpaceMismatch
from nestvec.core.model_spec import ModelSpec
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders

ENCODERS = FixedEncoders(EncoderApp(HashModel(16)), (EncoderApp(HashModel(32)),))


async def test_each_is_found_by_its_space_and_by_its_name() -> None:
    for dim, encoder in ((16, ENCODERS.default), (32, ENCODERS.others[0])):
        assert await ENCODERS.of(HashModel(dim).space) is encoder
        assert (await ENCODERS.named(ModelSpec(f"hash-{dim}"))).encoder is encoder
    assert (await ENCODERS.named()).encoder is ENCODERS.default


async def test_others_are_refused_and_those_that_serve_named() -> None:
    space = HashModel(48).space
    told = r"this server's model hash-16 \(it also serves hash-32\)"
    with pytest.raises(SpaceMismatch, match=told) as caught:
        await ENCODERS.of(space)
    assert caught.value.expected == space.fingerprint
    with pytest.raises(InvalidRequest, match=f"hash-48 is not served here; {told}"):
        await ENCODERS.named(ModelSpec("hash-48"))
