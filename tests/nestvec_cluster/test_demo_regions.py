"""`nestvec demo --regions`: engines as processes, delays between them, and one merged answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import run_cli
from tests.support.sentences import sentences


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_merged_answers_equal_those_of_one_region_and_a_lost_one_is_admitted(
    tmp_path: Path,
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(150)), encoding="utf-8")
    figures = tmp_path / "figures.json"
    ran = run_cli("demo", "--regions", "2", "--texts", texts, "--json", figures)
    assert ran.code == 0, ran.err
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert told["regions"] == ["eu", "us"]
    assert told["coverage"] == 1.0
    assert told["equals_single_region"] is True
    assert told["different"] == 0
    assert told["queries"] > 10
    documents = told["documents"]
    assert min(documents.values()) > 20
    assert sum(documents.values()) == 135
    lost = told["cut"]
    assert lost["region"] == "us"
    # The smaller of the shares of shards and of documents.
    assert lost["coverage"] == pytest.approx(min(0.5, documents["eu"] / 135))
    assert any("us" in said for said in lost["said"])
    assert lost["coverage_healed"] == 1.0
    assert "the same hits" in ran.out


def test_how_many_regions_is_checked_before_anything_starts(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(40)), encoding="utf-8")
    ran = run_cli("demo", "--regions", "9", "--texts", texts)
    assert ran.code == 1
    assert "--regions 9: expected 2 to 5" in ran.err
    ran = run_cli("demo", "--regions", "2", "--serve")
    assert ran.code == 1
    assert "--serve" in ran.err
