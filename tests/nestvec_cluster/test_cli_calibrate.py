"""`nestvec calibrate` through a real engine: what it measures is kept, and searches use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.errors import ConfigError
from nestvec_cluster.calibration_queries import read_queries
from tests.support.cli import Nestvec
from tests.support.engine import SharedEngine

WORDS = ["red", "green", "blue", "cyan", "teal", "gold", "grey", "pink"]
TEXTS = [
    f"{a} {b} paint number {n}" for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
]
QUICK = ("--classes", "search", "--widths", "10,30", "--bounds", "3,5", "--timed", "10")


@pytest.fixture
def filled(engine: SharedEngine, collection_name: str) -> str:
    with NestvecClient(engine.address) as client:
        client.create_collection(collection_name, tiers=(64, 128))
        documents = [IngestDocument(f"d{n:02}", text) for n, text in enumerate(TEXTS)]
        assert client.index(collection_name, documents).indexed == len(TEXTS)
    return collection_name


def test_a_collection_is_calibrated_and_then_searched_by_recall(
    nestvec: Nestvec, engine: SharedEngine, filled: str, tmp_path: Path
) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"{text} for walls" for text in TEXTS[::2]), encoding="utf-8")
    report = tmp_path / "report.json"
    ran = nestvec("calibrate", filled, "--queries", queries, "--json", report, *QUICK)
    assert ran.code == 0, ran.err
    assert "kept with the collection" in ran.out
    figures = json.loads(report.read_text(encoding="utf-8"))
    calibration = figures["calibration"]
    assert calibration["documents"] == len(TEXTS)
    assert (calibration["queries"], figures["held_out_queries"]) == (16, 16)
    assert calibration["source"] == "queries.txt"
    (measured,) = calibration["classes"]
    best = max(measured["points"], key=lambda point: point["window_low"])
    assert best["recall"] > 0.9, "64 documents, of which 30 are candidates"
    checks = {one["target"]: one for one in figures["targets"]["search"]}
    assert set(checks) == {0.9, 0.95, 0.98, 0.99}

    target = best["window_low"]
    found = nestvec("search", TEXTS[3], "-c", filled, "--target-recall", target, "--json")
    assert found.code == 0, found.err
    plan = found.json["plan"]
    assert plan["reaches_target"]
    assert plan["measured_recall"] >= target
    assert found.json["hits"][0]["text"] == TEXTS[3]
    assert "asked" in nestvec("search", TEXTS[3], "-c", filled, "--target-recall", target).out
    assert "search to" in nestvec("describe", filled).out
    assert nestvec("describe", filled, "--json").json["calibration"]["queries"] == 16

    refused = nestvec("search", "red", "-c", filled, "--target-recall", "1")
    assert refused.code == 1
    assert "the best reaches" in refused.err
    assert "forgotten" in nestvec("calibrate", filled, "--drop").out
    assert "had no calibration" in nestvec("calibrate", filled, "--drop").out
    refused = nestvec("search", "red", "-c", filled, "--target-recall", "0.5")
    assert "it has no calibration; make one with" in refused.err


def test_documents_own_words_are_asked_with_a_warning_and_nothing_kept_when_told(
    nestvec: Nestvec, engine: SharedEngine, filled: str
) -> None:
    ran = nestvec("calibrate", filled, "--dry-run", "--queries-count", 20, *QUICK)
    assert ran.code == 0, ran.err
    assert "parts of the collection's own documents" in ran.err
    assert "nothing was kept" in ran.out
    with NestvecClient(engine.address) as client:
        assert client.describe(filled).calibration is None
        texts = read_queries(client, filled, None, None, None, 20).texts
        assert len(set(texts)) == 20
        assert all(any(part in text and part != text for text in TEXTS) for part in texts)
        assert sorted(client.ids(filled)) == [f"d{n:02}" for n in range(len(TEXTS))]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--targets", "0.9,2"), "expected shares above 0, at most 1"),
        (("--targets", "most"), "expected numbers with commas between"),
        (("--classes", "nobody"), "this server has"),
        (("--queries", "/nowhere/at/all"), "cannot be read"),
        (("--queries", "x", "--golden", "y"), "not both"),
        ((), "does not exist"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    nestvec: Nestvec, arguments: tuple[str, ...], said: str
) -> None:
    ran = nestvec("calibrate", "docs", *arguments)
    assert ran.code in (1, 2)
    assert said in " ".join(ran.err.replace("│", " ").split())


def test_a_collection_without_texts_has_nothing_to_ask(
    engine: SharedEngine, collection_name: str
) -> None:
    with NestvecClient(engine.address) as client:
        client.create_collection(collection_name)
        with pytest.raises(ConfigError, match="holds no texts of 4 words"):
            read_queries(client, collection_name, None, None, None, 5)
