"""Documents are checked where they come in, and their payloads come back as they were given."""

import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.document import (
    MAX_ID_BYTES,
    Document,
    FieldValue,
    check_id,
    check_text,
    payload_from_bytes,
    payload_to_bytes,
)
from nestvec.core.errors import CorruptVector, InvalidRequest

values: st.SearchStrategy[FieldValue] = st.one_of(
    st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans()
)
documents = st.builds(
    Document,
    id=st.text(min_size=1),
    text=st.text(),
    fields=st.dictionaries(st.text(), values, max_size=4),
)


# --- ids and texts --------------------------------------------------------------------------------


@given(st.text())
def test_an_id_is_one_to_512_bytes_of_utf8(external_id: str) -> None:
    if 1 <= len(external_id.encode()) <= MAX_ID_BYTES:
        assert check_id(external_id) == external_id
    else:
        with pytest.raises(InvalidRequest):
            check_id(external_id)


@pytest.mark.parametrize("external_id", ["x" * 512, "é" * 256, "日" * 170, "\x00", " ", "{c:1}"])
def test_ids_up_to_the_limit_are_taken_as_they_are(external_id: str) -> None:
    assert check_id(external_id) == external_id


@pytest.mark.parametrize(
    ("external_id", "length"), [("", 0), ("x" * 513, 513), ("é" * 257, 514), ("日" * 171, 513)]
)
def test_an_id_is_measured_in_bytes_not_characters(external_id: str, length: int) -> None:
    with pytest.raises(InvalidRequest, match=f"^documents.id: {length} bytes .* 1 to 512"):
        check_id(external_id, "documents.id")


def test_a_refusal_names_the_plain_field_where_no_path_is_given() -> None:
    with pytest.raises(InvalidRequest) as no_id:
        check_id("")
    with pytest.raises(InvalidRequest) as no_text:
        check_text("", 100)
    assert (no_id.value.field, no_text.value.field) == ("id", "text")


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0\u2003"])
def test_a_text_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^query.text: empty or only white space"):
        check_text(text, 100, "query.text")


def test_a_text_is_measured_in_bytes_and_told_the_way_out() -> None:
    assert check_text("é" * 1000, 2000) == "é" * 1000
    with pytest.raises(InvalidRequest, match=r"2,002 bytes long, at most 2,000 .*split it"):
        check_text("é" * 1001, 2000)


def test_a_text_is_not_trimmed() -> None:
    assert check_text("  a  ", 5) == "  a  "


@pytest.mark.parametrize("broken", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_the_callers_mistake(broken: str) -> None:
    """JSON can carry one; UTF-8 cannot. It must be refused from inside the error tree."""
    with pytest.raises(InvalidRequest):
        check_id(broken)
    with pytest.raises(InvalidRequest):
        check_text(broken, 100)


# --- payloads -------------------------------------------------------------------------------------


@given(documents)
def test_a_payload_comes_back_as_it_was_given_types_too(document: Document) -> None:
    back = payload_from_bytes(payload_to_bytes(document), "7")
    assert back == document
    given_types = {name: type(value) for name, value in document.fields.items()}
    assert {name: type(value) for name, value in back.fields.items()} == given_types


def test_payloads_are_pinned() -> None:
    """They are in every store: what was written must stay readable."""
    document = Document("Zürich", 'a "b"\n', {"n": 1, "x": 1.0, "ok": True, "s": "é"})
    stored = '[1,"Zürich","a \\"b\\"\\n",{"n":1,"x":1.0,"ok":true,"s":"é"}]'.encode()
    assert payload_to_bytes(document) == stored
    assert payload_from_bytes(stored, "7") == document


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 5e-324])
def test_the_odd_numbers_come_back_too(value: float) -> None:
    back = payload_from_bytes(payload_to_bytes(Document("a", "b", {"x": value})), "7").fields["x"]
    assert isinstance(back, float)
    assert (math.isnan(back) and math.isnan(value)) or back == value
    assert math.copysign(1, back) == math.copysign(1, value)


def test_fields_may_be_any_mapping_and_none_at_all() -> None:
    assert Document("a", "b").fields == {}
    assert payload_from_bytes(payload_to_bytes(Document("a", "b")), "7").fields == {}


def test_a_document_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Document("a", "b").text = "c"  # type: ignore[misc]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[",
        b"\xff\xfe",
        b"null",
        b"5",
        b"[]",
        b'[1,"a","b"]',
        b'[1,"a","b",{},0]',
        payload_to_bytes(Document("a", "b"))[:-1],
    ],
)
def test_a_payload_that_cannot_be_read_names_its_document(value: bytes) -> None:
    with pytest.raises(CorruptVector, match="document 7 is corrupt: payload cannot be read"):
        payload_from_bytes(value, "7")


@pytest.mark.parametrize("found", ["0", "2", '"1"', "null"])
def test_a_payload_of_another_format_is_refused(found: str) -> None:
    with pytest.raises(CorruptVector, match=r"payload format .*, expected 1") as caught:
        payload_from_bytes(f'[{found},"a","b",{{}}]'.encode(), "7")
    assert caught.value.document == "7"


@pytest.mark.parametrize(
    "value",
    [b'[1,5,"b",{}]', b'[1,"a",null,{}]', b'[1,"a","b",null]', b'[1,"a","b",["x"]]'],
    ids=["id", "text", "no fields", "list of fields"],
)
def test_a_payload_of_other_types_than_were_written_is_refused(value: bytes) -> None:
    """Read as a document, it would fail later and elsewhere, with no document named."""
    with pytest.raises(CorruptVector):
        payload_from_bytes(value, "7")
