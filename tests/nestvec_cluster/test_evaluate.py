"""`nestvec eval`, end to end: a server process, an index, every lane, and both reports."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import run_cli
from tests.support.golden_sets import a_golden, real_golden, write_golden
from tests.support.long_runs import takes_long
from tests.support.sentences import sentences

MEASURES = {"ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"}
QUICK = ("--widths", "10,20,100", "--latency-queries", "5")


def evaluated(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    path = tmp_path / "figures.json"
    ran = run_cli("eval", *arguments, *QUICK, "--json", path)
    assert ran.code == 0, ran.err
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report | {"printed": ran.out}


def check_lane(lane: dict[str, Any], compared: bool = True) -> None:
    for name in (*MEASURES, "recall_at_10_vs_exact"):
        low, high = lane["intervals"][name]
        assert 0.0 <= low <= lane[name] <= high <= 1.0
    if compared:
        for name in MEASURES:
            delta = lane["minus_full"][name]
            assert delta["low"] <= delta["mean"] <= delta["high"]
        assert 0 < lane["p50_ms"] <= lane["p95_ms"]


def test_a_golden_set_is_measured_at_every_tier_and_class(tmp_path: Path) -> None:
    golden, page = a_golden(tmp_path / "small"), tmp_path / "report.html"
    report = evaluated(tmp_path, "--golden", golden, "--tiers", "64,256,768", "--html", page)
    assert (report["golden"], report["truth"], report["degraded"]) == ("small", "judgments", False)
    assert (report["documents"], report["documents_refused"]) == (241, 1)
    assert report["queries"] == 24
    assert list(report["tiers"]) == ["64", "256", "768"]
    assert set(report["classes"]) == {"autocomplete", "search", "analyst"}
    check_lane(report["full"], compared=False)
    assert report["full"]["recall_at_10_vs_exact"] == 1.0
    for tier in report["tiers"].values():
        check_lane(tier)
        check_lane(tier["reranked"])
        assert tier["reranked"]["candidates"] == 50
        assert [one["candidates"] for one in tier["curve"]] == [10, 20, 50, 100]
        recalls = [one["recall_at_10_vs_exact"] for one in tier["curve"]]
        assert recalls == sorted(recalls)
        assert tier["bytes_per_vector"] > 0
    # Of so few documents, these hold whatever the machine.
    assert report["tiers"]["256"]["reranked"]["recall_at_10_vs_exact"] == 1.0
    assert report["tiers"]["256"]["reranked"]["ndcg_at_10"] == report["full"]["ndcg_at_10"]
    assert report["tiers"]["256"]["candidates_for_99"] in (10, 20, 50)
    longer = report["tiers"]["768"]["bytes_per_vector"]
    assert longer > report["tiers"]["64"]["bytes_per_vector"]
    for one in report["classes"].values():
        check_lane(one)
    assert "1 documents have nothing to encode" in report["printed"]
    assert str(tmp_path) not in json.dumps(report["machine"])
    check_page(page.read_text(encoding="utf-8"), tmp_path)


def check_page(page: str, tmp_path: Path) -> None:
    """One file that needs no other, with plots whose parts refer to their own."""
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(page)
    assert sum(tag == "svg" for tag, _ in tags) == 5
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("href", "xlink:href", "src"):
            if target := attributes.get(name):
                assert target.startswith("#")
                assert target[1:] in ids
    for target in re.findall(r"url\(#([^)]+)\)", page):
        assert target in ids
    assert str(tmp_path) not in page


@takes_long
def test_without_judgments_exact_search_is_the_truth(tmp_path: Path) -> None:
    golden = a_golden(tmp_path / "small")
    (golden / "qrels.tsv").unlink()
    report = evaluated(tmp_path, "--golden", golden, "--self", "--tiers", "64,256", "--queries", 10)
    assert (report["truth"], report["queries"]) == ("exact", 10)
    assert report["full"]["ndcg_at_10"] == report["full"]["recall_at_10"] == 1.0
    for tier in report["tiers"].values():
        assert tier["recall_at_10"] == pytest.approx(tier["recall_at_10_vs_exact"], abs=0.05)
    assert report["tiers"]["64"]["ndcg_at_10"] < report["tiers"]["256"]["ndcg_at_10"] <= 1.0


def test_texts_of_any_kind_are_measured_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences(300)), encoding="utf-8")
    report = evaluated(tmp_path, "--texts", path, "--self", "--tiers", "128", "--model", "hash:128")
    assert (report["documents"], report["queries"]) == (270, 30)
    assert report["model"] == "hash-128"
    assert report["truth"] == "exact"
    assert report["full"]["ndcg_at_10"] == report["full"]["recall_at_10"] == 1.0


def test_what_does_not_fit_together_is_refused_in_one_line(tmp_path: Path) -> None:
    golden = write_golden(tmp_path / "odd", {"d": "x"}, {"q": "y"}, {"q": {"other": 1}})
    ran = run_cli("eval", "--golden", golden)
    assert ran.code == 1
    assert "judges another corpus" in ran.err
    ran = run_cli("eval", "--golden", a_golden(tmp_path / "small"), "--tiers", "100")
    assert ran.code == 1
    assert "tier 100 was not trained for nestvec-static-768" in ran.err
    assert run_cli("eval").code == 2
    assert run_cli("eval", "--texts", tmp_path / "any").code == 2
    assert run_cli("eval", "--golden", golden, "--widths", "5").code == 2


def test_a_query_that_no_model_can_encode_is_named(tmp_path: Path) -> None:
    golden = write_golden(tmp_path / "odd", {"d": "a text"}, {"q": "\u200b"}, {"q": {"d": 1}})
    ran = run_cli("eval", "--golden", golden)
    assert ran.code == 1
    assert "texts.0" in ran.err


@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cranfield", marks=takes_long),
        pytest.param("scifact", marks=takes_long),
        pytest.param("stackfaq", marks=takes_long),
        pytest.param("banking77", marks=takes_long),
    ],
)
def test_reranking_fifty_of_a_third_of_the_dimensions_loses_nothing(
    tmp_path: Path, name: str
) -> None:
    report = evaluated(tmp_path, "--golden", real_golden(name), "--tiers", "256", "--queries", 1000)
    reranked = report["tiers"]["256"]["reranked"]
    assert reranked["candidates"] <= 50
    assert reranked["recall_at_10_vs_exact"] >= 0.99
    assert abs(reranked["ndcg_at_10"] - report["full"]["ndcg_at_10"]) <= 0.002
