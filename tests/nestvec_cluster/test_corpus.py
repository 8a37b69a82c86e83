import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from nestvec.core.document import Document
from nestvec_cluster import corpus
from nestvec_cluster.corpus import split_passages


@pytest.fixture(scope="module")
def passages(stdlib: list[Document]) -> dict[str, str]:
    texts = {one.id: one.text for one in stdlib}
    assert len(texts) == len(stdlib), "an id stands twice"
    return texts


def test_there_are_at_least_ten_thousand_distinct_passages(passages: dict[str, str]) -> None:
    assert len(passages) >= 10_000
    assert len(set(passages.values())) == len(passages)


def test_ids_name_what_they_document(passages: dict[str, str]) -> None:
    assert passages["json.dumps#1"].startswith("Serialize ``obj`` to a JSON formatted ``str``.")
    assert "json.dumps#2" in passages
    assert any(name.startswith("builtins.str.") for name in passages), "modules in C"


def test_passages_are_of_a_length_that_a_search_shows(passages: dict[str, str]) -> None:
    lengths = [len(text) for text in passages.values()]
    assert min(lengths) >= 24
    assert max(lengths) < 700
    assert all(text == " ".join(text.split()) for text in passages.values())
    assert all(len(name.encode()) <= 512 for name in passages)


# antigravity opens a browser, this prints: both are read as text only.
RISKY = ("antigravity", "this")
MORE = ("bisect", "heapq", "json", "shlex")


def test_reading_runs_nothing_and_gives_the_same_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a small library, since all of it takes seconds. Warnings are errors."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in (*RISKY, *MORE):
        one = library / name
        if one.is_dir():
            shutil.copytree(one, tmp_path / name)
        else:
            shutil.copy(one.with_suffix(".py"), tmp_path)
    program = (
        "import json, pathlib, sys\n"
        "from nestvec_cluster import corpus\n"
        "corpus._library = lambda: pathlib.Path(sys.argv[1])\n"
        "ids = [one.id for one in corpus.stdlib_passages()]\n"
        "json.dump([ids, list(sys.modules)], sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    ids, imported = json.loads(done.stdout)
    assert not {*RISKY, "idlelib", "turtle", "tkinter", "readline"} & set(imported)
    monkeypatch.setattr(corpus, "_library", lambda: tmp_path)
    assert ids == [one.id for one in corpus.stdlib_passages()]
    assert {"antigravity.geohash#1", "json#1"} <= set(ids)


def test_short_paragraphs_join_and_long_ones_end_with_a_sentence() -> None:
    assert split_passages("Return it.") == []
    assert split_passages("Return the length of it.") == ["Return the length of it."]
    assert split_passages(
        "A heading\n\n" + "A line that is\nof some length, as prose is. " * 2
    ) == [
        "A heading A line that is of some length, as prose is. A line that is of some length, as "
        "prose is."
    ]
    long = split_passages("One sentence of it says a thing. " * 60)
    assert len(long) > 1
    assert all(passage.endswith("thing.") for passage in long)


def test_a_paragraph_without_sentences_is_cut_at_blanks() -> None:
    words = ("word " * 400).strip()
    passages = split_passages(words)
    assert " ".join(passages) == words
    assert all(len(passage) <= 660 for passage in passages)
    assert split_passages("x" * 1500) == ["x" * 600, "x" * 600, "x" * 300]


def test_lines_and_rules_are_no_passages() -> None:
    assert split_passages("=====\n\n-----\n\n* * *") == []
