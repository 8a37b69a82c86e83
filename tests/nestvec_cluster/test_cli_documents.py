"""index, search, get and delete, against a real engine."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestvec.v1 import ingest_pb2
from nestvec_cluster import indexing
from tests.support.cli import Nestvec, run_cli
from tests.support.scripted import Script, scripted_server


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three passages, with a blank line between."""
    path = tmp_path / "texts.txt"
    path.write_text("a cat on a mat\n\na dog in the fog\nthree blind mice\n")
    return path


@pytest.fixture
def filled(nestvec: Nestvec, collection_name: str, tmp_path: Path) -> str:
    """A collection of three."""
    path = tmp_path / "filled.jsonl"
    rows: list[dict[str, Any]] = [
        {"id": "cat", "text": "a cat on a mat", "legs": 4, "tame": True},
        {"id": "dog", "text": "a dog in the fog", "legs": 4, "tame": True},
        {"id": "mice", "text": "three\nblind [red]mice[/red] \x1b[31m", "legs": 12, "tame": False},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert nestvec("index", path, "-c", collection_name).code == 0
    return collection_name


# --- index --------------------------------------------------------------------------------------


def test_index_creates_the_collection_and_fills_it(
    nestvec: Nestvec, collection_name: str, texts: Path
) -> None:
    ran = nestvec("index", texts, "-c", collection_name)
    assert (ran.code, ran.err) == (0, "")
    assert f"{collection_name}: 3 documents in " in ran.out
    found = nestvec("get", f"{texts}:3", "-c", collection_name, "--json").json
    assert found["documents"][0]["text"] == "a dog in the fog"


def test_index_reads_several_files_of_several_formats(
    nestvec: Nestvec, collection_name: str, tmp_path: Path, texts: Path
) -> None:
    table = tmp_path / "table.csv.gz"
    table.write_bytes(gzip.compress(b"key,body,year,noise\nk1,a cat,1999,x\nk2,a dog,2001,y\n"))
    columns = ("--id-column", "key", "--text-column", "body", "--field-columns", "year")
    ran = nestvec("index", table, "-c", collection_name, *columns, "--json")
    assert ran.code == 0
    assert ran.json["indexed"] == 2
    documents = nestvec("get", "k2", "-c", collection_name, "--json").json["documents"]
    assert documents == [{"id": "k2", "text": "a dog", "fields": {"year": "2001"}}]
    more = tmp_path / "more.txt"
    more.write_text("one more\n")
    ran = nestvec("index", texts, more, "-c", collection_name, "--json")
    assert [one["indexed"] for one in ran.json["inputs"]] == [3, 1]


def test_index_reads_standard_input(nestvec: Nestvec, collection_name: str) -> None:
    ran = nestvec(
        "index", "-", "-c", collection_name, "--json", stdin=b'{"id": "x", "text": "piped"}\n'
    )
    assert (ran.code, ran.json["indexed"]) == (0, 1)
    assert ran.json["inputs"][0]["name"] == "stdin"


def test_bad_rows_are_printed_with_their_place_and_the_exit_code_is_3(
    nestvec: Nestvec, collection_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'{"id": "a", "text": "good"}\nnot json\n{"id": "b", "text": "   "}\n'
        b'\xff\n{"id": "a", "text": "good again"}\n{"id": "d", "text": "\\ud800"}\n'
    )
    ran = nestvec("index", path, "-c", collection_name, "--json")
    assert ran.code == 3
    report = ran.json
    assert {key: report[key] for key in ("documents", "indexed", "refused", "bad_rows")} == {
        "documents": 4,
        "indexed": 1,
        "refused": 2,
        "bad_rows": 2,
    }
    assert report["superseded"] == 1
    assert sorted(one["where"] for one in report["problems"]) == [
        f"{path}:{number}" for number in (2, 3, 4, 6)
    ]
    for number, problem in ((2, "is not JSON"), (3, "empty"), (4, "not UTF-8"), (6, "surrogate")):
        assert any(f":{number}: " in line and problem in line for line in ran.err.splitlines())
    assert nestvec("search", "good", "-c", collection_name).code == 0


def test_many_bad_rows_are_counted_not_listed(
    nestvec: Nestvec, collection_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("no\n" * 100 + '{"text": "good"}\n')
    ran = nestvec("index", path, "-c", collection_name)
    assert ran.code == 3
    lines = ran.err.splitlines()
    assert len([line for line in lines if "is not JSON" in line]) == 20
    assert "and 80 more rows that are not in the collection" in lines
    assert "100 rows are not in the collection" in lines


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no-such-file.txt",), 1, "no-such-file.txt: No such file or directory"),
        (("{folder}",), 1, "Is a directory"),
        (("{texts}", "--format", "xml"), 2, "expected one of auto, jsonl"),
        (("{texts}", "--batch", "0"), 2, "batch"),
        (("{texts}", "--format", "csv"), 1, "no column 'text'"),
        (("{texts}", "--no-create"), 1, "does not exist"),
        (("{texts}", "-c", "No Good"), 1, "cannot name a collection"),
    ],
)
def test_index_says_what_is_wrong_with_the_command(
    nestvec: Nestvec,
    collection_name: str,
    texts: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    filled_in = [one.format(texts=texts, folder=texts.parent) for one in arguments]
    ran = nestvec("index", "-c", collection_name, *filled_in)
    assert ran.code == code
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_with_a_stream_id_the_server_knows_how_far_it_is(
    nestvec: Nestvec, collection_name: str, texts: Path
) -> None:
    """Also of standard input, and without a state file."""
    lines = "".join(f'{{"id": "r{number}", "text": "row {number}"}}\n' for number in range(9))
    job = ("index", "-", "-c", collection_name, "--stream-id", "rows", "--batch", "2", "--json")
    first = nestvec(*job, "--ack", "stored", stdin=lines.encode())
    assert (first.code, first.json["indexed"]) == (0, 9)
    more = lines + '{"id": "new", "text": "one more"}\n'
    second = nestvec(*job, stdin=more.encode())
    assert (second.code, second.json["documents"], second.json["indexed"]) == (0, 1, 1)
    assert second.json["inputs"][0]["resumed_at"] == 9
    assert "9 documents had been acknowledged" in second.err
    other = nestvec(*job, stdin=more.replace("row 0", "row zero").encode())
    assert other.code == 1
    assert "take another stream id" in other.err
    assert "same command" not in other.err, "it would end in the same way"
    assert nestvec("get", "r0", "-c", collection_name, "--json").json["documents"] == [
        {"id": "r0", "text": "row 0", "fields": {}}
    ]


def test_each_file_of_a_stream_id_is_a_stream_of_its_own(
    nestvec: Nestvec, collection_name: str, tmp_path: Path, texts: Path
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("one more\nand another\n")
    job = ("index", texts, more, "-c", collection_name, "--stream-id", "both", "--json")
    assert [one["indexed"] for one in nestvec(*job).json["inputs"]] == [3, 2]
    again = nestvec(*job).json["inputs"]
    assert [(one["indexed"], one["resumed_at"]) for one in again] == [(0, 3), (0, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ack", "found"), "expected one of searchable, stored"),
        (("--stream-id", "s", "--fresh"), "take another name to begin anew"),
        (("--stream-id", "x" * 200), "expected 1 to 128 of printable text"),
    ],
)
def test_index_says_what_is_wrong_with_streams_and_acknowledgements(
    nestvec: Nestvec,
    collection_name: str,
    texts: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    ran = nestvec("index", texts, "-c", collection_name, *arguments)
    assert ran.code != 0
    assert message in " ".join(ran.err.replace("│", " ").split())


def test_an_existing_collection_is_taken_as_it_is(
    nestvec: Nestvec, collection_name: str, texts: Path
) -> None:
    made = nestvec("create", collection_name, "--tiers", "64", "--store-dim", "128")
    assert made.code == 0
    assert nestvec("index", texts, "-c", collection_name).code == 0
    assert nestvec("describe", collection_name, "--json").json["documents"] == 3


# --- resuming -----------------------------------------------------------------------------------


def _many(path: Path, count: int, mark: str = "") -> Path:
    path.write_text("".join(f"passage {number}{mark}\n" for number in range(count)))
    return path


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, acknowledgements: int) -> None:
    """Ctrl-C when the display moves for that many-th time."""
    left = [acknowledgements]

    def move(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(indexing.Display, "move", move)


def test_an_interrupted_run_goes_on_where_it_was_acknowledged(
    nestvec: Nestvec, collection_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _many(tmp_path / "many.txt", 200)
    command = ("index", path, "-c", collection_name, "--batch", "10", "--json")
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 5)
        ran = nestvec(*command)
    assert ran.code == 130
    assert "run the same command again" in ran.err
    again = nestvec(*command)
    assert again.code == 0
    assert "going on after 50 documents" in again.err
    assert again.json["inputs"][0]["resumed_at"] == 50
    assert again.json["indexed"] == 150
    assert nestvec("describe", collection_name, "--json").json["documents"] == 200
    # Done is done: the next run begins anew.
    assert nestvec(*command).json["inputs"][0]["resumed_at"] == 0


def test_inputs_that_were_done_are_skipped_and_the_others_go_on(
    nestvec: Nestvec, collection_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = _many(tmp_path / "a.txt", 30), _many(tmp_path / "b.txt", 30, " b")
    command = ("index", first, second, "-c", collection_name, "--batch", "10", "--json")
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 4)
        assert nestvec(*command).code == 130
    reports = nestvec(*command).json["inputs"]
    assert [one["resumed_at"] for one in reports] == [30, 10]
    assert [one["indexed"] for one in reports] == [0, 20]
    assert nestvec("describe", collection_name, "--json").json["documents"] == 60


@pytest.mark.parametrize("change", ["file", "columns", "collection", "documents", "fresh"])
def test_a_run_begins_anew_when_anything_has_changed(
    nestvec: Nestvec,
    collection_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    path = _many(tmp_path / "many.txt", 50)
    command = ["index", path, "-c", collection_name, "--batch", "10", "--json"]
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        assert nestvec(*command).code == 130
    match change:
        case "file":
            _many(path, 50, "!")
        case "columns":
            command += ["--format", "text"]
        case "collection":
            nestvec("drop", collection_name, "--yes")
        case "documents":
            everything = [f"{path}:{number}" for number in range(1, 51)]
            nestvec("delete", *everything, "-c", collection_name)
        case "fresh":
            command += ["--fresh"]
    ran = nestvec(*command)
    assert ran.code == 0
    assert ran.json["inputs"][0]["resumed_at"] == 0
    assert ran.json["indexed"] == 50


def test_the_state_may_be_kept_elsewhere_and_a_damaged_one_is_none(
    nestvec: Nestvec, collection_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = _many(tmp_path / "many.txt", 50), tmp_path / "here" / "state.json"
    command = ("index", path, "-c", collection_name, "--batch", "10", "--json", "--resume", state)
    for damage in (False, True):
        with monkeypatch.context() as patch:
            _interrupt_after(patch, 2)
            assert nestvec(*command).code == 130
        assert state.exists()
        if damage:
            state.write_text("{")
        assert nestvec(*command).json["inputs"][0]["resumed_at"] == (0 if damage else 20)
        assert not state.exists()


def test_a_state_that_cannot_be_written_costs_the_resuming_only(
    nestvec: Nestvec, collection_name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path, state = _many(tmp_path / "many.txt", 20), tmp_path / "file" / "state.json"
    ran = nestvec("index", path, "-c", collection_name, "--resume", state, "--json")
    assert (ran.code, ran.json["indexed"]) == (0, 20)
    assert "cannot be written" in ran.err


def test_a_document_that_cannot_be_taken_now_stops_the_run_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    seen: list[int] = []

    def full_at_25(requests: Any, _: Any) -> Iterator[Any]:
        for message in requests:
            offsets = range(message.first_offset, message.first_offset + len(message.documents))
            seen.extend(offsets)
            response = ingest_pb2.IngestDocumentsResponse(acknowledged_offset=offsets[-1])
            for offset in offsets:
                if offset >= 25:
                    response.errors.add(
                        offset=offset,
                        reason=ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE,
                        message="the store is full",
                    )
                else:
                    response.indexed += 1
            yield response

    path = _many(tmp_path / "many.txt", 100)
    with scripted_server(Script(ingest=full_at_25)) as address:
        command = ("index", path, "-c", "docs", "-a", address, "--batch", "10")
        ran = run_cli(*command)
        assert ran.code == 1
        assert f"stopped after 25 documents: {path}:26: the store is full" in ran.err
        assert "run the same command again" in ran.err
        state = next((tmp_path / "state" / "nestvec").glob("*.json"))
        (kept,) = json.loads(state.read_text())["inputs"].values()
        assert (kept["resume_at"], kept["last_id"]) == (25, f"{path}:25")


def test_a_stream_that_breaks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def ends(requests: Any, _: Any) -> Iterator[Any]:
        next(requests)
        yield ingest_pb2.IngestDocumentsResponse(acknowledged_offset=9, indexed=10)

    path = _many(tmp_path / "many.txt", 100)
    with scripted_server(Script(ingest=ends)) as address:
        ran = run_cli("index", path, "-c", "docs", "-a", address, "--batch", "10")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "stopped after 10 documents: the server ended the stream early" in ran.err


# --- search -------------------------------------------------------------------------------------


def test_search_prints_hits_and_how_they_came_about(nestvec: Nestvec, filled: str) -> None:
    ran = nestvec("search", "cat mat", "-c", filled, "--explain")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["score", "id", "text"]
    assert lines[1].split()[0] == "1"
    assert "a cat on a mat" in lines[1]
    assert "searched at 256, scored at 768" in ran.out
    assert "3 full vectors fetched" in ran.out
    assert "100.0% of 3 documents answered" in ran.out
    assert "rerank " in lines[-1]


def test_search_prints_texts_on_one_line_and_obeys_nothing_in_them(
    nestvec: Nestvec, filled: str
) -> None:
    out = nestvec("search", "three blind mice", "-c", filled, "-k", "1").out
    assert "three blind [red]mice[/red]  [31m" in out
    assert "\x1b" not in out


def test_search_as_json_has_everything_the_answer_admits(nestvec: Nestvec, filled: str) -> None:
    options = ("--class", "analyst", "-k", "2", "--coarse-dim", "128", "--candidates", "3")
    data = nestvec("search", "cat mat", "-c", filled, *options, "--explain", "--json").json
    assert data.keys() == {
        "collection",
        "search_class",
        "hits",
        "coarse",
        "scoring",
        "coverage",
        "degradations",
        "certificate",
        "failure_probability",
        "generation",
        "explanation",
        "cross_encoder",
        "plan",
        "regions",
        "missing_regions",
    }
    assert data["hits"][0].keys() == {
        "id",
        "score",
        "text",
        "fields",
        "cross_score",
        "region",
    }
    assert data["hits"][0]["id"] == "cat"
    assert data["hits"][0]["fields"] == {"legs": 4, "tame": True}
    assert (data["search_class"], data["coarse"]["dim"], len(data["hits"])) == ("analyst", 128, 2)
    assert data["coverage"]["fraction"] == 1.0
    assert data["explanation"].keys() == {"stages", "candidates", "fetched", "matching"}
    assert nestvec("search", "x", "-c", filled, "--json").json["explanation"] is None


def test_search_of_an_empty_collection_finds_nothing_and_succeeds(
    nestvec: Nestvec, collection_name: str
) -> None:
    nestvec("create", collection_name)
    ran = nestvec("search", "anything", "-c", collection_name)
    assert ran.code == 0
    assert ran.out.startswith("no hits")


def test_the_collection_may_stand_in_the_environment(
    nestvec: Nestvec, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NESTVEC_COLLECTION", filled)
    assert nestvec("search", "cat").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cat", "-c", "nope"), "collection 'nope' does not exist"),
        (("cat", "-k", "0"), "options.k: 0, expected 1 to 1000"),
        (("cat", "--class", "nope"), "analyst, autocomplete, search"),
        (("cat", "--coarse-dim", "100"), "trained: 64, 128, 256, 512, 768"),
        (("  ",), "query.text: empty"),
        (("half \udc80",), "lone surrogate"),
        (("cat", "--timeout", "0.001", "-a", "127.0.0.1:1"), "no nestvec server answers|deadline"),
        (("cat", "-a", "127.0.0.1:1"), "no nestvec server answers at 127.0.0.1:1"),
        (("cat", "-a", "nonsense"), "expected host:port"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(
    nestvec: Nestvec, filled: str, arguments: tuple[str, ...], message: str
) -> None:
    ran = nestvec("search", "-c", filled, *arguments)
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert any(one in ran.err for one in message.split("|"))


def test_wrong_usage_is_exit_code_2(nestvec: Nestvec, filled: str) -> None:
    assert nestvec("search", "-c", filled).code == 2
    assert nestvec("search", "cat").code == 2
    assert nestvec("search", "cat", "-c", filled, "-k", "many").code == 2


# --- get and delete -----------------------------------------------------------------------------


def test_get_prints_documents_and_names_those_that_are_missing(
    nestvec: Nestvec, filled: str
) -> None:
    ran = nestvec("get", "cat", "mice", "-c", filled, "--with-vectors")
    assert ran.code == 0
    assert "legs: 12" in ran.out
    assert "vector (768): " in ran.out
    assert "\x1b" not in ran.out
    ran = nestvec("get", "cat", "nope", "-c", filled, "--json", "--with-vectors")
    assert ran.code == 1
    assert f"not in {filled}: nope" in ran.err
    data = ran.json
    assert data["missing_ids"] == ["nope"]
    assert len(data["documents"][0]["vector"]) == data["space"]["dim"] == 768


def test_delete_tells_how_many(nestvec: Nestvec, filled: str) -> None:
    ran = nestvec("delete", "cat", "nope", "-c", filled)
    assert (ran.code, ran.out) == (0, "deleted 1 documents\n")
    assert "nope" in ran.err
    data = nestvec("delete", "dog", "cat", "-c", filled, "--json").json
    assert data == {"deleted": 1, "missing_ids": ["cat"]}
    assert nestvec("describe", filled, "--json").json["documents"] == 1
