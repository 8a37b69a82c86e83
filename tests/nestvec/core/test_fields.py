"""Declared fields: which names and values there may be, and how values are compared."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import (
    MISSING_INTEGER,
    FieldSchema,
    FieldType,
    check_fields,
    check_values,
    column_value,
    declared,
    parse_field,
)

KEYWORD, INTEGER, FLOAT, BOOL, TIME = (FieldSchema(kind.value, kind) for kind in FieldType)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def refusal(schema: FieldSchema, value: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        column_value(schema, value, "here")
    assert caught.value.field == "here"
    return caught.value.message


# --- schemas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "year", "a_1", "a" * 63])
def test_names_of_letters_digits_and_underscores_are_taken(name: str) -> None:
    check_fields([FieldSchema(name, FieldType.KEYWORD)])


@pytest.mark.parametrize("name", ["", "1a", "_a", "A", "a-b", "a.b", "a b", "ä", "a" * 64, "a\n"])
def test_other_names_are_refused_by_their_place(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a field") as caught:
        check_fields([KEYWORD, FieldSchema(name, FieldType.KEYWORD)])
    assert caught.value.field == "fields.1.name"


def test_a_name_stands_once_and_there_are_at_most_64() -> None:
    with pytest.raises(InvalidRequest, match="'keyword' is declared twice"):
        check_fields([KEYWORD, FieldSchema("keyword", FieldType.BOOL)])
    many = [FieldSchema(f"f{number}", FieldType.BOOL) for number in range(65)]
    check_fields(many[:64])
    with pytest.raises(InvalidRequest, match="65 fields, at most 64"):
        check_fields(many)


def test_a_field_is_written_as_name_and_type() -> None:
    assert parse_field("year:integer") == FieldSchema("year", FieldType.INTEGER)
    for text in ("year", "year:", "year:int"):
        with pytest.raises(
            InvalidRequest, match="expected one of keyword, integer, float, bool, time"
        ):
            parse_field(text)
    with pytest.raises(InvalidRequest, match="'year' has no type; write NAME:TYPE, such as year:"):
        parse_field("year")


def test_an_unknown_field_is_refused_naming_the_declared_ones_and_the_nearest() -> None:
    with pytest.raises(InvalidRequest) as caught:
        declared("interger", [KEYWORD, INTEGER], "here")
    assert "declares keyword, integer; did you mean 'integer'?" in caught.value.message
    with pytest.raises(InvalidRequest) as caught:
        declared("zzz", [KEYWORD], "here")
    assert "did you mean" not in caught.value.message
    with pytest.raises(InvalidRequest, match="declares none"):
        declared("year", [], "here")


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (KEYWORD, "", ""),
        (KEYWORD, "de", "de"),
        (INTEGER, -5, -5),
        (INTEGER, 2**63 - 1, 2**63 - 1),
        (INTEGER, -(2**63) + 1, -(2**63) + 1),
        (FLOAT, 2, 2.0),
        (FLOAT, -0.5, -0.5),
        (BOOL, False, False),
        (TIME, "1970-01-01T00:00:00Z", 0),
        (TIME, "1970-01-01T01:00:00+01:00", 0),
        (TIME, "1970-01-01 00:00:00.000001z", 1),
        (TIME, "1970-01-01t00:00:00.0000019Z", 1),
        (TIME, "1969-12-31T23:59:59.999999Z", -1),
        (TIME, "0001-01-01T00:00:00+05:00", -62135614800000000),
        (TIME, "9999-12-31T23:59:59-12:00", 253402343999000000),
    ],
)
def test_a_value_of_the_declared_type_becomes_what_is_compared(
    schema: FieldSchema, value: object, expected: object
) -> None:
    got = column_value(schema, value, "here")
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        (KEYWORD, 3, "int 3 in field 'keyword', which is declared keyword; expected a string"),
        pytest.param(KEYWORD, 10**5000, "an integer of more than 64 bits", id="keyword-vast"),
        (INTEGER, True, "bool True in field 'integer', which is declared integer"),
        (INTEGER, 2.0, "float 2.0"),
        (INTEGER, "2", "str '2'"),
        (INTEGER, MISSING_INTEGER, "expected -9223372036854775807 to 9223372036854775807"),
        (INTEGER, 2**63, "expected -9223372036854775807 to 9223372036854775807"),
        pytest.param(INTEGER, 10**5000, "more than 64 bits", id="integer-vast"),
        (FLOAT, True, "expected a number"),
        (FLOAT, math.nan, "nan in field 'float'; expected a finite number"),
        (FLOAT, math.inf, "expected a finite number"),
        pytest.param(FLOAT, 10**400, "expected a finite number", id="float-vast"),
        (BOOL, 1, "int 1 in field 'bool', which is declared bool; expected true or false"),
        (BOOL, "true", "expected true or false"),
        (TIME, 0, "expected a time as RFC 3339 writes it"),
        (TIME, "2026-11-24", "such as 2026-11-24T09:30:00Z"),
        (TIME, "2026-11-24T09:30:00", "with an offset"),
        (TIME, "20261124T093000Z", "RFC 3339"),
        (TIME, "2026-11-24T09:30:00+0100", "RFC 3339"),
        (TIME, "2026-13-24T09:30:00Z", "month must be in 1..12"),
        (TIME, "2026-02-30T09:30:00Z", "is no time"),
        (TIME, "2026-11-24T09:30:60Z", "second must be in 0..59"),
        (TIME, "٢٠٢٦-11-24T09:30:00Z", "RFC 3339"),
        (KEYWORD, None, "NoneType"),
    ],
)
def test_another_value_is_refused_saying_what_was_expected(
    schema: FieldSchema, value: object, reason: str
) -> None:
    assert reason in refusal(schema, value)


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal(INTEGER, "x" * 10_000)) < 200


@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001  the offset comes below
    st.integers(-23 * 60, 23 * 60),
)
def test_a_time_is_its_microseconds_whatever_its_offset(local: datetime, minutes: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (moment - EPOCH) // timedelta(microseconds=1)
    assert column_value(TIME, moment.isoformat(), "here") == expected


def test_only_declared_fields_of_a_document_are_looked_at() -> None:
    fields = [INTEGER, BOOL]
    check_values(fields, {})
    check_values(fields, {"integer": 3, "other": "anything", "year": 2.5})
    with pytest.raises(InvalidRequest) as caught:
        check_values(fields, {"integer": 3, "bool": "yes"})
    assert caught.value.field == "document.fields.bool"
