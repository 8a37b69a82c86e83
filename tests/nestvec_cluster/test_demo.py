import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nestvec.client import NestvecClient
from tests.support.cli import run_cli
from tests.support.sentences import sentences

COMMAND = (sys.executable, "-m", "nestvec_cluster.cli", "demo")
CLASSES = ("autocomplete", "search", "analyst")
KEYS = {
    "p50_ms",
    "p95_ms",
    "recall_at_10",
    "coarse_dim",
    "scoring_dim",
    "candidates_mean",
    "fetched_mean",
}


def test_the_demo_measures_every_class_and_serves_until_it_is_told_to_stop(
    tmp_path: Path,
) -> None:
    texts, figures = tmp_path / "texts.txt", tmp_path / "figures.json"
    texts.write_text("\n".join(sentences(1200)), encoding="utf-8")
    process = subprocess.Popen(
        [*COMMAND, "--texts", str(texts), "--json", str(figures), "--serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        printed = ""
        while "Serving at " not in printed:
            line = process.stdout.readline()
            assert line, f"it ended early:\n{printed}"
            printed += line
        with NestvecClient(printed.split("Serving at ")[1].split()[0]) as client:
            found = client.search("demo", "what sorts tables?", search_class="analyst")
            assert len(found.hits) == 20
        # Its last lines are written before it begins to wait.
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    check_printed(printed)
    check_figures(json.loads(figures.read_text(encoding="utf-8")))
    assert str(tmp_path) not in figures.read_text(encoding="utf-8")


def check_printed(printed: str) -> None:
    for name in CLASSES:
        assert name in printed
    assert "within candidates" in " ".join(printed.split())
    assert "nothing was lost" in " ".join(printed.split())


def check_figures(report: dict[str, Any]) -> None:
    assert set(report["classes"]) == set(CLASSES)
    for one in report["classes"].values():
        assert one.keys() >= KEYS
        assert 0 < one["p50_ms"] <= one["p95_ms"]
    assert report["documents"] == 1080
    assert report["queries"] == 120
    assert report["seconds"] > 0
    assert report["machine"]["cores"] >= 1

    autocomplete, search, analyst = (report["classes"][name] for name in CLASSES)
    assert (autocomplete["coarse_dim"], autocomplete["scoring_dim"]) == (128, 128)
    assert autocomplete["fetched_mean"] == 0
    assert (search["coarse_dim"], search["scoring_dim"]) == (256, 768)
    assert search["candidates_mean"] == 1000
    # So few documents are scanned exactly: these hold on any machine.
    assert search["recall_at_10"] >= 0.98
    assert analyst["recall_at_10"] >= 0.99
    assert autocomplete["recall_at_10"] < search["recall_at_10"]
    for one in (search, analyst):
        assert one["fetched_mean"] <= one["candidates_mean"] / 3
        assert one["exhaustive"]["hits"] == 1200
        assert one["exhaustive"]["lost"] == 0
        assert one["exhaustive"]["fetched_mean"] == one["candidates_mean"]


def test_too_few_texts_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_text("\n".join(sentences(5)), encoding="utf-8")
    ran = run_cli("demo", "--texts", path)
    assert ran.code == 1
    assert "few.txt: 5 texts, expected at least 20" in ran.err
