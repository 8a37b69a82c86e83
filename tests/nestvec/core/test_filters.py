"""Filters: the tree and its checks, and the text that people write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filter_text import parse_filter
from nestvec.core.filters import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_VALUES,
    AllOf,
    AnyOf,
    Exists,
    Filter,
    Not,
    OneOf,
    Range,
    validate,
)

FIELDS = [
    FieldSchema("lang", FieldType.KEYWORD),
    FieldSchema("year", FieldType.INTEGER),
    FieldSchema("price", FieldType.FLOAT),
    FieldSchema("draft", FieldType.BOOL),
    FieldSchema("at", FieldType.TIME),
]
DRAFT = AnyOf("draft", (True,))


def refused(wanted: Filter) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        validate(wanted, FIELDS)
    return caught.value


# --- checking -------------------------------------------------------------------------------------


def test_values_become_what_columns_hold() -> None:
    wanted = AllOf(
        (
            Range("at", at_least="1970-01-01T00:00:01Z", less_than="1970-01-01T00:00:02Z"),
            OneOf((AnyOf("price", (1, 2.5)), Not(Exists("lang")))),
        )
    )
    assert validate(wanted, FIELDS).root == AllOf(
        (
            Range("at", at_least=1_000_000, less_than=2_000_000),
            OneOf((AnyOf("price", (1.0, 2.5)), Not(Exists("lang")))),
        )
    )


def test_filters_have_one_key_exactly_when_they_say_the_same() -> None:
    year = validate(AnyOf("year", (1,)), FIELDS)
    assert year.key == validate(AnyOf("year", (1,)), FIELDS).key
    for other in (AnyOf("year", (2,)), AnyOf("price", (1,)), Not(AnyOf("year", (1,)))):
        assert validate(other, FIELDS).key != year.key
    assert validate(AnyOf("lang", ("a', 'b",)), FIELDS).key != (
        validate(AnyOf("lang", ("a", "b")), FIELDS).key
    )


@pytest.mark.parametrize(
    ("wanted", "field", "reason"),
    [
        (AnyOf("lnag", ("en",)), "any_of.field", "did you mean 'lang'?"),
        (Exists("nothing"), "exists", "not declared"),
        (Range("nothing", at_least=1), "range.field", "not declared"),
        (AnyOf("year", ()), "any_of.values", "nothing would match"),
        (AnyOf("year", (1, "2")), "any_of.values.1", "expected an integer"),
        (AnyOf("year", (True,)), "any_of.values.0", "expected an integer"),
        (AnyOf("draft", (1,)), "any_of.values.0", "expected true or false"),
        (AnyOf("price", (float("nan"),)), "any_of.values.0", "finite"),
        (Range("year", at_least=2.5), "range.at_least", "expected an integer"),
        (Range("year", less_than=-(2**63)), "range.less_than", "expected -9223372036854775807"),
        (Range("price", greater_than=float("inf")), "range.greater_than", "finite"),
        (Range("at", at_most="2024-01-01"), "range.at_most", "with an offset"),
        (Range("lang", at_least="a"), "range.field", "has no order"),
        (Range("draft", at_least=False), "range.field", "has no order"),
        (Range("year"), "range", "no bound"),
        (
            AllOf((DRAFT, OneOf((DRAFT, Not(Exists("x")))))),
            "all_of.filters.1.one_of.filters.1.not.exists",
            "not declared",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(wanted: Filter, field: str, reason: str) -> None:
    error = refused(wanted)
    assert error.field == f"options.filter.{field}"
    assert reason in error.message


def test_a_collection_without_fields_says_so() -> None:
    with pytest.raises(InvalidRequest, match="declares none"):
        validate(DRAFT, [])


def nested(levels: int, wrap: Callable[[Filter], Filter]) -> Filter:
    wanted: Filter = DRAFT
    for _ in range(levels - 1):
        wanted = wrap(wanted)
    return wanted


@pytest.mark.parametrize("wrap", [Not, lambda part: AllOf((part,)), lambda part: OneOf((part,))])
def test_depth_is_bounded(wrap: Callable[[Filter], Filter]) -> None:
    validate(nested(MAX_DEPTH, wrap), FIELDS)
    assert "more than 16 levels deep" in refused(nested(MAX_DEPTH + 1, wrap)).message


def test_parts_and_values_are_bounded_over_the_whole_filter() -> None:
    validate(AllOf((DRAFT,) * (MAX_NODES - 1)), FIELDS)
    assert "1,024 parts" in refused(AllOf((DRAFT,) * MAX_NODES)).message
    half = AnyOf("year", tuple(range(MAX_VALUES // 2)))
    validate(OneOf((half, half)), FIELDS)
    assert "10,000 values" in refused(OneOf((half, half, DRAFT))).message


def test_what_is_no_filter_is_refused() -> None:
    assert "a str is no part of a filter" in refused("lang == 'en'").message  # type: ignore[arg-type]


# --- as text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('lang == "en"', AnyOf("lang", ("en",))),
        ("'en' == lang", AnyOf("lang", ("en",))),
        ('lang != "en"', Not(AnyOf("lang", ("en",)))),
        ("lang in ('en', 'de')", AnyOf("lang", ("en", "de"))),
        ("lang in ['en']", AnyOf("lang", ("en",))),
        ("year not in {1, 2}", Not(AnyOf("year", (1, 2)))),
        ("year in ()", AnyOf("year", ())),
        ("year >= 2020", Range("year", at_least=2020)),
        ("2020 >= year", Range("year", at_most=2020)),
        ("year > -3", Range("year", greater_than=-3)),
        ("price < +2.5", Range("price", less_than=2.5)),
        ("2019 < year <= 2024", Range("year", greater_than=2019, at_most=2024)),
        ("2024 >= year > 2019", Range("year", at_most=2024, greater_than=2019)),
        ("1 < year < 5 != year", AllOf((
            Range("year", greater_than=1), Range("year", less_than=5), Not(AnyOf("year", (5,))),
        ))),
        ("1 < year > 5", AllOf((Range("year", greater_than=1), Range("year", greater_than=5)))),
        ("draft", DRAFT),
        ("not draft", Not(DRAFT)),
        ("draft == true", DRAFT),
        ("false == draft", AnyOf("draft", (False,))),
        ("exists(lang)", Exists("lang")),
        ("exists('class')", Exists("class")),
        ("field('class') == 'a'", AnyOf("class", ("a",))),
        ("field('is')", AnyOf("is", (True,))),
        ("draft and year == 1 and price == 2.5",
         AllOf((DRAFT, AnyOf("year", (1,)), AnyOf("price", (2.5,))))),
        ("draft or not (draft and draft)", OneOf((DRAFT, Not(AllOf((DRAFT, DRAFT)))))),
        ("draft\n  and  # comments may stand\n draft", AllOf((DRAFT, DRAFT))),
        ("lang == 'a' 'b'", AnyOf("lang", ("ab",))),
        ("lang == 'it\\'s'", AnyOf("lang", ("it's",))),
    ],
)  # fmt: skip
def test_text_is_read_as_the_tree_it_says(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ('lang = "en"', "=="),
        ("lang ==", "invalid syntax"),
        ("lang == en", 'a string is "en"'),
        ("lang == None", "exists(NAME)"),
        ("lang is None", "exists(NAME)"),
        ("lang == other", "a field is compared with a value"),
        ("1 == 1", "expected the name of a field"),
        ("'en' in lang", "expected the name of a field"),
        ("lang in 'en'", "values in brackets"),
        ("lang in (x, 'en')", 'a string is "x"'),
        ("lang == b'en'", "expected a string in quotes"),
        ("lang == f'{year}'", "expected a string in quotes"),
        ("year == 1 + 1", "expected a string in quotes"),
        ("year == 1j", "expected a string in quotes"),
        ("year == ...", "expected a string in quotes"),
        ("year == -True", "expected a string in quotes"),
        ("year == -'a'", "expected a string in quotes"),
        ("year + 1 == 3", "expected the name of a field"),
        ("lang.lower() == 'en'", "expected the name of a field"),
        ("exists()", "no comparison"),
        ("exists(lang, year)", "no comparison"),
        ("exists(1)", "expected the name of a field"),
        ("exists(lang=1)", "no comparison"),
        ("__import__('os').system('true')", "no comparison"),
        ("(lambda: 1)()", "no comparison"),
        ("(draft := 1)", "no comparison"),
        ("draft, draft", "no comparison"),
        ("1", "no comparison"),
        ("-draft", "no comparison"),
        ("draft if draft else draft", "no comparison"),
        ("import os", "invalid syntax"),
        ("draft)", "unmatched"),
        ("draft\0", "null byte"),
        ("(" * 500 + "draft" + ")" * 500, "too many nested parentheses"),
        ("not " * 50 + "draft", "16 levels deep"),
        ("not " * 100_000 + "draft", "nested too deeply"),
        ("year == " + "9" * 5000, "4300"),
        ("draft or " * 200_000 + "draft", "1,800,005 characters"),
    ],
    ids=lambda value: value[:30],
)
def test_text_that_says_no_filter_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(text, "options.filter")
    assert caught.value.field == "options.filter"
    assert reason in caught.value.message
    assert len(caught.value.message) < 400


def test_a_refusal_tells_line_and_column_of_what_was_written() -> None:
    with pytest.raises(InvalidRequest, match="'en' at line 1, column 9: "):
        parse_filter("lang == en")
    with pytest.raises(InvalidRequest, match="'en' at line 2, column 14: "):
        parse_filter("draft\n and lang == en")


# Whatever is written about fields in this way is read back as it was.
values = st.one_of(
    st.text(max_size=5),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
names = st.sampled_from(["lang", "year", "price"])
leaves: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Exists, names),
    st.builds(lambda name, value: AnyOf(name, (value,)), names, values),
    st.builds(
        lambda name, some: AnyOf(name, tuple(some)), names, st.lists(values, min_size=2, max_size=4)
    ),
    st.builds(lambda name, value: Range(name, at_least=value), names, values),
    st.builds(lambda name, low, high: Range(name, low, less_than=high), names, values, values),
)
trees = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        st.builds(lambda some: AllOf(tuple(some)), st.lists(parts, min_size=2, max_size=3)),
        st.builds(lambda some: OneOf(tuple(some)), st.lists(parts, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)


def written(wanted: Filter) -> str:
    match wanted:
        case AllOf(parts):
            return "(" + " and ".join(map(written, parts)) + ")"
        case OneOf(parts):
            return "(" + " or ".join(map(written, parts)) + ")"
        case Not(part):
            return f"(not {written(part)})"
        case Exists(name):
            return f"exists({name})"
        case AnyOf(name, (value,)):
            return f"({name} == {value!r})"
        case AnyOf(name, some):
            return f"({name} in {some!r})"
        case Range(name, greater_than=None, at_least=low):
            return f"({name} >= {low!r})"
        case Range(name, greater_than=low, less_than=high):
            return f"({low!r} < {name} < {high!r})"
    raise AssertionError(wanted)


@given(trees)
def test_reading_reverses_writing(wanted: Filter) -> None:
    text = written(wanted)
    if text.count("(") <= 12:
        assert parse_filter(text) == wanted


def test_a_time_without_quotes_is_told_apart_from_a_number() -> None:
    """Python itself would speak of octal integers."""
    with pytest.raises(InvalidRequest, match="a time stands in quotes, such as '20") as caught:
        parse_filter("at >= 2024-01-01")
    assert "octal" not in str(caught.value)
