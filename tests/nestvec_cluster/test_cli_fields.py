"""Declared fields and filters on the command line, against a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Nestvec

DECLARED = ("--field", "year:integer", "--field", "tame:bool", "--field", "kind:keyword",
            "--field", "kilos:float", "--field", "born:time")  # fmt: skip
ANIMALS = """id,text,year,tame,kind,kilos,born
cat,a cat on a mat,2020,true,pet,4.5,2020-05-01T00:00:00Z
dog,a dog in the fog,2021,True,pet,30,2021-05-01T00:00:00Z
mouse,a mouse in the house,,0,,0.02,
"""


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    path = tmp_path / "animals.csv"
    path.write_text(ANIMALS)
    return path


@pytest.fixture
def zoo(nestvec: Nestvec, collection_name: str, animals: Path) -> str:
    ran = nestvec("index", animals, "-c", collection_name, *DECLARED)
    assert (ran.code, ran.err) == (0, "")
    return collection_name


def found(nestvec: Nestvec, zoo: str, wanted: str) -> set[str]:
    ran = nestvec("search", "an animal", "-c", zoo, "--filter", wanted, "--json")
    assert ran.code == 0, ran.err
    return {hit["id"] for hit in ran.json["hits"]}


def test_index_declares_fields_and_reads_a_table_by_their_types(nestvec: Nestvec, zoo: str) -> None:
    (mouse,) = nestvec("get", "mouse", "-c", zoo, "--json").json["documents"]
    assert mouse["fields"] == {"tame": False, "kind": "", "kilos": 0.02}
    (dog,) = nestvec("get", "dog", "-c", zoo, "--json").json["documents"]
    assert dog["fields"] == {
        "year": 2021, "tame": True, "kind": "pet", "kilos": 30.0, "born": "2021-05-01T00:00:00Z"
    }  # fmt: skip
    described = nestvec("describe", zoo, "--json").json
    assert described["fields"] == {
        "year": "integer", "tame": "bool", "kind": "keyword", "kilos": "float", "born": "time"
    }  # fmt: skip
    assert "year:integer, tame:bool" in nestvec("describe", zoo).out


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("year > 2020", {"dog"}),
        ("tame and kilos < 10", {"cat"}),
        ("not exists(year)", {"mouse"}),
        ("kind in ('pet', 'pest')", {"cat", "dog"}),
        ("born < '2021-01-01T00:00:00Z'", {"cat"}),
        ("year == 1900", set()),
    ],
)
def test_search_takes_a_filter(nestvec: Nestvec, zoo: str, wanted: str, ids: set[str]) -> None:
    assert found(nestvec, zoo, wanted) == ids


def test_explain_tells_how_many_match(nestvec: Nestvec, zoo: str) -> None:
    ran = nestvec("search", "an animal", "-c", zoo, "--filter", "tame", "--explain")
    assert "2 documents match" in ran.out


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("yaer == 1", "did you mean 'year'?"),
        ("year = 1", "=="),
        ("year == '1'", "expected an integer"),
        ("", "empty; leave it out"),
    ],
)
def test_a_bad_filter_is_one_line_and_exit_code_1(
    nestvec: Nestvec, zoo: str, wanted: str, reason: str
) -> None:
    ran = nestvec("search", "x", "-c", zoo, "--filter", wanted)
    assert (ran.code, ran.out) == (1, "")
    assert reason in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_row_that_does_not_fit_is_printed_with_its_place(
    nestvec: Nestvec, zoo: str, tmp_path: Path
) -> None:
    path = tmp_path / "more.csv"
    path.write_text("id,text,year\nhen,a hen,MMXX\nfox,a fox,1999\n")
    ran = nestvec("index", path, "-c", zoo)
    assert ran.code == 3
    assert f"{path}:2: document.fields.year: str 'MMXX'" in ran.err
    assert found(nestvec, zoo, "year < 2000") == {"fox"}


def test_create_declares_fields(nestvec: Nestvec, collection_name: str) -> None:
    ran = nestvec("create", collection_name, "--field", "year:integer", "--json")
    assert ran.json["fields"] == {"year": "integer"}


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("year", "expected one of keyword"),
        ("year:date", "type 'date'"),
        ("Year:integer", "cannot name a field"),
    ],
)
def test_a_field_that_cannot_be_declared_is_wrong_usage(
    nestvec: Nestvec, collection_name: str, field: str, reason: str
) -> None:
    ran = nestvec("create", collection_name, "--field", field)
    assert ran.code == 2
    assert reason in " ".join(ran.err.replace("│", " ").split())


def test_index_refuses_fields_that_an_existing_collection_has_not(
    nestvec: Nestvec, zoo: str, animals: Path
) -> None:
    assert nestvec("index", animals, "-c", zoo, "--field", "year:integer").code == 0
    for field, there in (("legs:integer", "not declared"), ("year:float", "integer")):
        ran = nestvec("index", animals, "-c", zoo, "--field", field)
        assert ran.code == 1
        assert f"it is {there}" in ran.err
