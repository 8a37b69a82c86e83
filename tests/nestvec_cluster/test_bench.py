import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import run_cli
from tests.support.long_runs import takes_long
from tests.support.sentences import sentences

COMMAND = (sys.executable, "-m", "nestvec_cluster.cli", "bench")
CLASS_KEYS = {
    "p50_ms",
    "p95_ms",
    "qps",
    "recall_at_10",
    "coarse_dim",
    "scoring_dim",
    "candidates_mean",
    "fetched_mean",
    "ratio_to_echo",
    "stages_ms",
}


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """--texts and --queries, of which some are the same."""
    every = sentences(700)
    texts, queries = tmp_path / "texts.tsv", tmp_path / "queries.tsv"
    rows = "\n".join(f"{number}\t{text}" for number, text in enumerate(every[:600]))
    texts.write_text(f"number\tsummary\n{rows}\n", encoding="utf-8")
    rows = "\n".join(f"{number}\t{text}" for number, text in enumerate(every[550:]))
    queries.write_text(f"number\tsummary\n{rows}\n", encoding="utf-8")
    return ["--texts", str(texts), "--queries", str(queries), "--column", "summary"]


def test_the_bench_reports_every_figure_of_the_contract(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of each of seven lanes: figures of so short a time are figures too.
    monkeypatch.setattr("nestvec_cluster.bench._THROUGHPUT_S", 0.1)
    figures = tmp_path / "figures.json"
    options = ["--count", 500, "--queries-count", 30, "--rounds", 1, "--json", figures]
    ran = run_cli("bench", *sources, *options)
    assert ran.code == 0, ran.err
    report = json.loads(figures.read_text(encoding="utf-8"))
    assert report["documents"] == 500
    assert report["queries"] == 30
    assert report["echo"]["p50_ms"] > 0
    assert report["echo"]["qps"] > 0
    assert set(report["classes"]) == {"autocomplete", "search", "analyst"}
    for name, one in report["classes"].items():
        assert one.keys() >= CLASS_KEYS
        assert report["echo"][name]["p50_ms"] > 0
        assert one["response_bytes"] > 100
        assert one["ratio_to_echo"] > 0
    search = report["classes"]["search"]
    # So few documents are scanned exactly and all of them considered.
    assert search["recall_at_10"] == 1.0
    assert search["candidates_mean"] == 500
    assert search["exhaustive"] == {
        "hits": 300,
        "lost": 0,
        "reordered": 0,
        "fetched_mean": 500.0,
    }
    assert report["coarse_bytes_per_vector"] == report["tiers"]["256"]["bytes_per_vector"] > 256
    assert report["store_bytes_per_vector"] > 768 * 2
    assert report["ingest_per_s"] > 0
    assert report["machine"]["libraries"]["numpy"]
    assert str(tmp_path) not in figures.read_text(encoding="utf-8")
    assert "bare echo" in ran.out
    assert "indexing: " in ran.err


def test_queries_that_are_all_texts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "same.txt"
    path.write_text("\n".join(sentences(30)), encoding="utf-8")
    ran = run_cli("bench", "--texts", path, "--queries", path)
    assert ran.code == 1
    assert "every query is one of the texts" in ran.err


@takes_long
def test_a_server_that_cannot_start_says_why(sources: list[str], tmp_path: Path) -> None:
    # The server speaks for itself, on the terminal.
    done = subprocess.run(
        [*COMMAND, *sources, "--model", str(tmp_path / "nothing")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "did not start" in done.stderr
    assert "Traceback" not in done.stderr
