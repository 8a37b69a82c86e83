from __future__ import annotations

import re
from pathlib import Path

import pytest

from nestvec.core.errors import ConfigError
from nestvec.quality.golden import load_golden
from tests.support.golden_sets import write_golden

DOCUMENTS = {"d1": "a cat", "d2": "a dog", "d3": "a fish"}
QUERIES = {"q1": "cats", "q2": "dogs"}
JUDGMENTS = {"q1": {"d1": 1, "d3": 0}, "q2": {"d2": 2}}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_set_is_read_whole(tmp_path: Path, compressed: bool) -> None:
    golden = load_golden(write_golden(tmp_path, DOCUMENTS, QUERIES, JUDGMENTS, compressed))
    assert golden.name == tmp_path.name
    assert golden.documents == DOCUMENTS
    assert golden.queries == QUERIES
    assert golden.judgments == JUDGMENTS
    assert golden.without_positives == ()


def test_title_and_text_are_one_document_and_beir_splits_are_found(tmp_path: Path) -> None:
    write_golden(tmp_path, DOCUMENTS, QUERIES, None)
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": 1, "title": "Cats", "text": "They purr."}\n\n{"_id": "2", "text": "x"}\n'
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\t1\t1\n")
    golden = load_golden(tmp_path)
    assert golden.documents == {"1": "Cats They purr.", "2": "x"}
    assert golden.judgments == {"q1": {"1": 1}}


def test_queries_without_judgments_are_not_measured(tmp_path: Path) -> None:
    judgments = {"q1": {"d1": 1}, "q2": {"d2": 0}}
    queries = QUERIES | {"q3": "training"}
    golden = load_golden(write_golden(tmp_path, DOCUMENTS, queries, judgments))
    assert list(golden.queries) == ["q1"]
    assert golden.without_positives == ("q2",)


def test_without_judgments_every_query_is_kept(tmp_path: Path) -> None:
    golden = load_golden(write_golden(tmp_path, DOCUMENTS, QUERIES, None), judged=False)
    assert golden.queries == QUERIES
    assert golden.judgments == {}


def refused(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_golden(folder)
    return str(caught.value).replace(str(folder), "SET")


def test_judgments_of_documents_that_are_not_there(tmp_path: Path) -> None:
    judgments = {"q1": {"d1": 1, "d7": 1, "d8": 1}}
    assert refused(write_golden(tmp_path, DOCUMENTS, QUERIES, judgments)) == (
        "SET/qrels.tsv: 2 of the 3 documents that it judges are missing from corpus.jsonl, the "
        "first is 'd7'; take both files from one release"
    )


def test_another_corpus_judgments(tmp_path: Path) -> None:
    judgments = {"q1": {"x1": 1, "x2": 1}}
    assert refused(write_golden(tmp_path, DOCUMENTS, QUERIES, judgments)) == (
        "SET/qrels.tsv: judges another corpus: none of its 2 documents (the first is 'x1') is in "
        "corpus.jsonl"
    )


def test_judgments_of_queries_that_are_not_there(tmp_path: Path) -> None:
    judgments = {"q1": {"d1": 1}, "q9": {"d1": 1}}
    assert "1 of the 2 queries that it judges are missing from queries.jsonl" in refused(
        write_golden(tmp_path, DOCUMENTS, QUERIES, judgments)
    )


def test_no_positives(tmp_path: Path) -> None:
    judgments = {"q1": {"d1": 0}, "q2": {"d2": 0, "d3": -1}}
    assert refused(write_golden(tmp_path, DOCUMENTS, QUERIES, judgments)) == (
        "SET/qrels.tsv: no positives: none of its 3 judgments has a score above 0, so nothing "
        "could be found"
    )


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_an_id_that_stands_twice(tmp_path: Path, name: str) -> None:
    write_golden(tmp_path, DOCUMENTS, QUERIES, JUDGMENTS)
    with (tmp_path / name).open("a") as file:
        file.write('{"_id": "q1", "text": "again"}\n{"_id": "d1", "text": "again"}\n')
    assert re.fullmatch(
        rf"SET/{name}:\d: id '(q1|d1)' stands twice, first in line 1", refused(tmp_path)
    )


def test_a_judgment_that_contradicts_another(tmp_path: Path) -> None:
    write_golden(tmp_path, DOCUMENTS, QUERIES, JUDGMENTS)
    with (tmp_path / "qrels.tsv").open("a") as file:
        file.write("q1\td1\t1\nq1\td1\t0\n")
    assert refused(tmp_path) == (
        "SET/qrels.tsv:6: document 'd1' is judged twice for query 'q1', 1 and 0"
    )


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("corpus.jsonl", "{", "is not JSON"),
        ("corpus.jsonl", '{"text": "x"}', 'no "_id"'),
        ("queries.jsonl", '{"_id": "q3", "text": " "}', "query 'q3' has no text"),
        ("qrels.tsv", "q1 d1 1", "expected query-id, corpus-id and a whole number"),
        ("qrels.tsv", "q1\td1\thigh", "expected query-id, corpus-id and a whole number"),
    ],
)
def test_a_line_that_cannot_be_read(tmp_path: Path, name: str, line: str, reason: str) -> None:
    write_golden(tmp_path, DOCUMENTS, QUERIES, JUDGMENTS)
    with (tmp_path / name).open("a") as file:
        file.write(f"{line}\n")
    message = refused(tmp_path)
    assert f"SET/{name}" in message
    assert reason in message


def test_files_that_are_not_there_or_are_damaged(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "no corpus.jsonl" in refused(tmp_path)
    write_golden(tmp_path, DOCUMENTS, QUERIES, None)
    assert "no qrels.tsv and no qrels/test.tsv" in refused(tmp_path)
    (tmp_path / "qrels.tsv.gz").write_bytes(b"\x1f\x8b no gzip")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "queries.jsonl").write_text("")
    assert "holds no records" in refused(tmp_path)
