"""A manifest tells when it is not what was written, and a file entry when a file is not."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.sealed import Damaged, FileEntry, seal, unseal

BODY = {"format": 1, "positions": {"0": 1 << 47, "63": 5}, "name": "grün", "files": [["a", 3, "x"]]}

texts = st.text(max_size=8)
bodies = st.dictionaries(
    texts.filter(lambda key: key != "checksum"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)


@given(bodies)
def test_unsealing_reverses_sealing(body: dict[str, object]) -> None:
    assert unseal(seal(body)) == body


def test_no_single_changed_byte_goes_unnoticed() -> None:
    data = seal(BODY)
    for position in range(len(data)):
        for flipped in (data[position] ^ 1, data[position] ^ 0x80):
            changed = data[:position] + bytes([flipped]) + data[position + 1 :]
            with contextlib.suppress(Damaged):
                assert unseal(changed) == BODY, f"byte {position}"


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_a_cut_manifest_is_damaged(cut: int) -> None:
    with pytest.raises(Damaged):
        unseal(seal(BODY)[:cut])


@pytest.mark.parametrize("data", [b"[]", b"7", b"\xff\xfe", b"null", json.dumps(BODY).encode()])
def test_what_was_never_sealed_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        unseal(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "tier-16-0-ids-0 is missing"),
        (b"abc", "has 3 bytes, 4 were written"),
        (b"abcd ", "has 5 bytes, 4 were written"),
        (b"abce", "checksum"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_named(data: bytes | None, reason: str) -> None:
    entry = FileEntry(*FileEntry.of("tier-16-0-ids-0", b"abcd").to_list())  # type: ignore[arg-type]
    assert entry.check(b"abcd") == b"abcd"
    with pytest.raises(Damaged, match=reason):
        entry.check(data)
