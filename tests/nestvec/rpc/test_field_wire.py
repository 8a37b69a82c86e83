"""Filters and fields come back from the wire as they were; what is not understood is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AllOf, AnyOf, Exists, Filter, Not, OneOf, Range
from nestvec.rpc.decoding import Refused, careful
from nestvec.rpc.field_wire import (
    filter_from_wire,
    filter_to_wire,
    schema_from_wire,
    schema_to_wire,
)
from nestvec.v1 import common_pb2, query_pb2
from tests.support.caller import UNKNOWN_FIELD, delimited
from tests.support.filtering import FIELDS, filters

read_search = careful(query_pb2.SearchRequest.FromString)


@given(filters)
def test_a_filter_comes_back_as_it_was(wanted: Filter) -> None:
    data = filter_to_wire(wanted).SerializeToString()
    back = filter_from_wire(common_pb2.Filter.FromString(data))
    assert repr(back) == repr(wanted), "1, 1.0 and True are equal, and not the same"


@given(st.lists(st.builds(FieldSchema, st.text(st.characters(max_codepoint=127), max_size=9),
                          st.sampled_from(FieldType)), max_size=5))  # fmt: skip
def test_a_schema_comes_back_as_it_was(fields: list[FieldSchema]) -> None:
    assert schema_from_wire(schema_to_wire(fields)) == tuple(fields)
    assert schema_from_wire(schema_to_wire(FIELDS)) == FIELDS


def test_equals_is_any_of_with_one_value() -> None:
    message = common_pb2.Filter()
    message.equals.field = "year"
    message.equals.value.int_value = 0
    assert filter_from_wire(message) == AnyOf("year", (0,))


@pytest.mark.parametrize("number", [0, 99])
def test_a_type_that_is_not_known_here_is_refused_by_its_place(number: int) -> None:
    messages = [*schema_to_wire(FIELDS), common_pb2.FieldSchema(name="geo")]
    messages[-1].type = number  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match="'geo' is one of keyword, integer, float") as caught:
        schema_from_wire(messages)
    assert caught.value.field == "fields.5.type"


# --- what is empty, too large, or newer -----------------------------------------------------------


def message_of(fill: Callable[[common_pb2.Filter], object]) -> common_pb2.Filter:
    message = common_pb2.Filter()
    fill(message)
    return message


@pytest.mark.parametrize(
    ("fill", "field", "reason"),
    [
        (lambda m: None, "", "an empty part"),
        (lambda m: m.all_of.filters.add(), "all_of.filters.0", "an empty part"),
        (lambda m: getattr(m, "not").SetInParent(), "not", "an empty part"),
        (lambda m: m.equals.SetInParent(), "equals.value", "no value"),
        (lambda m: m.any_of.values.add(), "any_of.values.0", "no value"),
        (lambda m: m.range.at_least.SetInParent(), "range.at_least", "no value"),
    ],
)
def test_what_says_nothing_is_refused_by_its_place(
    fill: Callable[[common_pb2.Filter], object], field: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        filter_from_wire(message_of(fill), "filter")
    assert caught.value.field == f"filter.{field}".rstrip(".")


@pytest.mark.parametrize(
    ("wanted", "path", "find"),
    [
        (Exists("a"), "", lambda m: m),
        (AllOf((Exists("a"),)), "all_of.filters.0.", lambda m: m.all_of.filters[0]),
        (AllOf((Exists("a"),)), "all_of.", lambda m: m.all_of),
        (
            OneOf((Range("a", at_least=1),)),
            "one_of.filters.0.range.",
            lambda m: m.one_of.filters[0].range,
        ),
        (Not(AnyOf("a", (1,))), "not.any_of.", lambda m: getattr(m, "not").any_of),
    ],
)
def test_a_part_that_only_a_newer_client_knows_is_refused(
    wanted: Filter, path: str, find: Callable[[common_pb2.Filter], Message]
) -> None:
    """Passed over, it would let the wrong documents through."""
    message = filter_to_wire(wanted)
    find(message).MergeFromString(UNKNOWN_FIELD)
    with pytest.raises(InvalidRequest, match="knows no such field") as caught:
        filter_from_wire(message, "filter")
    assert caught.value.field.startswith(f"filter.{path}")


def deep(levels: int) -> common_pb2.Filter:
    message = common_pb2.Filter(exists="a")
    for _ in range(levels - 1):
        outer = common_pb2.Filter()
        getattr(outer, "not").CopyFrom(message)
        message = outer
    return message


def test_depth_parts_and_values_are_bounded_before_anything_is_made_of_them() -> None:
    filter_from_wire(deep(16))
    with pytest.raises(InvalidRequest, match="16 levels deep"):
        filter_from_wire(deep(17))
    wide = common_pb2.Filter()
    wide.all_of.filters.extend([common_pb2.Filter(exists="a")] * 1024)
    with pytest.raises(InvalidRequest, match="1,024 parts"):
        filter_from_wire(wide)
    many = common_pb2.Filter()
    many.any_of.values.extend([common_pb2.FieldValue(int_value=1)] * 10_001)
    with pytest.raises(InvalidRequest, match="10,000 values"):
        filter_from_wire(many)
    with pytest.raises(InvalidRequest, match="16 levels deep"):
        filter_to_wire(Not(filter_from_wire(deep(16))))


@pytest.mark.parametrize("levels", [60, 5000])
def test_a_filter_deeper_than_messages_may_be_is_refused_as_one(levels: int) -> None:
    data = common_pb2.Filter(exists="a").SerializeToString()
    for _ in range(levels):
        data = delimited(3, data)
    answer = read_search(delimited(4, delimited(10, data)))
    if levels == 60:
        assert isinstance(answer, query_pb2.SearchRequest)
        with pytest.raises(InvalidRequest, match="16 levels deep"):
            filter_from_wire(answer.options.filter)
    else:
        assert isinstance(answer, Refused)
        assert "not a nestvec.v1.SearchRequest message" in str(answer.error)


def test_an_unknown_field_inside_a_filter_is_found_with_the_message() -> None:
    request = query_pb2.SearchRequest()
    getattr(request.options.filter, "not").range.MergeFromString(UNKNOWN_FIELD)
    answer = read_search(request.SerializeToString())
    assert isinstance(answer, Refused)
    assert answer.error.field.startswith("options.filter.not.range.")


def test_an_integer_that_no_message_holds_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="out of range"):
        filter_to_wire(AnyOf("year", (2**63,)))
    with pytest.raises(TypeError, match="no filter"):
        filter_to_wire("year == 1")  # type: ignore[arg-type]
