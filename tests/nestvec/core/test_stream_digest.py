"""Digests tell documents apart by what they say, and by nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.stream_digest import DIGEST_BYTES, document_digest, first_difference

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.one_of(texts, st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.none())
documents = st.tuples(
    texts, texts, st.dictionaries(texts, values), st.binary(max_size=8), st.integers(0, 2**63 - 1)
)


@given(documents)
def test_a_digest_is_short_and_never_zero_and_does_not_depend_on_the_order_of_fields(
    one: tuple[str, str, dict[str, object], bytes, int],
) -> None:
    name, text, fields, vector, version = one
    digest = document_digest(name, text, fields, vector, version)  # type: ignore[arg-type]
    assert len(digest) == DIGEST_BYTES
    assert any(digest)
    turned = dict(reversed(list(fields.items())))
    assert document_digest(name, text, turned, vector, version) == digest  # type: ignore[arg-type]


def test_whatever_is_said_differently_has_another_digest() -> None:
    said = [
        document_digest("a", "b", {}),
        document_digest("ab", "", {}),
        document_digest("", "ab", {}),
        document_digest("a", "b", {}, b"x"),
        document_digest("a", "b", {}, b"", 1),
        document_digest("a", "b", {"x": 1}),
        document_digest("a", "b", {"x": 1.0}),
        document_digest("a", "b", {"x": True}),
        document_digest("a", "b", {"x": "1"}),
        document_digest("a", "b", {"x": None}),
        document_digest("a", "b", {"x": "y", "z": ""}),
        document_digest("a", "b", {"x": "", "yz": ""}),
    ]
    assert len(set(said)) == len(said)


def test_a_digest_is_the_same_in_every_version() -> None:
    """Written down: a replay after an upgrade must not be taken for other documents."""
    assert document_digest("a", "text", {"n": 1, "s": "x"}, b"\x00\x01", 7).hex() == "bf40c2f1"


def test_the_first_difference_is_found_where_something_is_kept() -> None:
    a, b, nothing = b"aaaa", b"bbbb", bytes(4)
    assert first_difference(a + b, a + b) is None
    assert first_difference(a + b + a, a + a + b) == 1
    assert first_difference(nothing + a, b + a) is None
    assert first_difference(nothing + a, b + b) == 1
    assert first_difference(b"", a) is None
