"""nestvec recall, against real engines."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from nestvec.client import ClassRecall, IngestDocument, LiveRecall, NestvecClient, Share
from nestvec.config import load_settings
from nestvec.core.errors import ConfigError
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.background import background_engine
from nestvec_cluster.cli_recall import print_recall
from tests.support.cli import run_cli
from tests.support.faults import PATIENT_S
from tests.support.sentences import sentences

SENTENCES = sentences(40)
SETTINGS = {
    "server.port": 0,
    "live_recall.cpu_share": 1,
    "live_recall.sample": 1,
    "live_recall.every_s": 0.01,
    "live_recall.targets": {"search": 0.5, "autocomplete": 1.0},
}


def test_recall_of_queries_that_were_asked() -> None:
    configure_logs("error")
    with (
        background_engine(load_settings(None, SETTINGS)) as address,
        NestvecClient(address) as client,
    ):
        client.create_collection("docs")
        client.index("docs", [IngestDocument(f"s{n}", one) for n, one in enumerate(SENTENCES)])
        nothing = run_cli("recall", "--address", address)
        assert (nothing.code, "no sampled query was measured yet" in nothing.out) == (0, True)
        until = time.monotonic() + PATIENT_S
        while not client.live_recall("docs").classes:
            assert time.monotonic() < until
            client.search("docs", SENTENCES[3])
        ran = run_cli("recall", "docs", "--address", address, "--json")
        told = run_cli("recall", "--address", address)
        other = run_cli("recall", "others", "--address", address, "--json")
    assert ran.code == 0
    (one,) = ran.json["classes"]
    assert (one["collection"], one["search_class"], one["coarse_dim"]) == ("docs", "search", 256)
    assert one["queries"] >= 1
    assert one["recall"]["mean"] == one["recall"]["high"] == 1.0
    assert (one["lost"], one["target"], ran.json["below_target"]) == ({}, 0.5, [])
    assert ran.json["cpu_s"] > 0.0
    assert "docs" in told.out
    assert other.json["classes"] == []


def test_it_may_be_turned_off() -> None:
    settings = load_settings(None, {"server.port": 0, "live_recall.cpu_share": 0})
    with background_engine(settings) as address:
        ran = run_cli("recall", "--address", address)
    assert (ran.code, ran.out) == (0, "live recall is off: live_recall.cpu_share is 0\n")


def test_a_class_below_its_target_is_named_with_what_it_lost() -> None:
    one = ClassRecall(
        "docs", "search", 256, 2000, Share(0.97, 0.96, 0.98),
        {"ann": Share(0.01, 0.0, 0.02), "damage": Share(0.02, 0.01, 0.03)}, 5, 0.99,
    )  # fmt: skip
    console = Console(width=200, record=True)
    print_recall(console, LiveRecall((one,), True, 3, 2, 1.0, 50.0, 0.02))
    told = console.export_text()
    assert "damage 0.0200, ann 0.0100" in told
    assert "below its target: search in tier 256 of docs" in told


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"live_recall.targets": {"serch": 0.9}}, "serch"),
        ({"live_recall.targets": {"search": 1.5}}, "1.5"),
        ({"live_recall.cpu_share": 2}, "cpu_share"),
        ({"live_recall.sampel": 1}, "sample"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(None, overrides)
