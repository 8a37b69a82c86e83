import json
import subprocess
import sys

import pytest

from nestvec_cluster.corpus import split_passages, stdlib_passages


@pytest.fixture(scope="module")
def passages() -> dict[str, str]:
    found = stdlib_passages()
    texts = {one.id: one.text for one in found}
    assert len(texts) == len(found), "an id stands twice"
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


def test_reading_runs_nothing_and_gives_the_same_in_every_process(
    passages: dict[str, str],
) -> None:
    # antigravity opens a browser, this prints: both are read as text only. Warnings are errors.
    risky = {"antigravity", "this", "idlelib", "turtledemo", "tkinter", "readline"}
    program = (
        "import json, sys\n"
        "from nestvec_cluster.corpus import stdlib_passages\n"
        "ids = [one.id for one in stdlib_passages()]\n"
        "json.dump([ids, list(sys.modules)], sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    ids, imported = json.loads(done.stdout)
    assert not risky & set(imported)
    assert ids == list(passages)


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
