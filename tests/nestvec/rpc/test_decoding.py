"""What comes off the wire is a message, or an error that names where it is wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import InvalidRequest
from nestvec.rpc.decoding import Refused, careful, require_known
from nestvec.v1 import common_pb2, ingest_pb2, query_pb2
from tests.support.caller import UNKNOWN_FIELD, delimited

read_search = careful(query_pb2.SearchRequest.FromString)
read_ingest = careful(ingest_pb2.IngestDocumentsRequest.FromString)


def an_ingest(texts: list[str]) -> ingest_pb2.IngestDocumentsRequest:
    return ingest_pb2.IngestDocumentsRequest(
        collection="docs",
        vector_space=common_pb2.SpaceRef(fingerprint="f" * 16, dim=768),
        documents=[
            ingest_pb2.IngestDocument(
                document=common_pb2.Document(
                    id=text, text=text, fields={text: common_pb2.FieldValue(string_value=text)}
                )
            )
            for text in texts
        ],
    )


@given(st.lists(st.text(max_size=8), max_size=5))
def test_a_sound_message_is_read_as_it_is(texts: list[str]) -> None:
    message = an_ingest(texts)
    assert read_ingest(message.SerializeToString()) == message


@given(st.binary(max_size=40))
def test_no_bytes_do_worse_than_be_refused(data: bytes) -> None:
    for read in (read_search, read_ingest):
        answer = read(data)
        assert not isinstance(answer, Refused) or isinstance(answer.error, InvalidRequest)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5), st.data(), st.integers(128, 255))
def test_a_message_that_was_changed_on_the_way_is_never_an_exception(
    texts: list[str], data: Any, byte: int
) -> None:
    sent = bytearray(an_ingest(texts).SerializeToString())
    sent[data.draw(st.integers(0, len(sent) - 1))] = byte
    read_ingest(bytes(sent))


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (delimited(1, b"\xff"), "collection"),
        (delimited(2, delimited(1, b"\xff")), "vector_space.fingerprint"),
        (delimited(4, delimited(1, delimited(1, b"\xff"))), "documents.0.document.id"),
        (
            delimited(4, b"") + delimited(4, delimited(1, delimited(2, b"ok\xff"))),
            "documents.1.document.text",
        ),
        (
            delimited(4, delimited(1, delimited(3, delimited(1, b"\xff")))),
            "documents.0.document.fields.0.key",
        ),
        (
            delimited(
                4, delimited(1, delimited(3, delimited(2, delimited(1, b"\xe2\x82"))))
            ),
            "documents.0.document.fields.0.value.string_value",
        ),
        # Bytes need not be UTF-8, and numbers before it are passed over.
        (b"\x18\x05" + delimited(4, delimited(2, b"\xff")) + delimited(1, b"\x80"), "collection"),
        (UNKNOWN_FIELD, "99"),
        (delimited(2, UNKNOWN_FIELD), "vector_space.99"),
        (b"\x0a\x05ab", ""),
        (b"\xff", ""),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_by_its_path(data: bytes, path: str) -> None:
    refused = read_ingest(data)
    assert isinstance(refused, Refused)
    assert refused.error.field == path


def test_unknown_fields_in_lists_are_left_to_who_reads_the_list() -> None:
    message = read_ingest(delimited(4, UNKNOWN_FIELD))
    with pytest.raises(InvalidRequest, match=r"^documents.99: nestvec .* nestvec.v1.IngestDocum"):
        require_known(message.documents[0], "documents.")
    require_known(message, "")
