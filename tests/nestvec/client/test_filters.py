"""Declared fields and filters through both clients, against a real engine."""

from __future__ import annotations

from typing import Any

import pytest

from nestvec.client import IngestDocument, IngestReason, NestvecClient
from nestvec.core.certificate import Certificate
from nestvec.core.errors import AlreadyExists, InvalidRequest
from nestvec.core.fields import FieldType
from nestvec.core.filters import AllOf, AnyOf, Filter, Not, Range
from tests.support.engine import SharedEngine

FIELDS = {
    "lang": FieldType.KEYWORD,
    "year": FieldType.INTEGER,
    "price": FieldType.FLOAT,
    "draft": FieldType.BOOL,
    "at": FieldType.TIME,
}
DOCUMENTS = [
    IngestDocument(
        f"b{number}",
        f"book number {number} about gardens",
        {
            "lang": ("en", "de")[number % 2],
            "year": 2000 + number,
            "price": number / 2,
            "draft": number % 5 == 0,
            "at": f"20{number + 10}-06-01T12:00:00+02:00",
            "note": "not declared",
        },
    )
    for number in range(20)
]


@pytest.fixture(scope="module")
def books(engine: SharedEngine) -> str:
    """A collection that tests only read."""
    name = "client-books"
    with NestvecClient(engine.address) as client:
        client.create_collection(name, fields=FIELDS)
        report = client.index(name, DOCUMENTS)
    assert (report.indexed, report.failed) == (20, 0)
    return name


def found(client: NestvecClient, books: str, wanted: Filter | str, **options: Any) -> set[str]:
    result = client.search(books, "gardens", k=50, filter=wanted, **options)
    return {hit.id for hit in result.hits}


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ("lang == 'de' and year < 2006", {1, 3, 5}),
        ("draft or price >= 9.5", {0, 5, 10, 15, 19}),
        ("2003 < year <= 2005 or year in (2010, 2011)", {4, 5, 10, 11}),
        ("at >= '2027-06-01T10:00:00Z' and not draft", {17, 18, 19}),
        ("not exists(lang)", set()),
        (AllOf((AnyOf("lang", ("en",)), Not(Range("year", at_least=2004)))), {0, 2}),
    ],
)
@pytest.mark.parametrize("search_class", ["autocomplete", "search", "analyst"])
def test_text_and_tree_let_the_same_documents_through_in_every_class(
    client: NestvecClient, books: str, wanted: Filter | str, numbers: set[int], search_class: str
) -> None:
    assert found(client, books, wanted, search_class=search_class) == {f"b{n}" for n in numbers}


def test_an_explanation_tells_how_many_match(client: NestvecClient, books: str) -> None:
    result = client.search(books, "gardens", k=3, filter="year >= 2010", explain=True)
    assert result.explanation is not None
    assert result.explanation.matching == 10
    assert result.certificate is Certificate.COLLECTION
    assert result.coverage.documents_total == 20
    everything = client.search(books, "gardens", explain=True)
    assert everything.explanation is not None
    assert everything.explanation.matching == 20
    for one in client.search_batch(books, ["gardens", "book"], filter="draft", explain=True):
        assert one.explanation is not None
        assert one.explanation.matching == 4


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("lnag == 'de'", "declares lang, year, price, draft, at; did you mean 'lang'"),
        ("note == 'not declared'", "'note' is not declared"),
        ("year == '2004'", "expected an integer"),
        ("lang > 'a'", "has no order"),
        ("year in ()", "nothing would match"),
        ("at > '2024-01-01'", "with an offset"),
        ("lang = 'de'", "=="),
        ("year == 99999999999999999999", "64-bit integer"),
        ("not " * 17 + "draft", "levels deep"),
        (AnyOf("year", ()), "nothing would match"),
        (AnyOf("year", tuple(range(10_001))), "10,000 values"),
        (AnyOf("lang", ("\ud800",)), "half a character"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_and_the_next_one_answered(
    client: NestvecClient, books: str, wanted: Filter | str, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        found(client, books, wanted)
    assert reason in caught.value.message
    assert caught.value.field.startswith("options.filter")
    assert found(client, books, "year == 2003") == {"b3"}


def test_what_is_no_filter_is_a_type_error(client: NestvecClient, books: str) -> None:
    with pytest.raises(TypeError, match="no filter"):
        found(client, books, {"year": 2004})  # type: ignore[arg-type]


def test_a_declared_field_of_another_type_is_reported(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name, fields=FIELDS)
    report = client.index(
        collection_name,
        [
            IngestDocument("bad", "gardens", {"year": "2004"}),
            IngestDocument("good", "gardens", {"year": 1999, "note": 3}),
        ],
    )
    assert report.indexed == 1
    (failure,) = report.failures
    assert (failure.id, failure.reason) == ("bad", IngestReason.INVALID)
    assert "document.fields.year" in failure.message
    assert "declared integer; expected an integer" in failure.message
    assert found(client, collection_name, "year == 1999") == {"good"}


def test_fields_are_described_and_part_of_the_design(client: NestvecClient, books: str) -> None:
    assert client.describe(books).fields == FIELDS
    assert list(client.describe(books).fields) == list(FIELDS)
    again = client.create_collection(
        books, fields={name: kind.value for name, kind in FIELDS.items()}, exist_ok=True
    )
    assert again.fields == FIELDS
    with pytest.raises(AlreadyExists, match="fields is"):
        client.create_collection(books, fields={"lang": "keyword"}, exist_ok=True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"year": "int"}, "type 'int', expected one of keyword, integer, float, bool, time"),
        ({"Year": "integer"}, "cannot name a field"),
        ({f"f{n}": "bool" for n in range(65)}, "65 fields, at most 64"),
    ],
)
def test_fields_that_cannot_be_declared_are_refused(
    client: NestvecClient, collection_name: str, fields: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        client.create_collection(collection_name, fields=fields)
    assert collection_name not in [info.name for info in client.collections()]
