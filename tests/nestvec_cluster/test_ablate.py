"""`nestvec ablate`, end to end: a server process, a collection a pair of codes, every lane; and
`nestvec create`, which goes by what it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nestvec_cluster.test_evaluate import check_lane
from tests.support.cli import Nestvec, run_cli
from tests.support.golden_sets import a_golden, real_golden
from tests.support.long_runs import takes_long

QUICK = ("--latency-queries", "5")


def ablated(folder: Path, *arguments: object) -> dict[str, Any]:
    path = folder / "ablation.json"
    ran = run_cli("ablate", *arguments, *QUICK, "--json", path)
    assert ran.code == 0, ran.err
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report | {"printed": ran.out, "path": path}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One ablation of a set that is large enough for one bit a dimension, and too small for PQ."""
    folder = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        golden = a_golden(folder / "small", count=800, asked=20)
        grid = ("--tiers", "64,256", "--codes", "fp32,rabitq,pq", "--store-codes", "fp32,int8")
        # Sentences of so few words tie; what is lost on them is not small.
        yield ablated(
            folder, "--golden", golden, *grid, "--budget", "0.5,0.9", "--html", folder / "page.html"
        )


def cell(report: dict[str, Any], dim: int, code: str, dtype: str) -> dict[str, Any]:
    (found,) = (
        one
        for one in report["cells"]
        if (one["dim"], one["coarse_code"], one["store_dtype"]) == (dim, code, dtype)
    )
    assert isinstance(found, dict)
    return found


def test_every_cell_of_the_grid_is_measured(report: dict[str, Any]) -> None:
    assert (report["golden"], report["truth"]) == ("small", "judgments")
    assert (report["documents"], report["documents_refused"], report["queries"]) == (800, 1, 20)
    assert len(report["cells"]) == 2 * 3 * 2
    for one in report["cells"]:
        assert not one["degraded"]
        for lane in ("coarse", "reranked", "without_sketch"):
            check_lane(one[lane] | {"intervals": wide(one[lane])})
        assert one["reranked"]["fetched_mean"] <= one["without_sketch"]["fetched_mean"] == 50
        assert one["coarse"]["fetched_mean"] == 0


def wide(lane: dict[str, Any]) -> dict[str, Any]:
    """`check_lane` looks at recall@100 too, for which an ablation does not ask."""
    lane["recall_at_100"] = lane["recall_at_10"]
    lane["minus_full"]["recall_at_100"] = lane["minus_full"]["recall_at_10"]
    intervals: dict[str, Any] = lane["intervals"]
    return intervals | {"recall_at_100": intervals["recall_at_10"]}


def test_the_exact_cell_at_fp32_loses_what_the_cut_alone_loses(report: dict[str, Any]) -> None:
    exact = cell(report, 256, "fp32", "fp32")
    assert exact["scanned"] == ["flat"]
    assert exact["reranked"]["recall_at_10_vs_exact"] >= 0.99
    assert exact["reranked"]["ndcg_lost"] == pytest.approx(0.0, abs=1e-3)
    coarser = cell(report, 64, "rabitq", "fp32")
    assert coarser["reranked"]["recall_lost"] > exact["reranked"]["recall_lost"]


def test_a_smaller_code_is_smaller_and_so_is_what_is_stored(report: dict[str, Any]) -> None:
    sizes = [cell(report, 256, code, "fp32")["bytes"] for code in ("fp32", "rabitq")]
    assert [one["scan"] for one in sizes] == [1024, 40]
    for key in ("scan", "coarse"):
        assert [one[key] for one in sizes] == sorted((one[key] for one in sizes), reverse=True)
    stored = {name: cell(report, 64, "fp32", name)["bytes"]["store"] for name in ("fp32", "int8")}
    assert stored["int8"] < stored["fp32"] / 2


def test_a_code_that_the_set_is_too_small_for_is_not_called_measured(
    report: dict[str, Any],
) -> None:
    small = cell(report, 256, "pq", "fp32")
    assert (small["applied"], small["scanned"]) == (False, ["flat"])
    assert {one["coarse_code"] for one in report["measured"]} == {"fp32", "rabitq"}
    assert "was not measured" in small["objection"]
    assert "not measured: pq" in report["printed"]


def test_the_budget_is_judged_cell_by_cell(report: dict[str, Any]) -> None:
    assert report["budget"] == {"ndcg": 0.5, "recall": 0.9}
    for one in report["cells"]:
        assert (one["objection"] is None) == one["applied"]
    assert "8 of 12 within the budget" in report["printed"]


def test_the_page_needs_nothing_else(report: dict[str, Any]) -> None:
    page = (report["path"].parent / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert page.count("<tr") == 13
    assert str(report["path"].parent) not in page


# --- what was measured, and what may serve --------------------------------------------------------


@pytest.fixture
def other_space(report: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "other.json"
    measured = [one | {"fingerprint": "0" * 16} for one in report["measured"]]
    path.write_text(json.dumps({"measured": measured}), encoding="utf-8")
    return path


def test_a_collection_is_created_by_what_was_measured(
    nestvec: Nestvec, collection_name: str, report: dict[str, Any], other_space: Path
) -> None:
    options = ("--tiers", "64,256", "--code", "rabitq", "--store-dtype", "int8")
    wanted = ("create", collection_name, *options)
    told = nestvec(*wanted)
    assert (told.code, "serves only within a budget" in told.err) == (1, True)
    told = nestvec(*wanted, "--budget", "0.5,0.9")
    assert "tier 64 as rabitq over int8 was not measured" in told.err
    told = nestvec(*wanted, "--budget", "0.5,0.9", "--measured", other_space)
    assert "measured: another space, 0000000000000000" in told.err
    told = nestvec(*wanted, "--budget", "0,0", "--measured", report["path"])
    assert told.code == 1
    assert "loses" in told.err
    told = nestvec(*wanted, "--budget", "0.5,0.9", "--measured", report["path"], "--json")
    assert told.code == 0, told.err
    assert told.json["coarse_code"] == "rabitq"
    assert told.json["evidence"]["budget"] == {"ndcg": 0.5, "recall": 0.9}
    assert told.json["evidence"]["measured"] == report["measured"]
    assert "0.5 nDCG@10, 0.9 recall@10" in nestvec("describe", collection_name).out
    told = nestvec("tier", "add", collection_name, "128")
    assert "tier 128 as rabitq over int8 was not measured" in told.err
    told = nestvec("tier", "add", collection_name, "128", "--override", "trying it out")
    assert told.code == 0, told.err
    assert "overridden: trying it out" in nestvec("describe", collection_name).out


def test_what_a_code_scans_is_told_by_its_segments(nestvec: Nestvec, collection_name: str) -> None:
    words = ("--override", "a test of it", "--code", "fp16", "--tiers", "64")
    assert nestvec("create", collection_name, *words).code == 0
    lines = "".join(f"line {number}\n" for number in range(30))
    nestvec("index", "-", "-c", collection_name, stdin=lines)
    data = nestvec("describe", collection_name, "--json").json
    # Few rows are scanned exactly whatever the code.
    assert {label.partition(":")[0] for label in data["tier_status"][0]["segments"]} == {"flat"}


def test_wrong_files_and_numbers_are_refused_in_one_line(
    nestvec: Nestvec, collection_name: str, tmp_path: Path
) -> None:
    create = ("create", collection_name, "--budget")
    for wrong in ("-1", "two", "0.1,0.2,0.3", "nan"):
        assert nestvec(*create, wrong).code == 2
    odd = tmp_path / "odd.json"
    odd.write_text("[]", encoding="utf-8")
    for file, named in ((odd, "is no report of an ablation"), (tmp_path / "none", "be read")):
        ran = nestvec(*create, "0.1", "--measured", file)
        assert ran.code == 1
        assert named in ran.err
    odd.write_text(json.dumps({"measured": [{"dim": 64}]}), encoding="utf-8")
    assert "has no fingerprint" in nestvec(*create, "0.1", "--measured", odd).err
    assert "'5bit', expected one of auto" in nestvec("create", collection_name, "--code=5bit").err


def test_what_cannot_be_ablated_is_refused(tmp_path: Path) -> None:
    golden = a_golden(tmp_path / "small")
    assert run_cli("ablate").code == 2
    assert run_cli("ablate", "--golden", golden, "--codes", "5bit").code == 2
    assert run_cli("ablate", "--golden", golden, "--codes", "auto").code == 2
    assert run_cli("ablate", "--golden", golden, "--store-codes", "").code == 2


@takes_long
def test_a_tier_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    """As `nestvec eval` does, which every run tries: a server has to start for it."""
    golden = a_golden(tmp_path / "small")
    ran = run_cli("ablate", "--golden", golden, "--tiers", "100")
    assert ran.code == 1
    assert "tier 100 was not trained" in ran.err


def test_without_judgments_no_code_serves_on_top_of_a_cut(tmp_path: Path) -> None:
    golden = a_golden(tmp_path / "small")
    grid = ("--tiers", "256,768", "--codes", "fp16,int8", "--store-codes", "fp16")
    report = ablated(tmp_path, "--golden", golden, "--self", *grid, "--budget", "0.5,0.5")
    objections = {(one["dim"], one["coarse_code"]): one["objection"] for one in report["cells"]}
    assert objections.pop((256, "int8")).startswith("tier 256 as int8 over fp16 is a code on top")
    assert set(objections.values()) == {None}
    assert report["full"]["ndcg_at_10"] == 1.0


@takes_long
@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_bits_on_a_third_of_the_dimensions_lose_next_to_nothing(tmp_path: Path) -> None:
    grid = ("--tiers", "256", "--codes", "4bit,rabitq", "--store-codes", "fp16")
    golden = real_golden("cranfield")
    report = ablated(tmp_path, "--golden", golden, *grid, "--budget", "0.002,0.01")
    kept, dropped = report["cells"]
    assert kept["objection"] is None
    # One bit a dimension is another matter.
    assert dropped["reranked"]["recall_lost"] > kept["reranked"]["recall_lost"]
