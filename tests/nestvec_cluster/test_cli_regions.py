"""nestvec regions and nestvec verify --regions, against two real regions and their clients."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from nestvec.client import (
    IngestDocument,
    NestvecClient,
    RegionDifference,
    RegionStatus,
    ReplicationStatus,
)
from nestvec.core.errors import InvalidRequest, NotFound
from nestvec.core.regions import HeldCollection
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.cli_regions import print_differences, print_regions
from tests.support.cli import run_cli
from tests.support.clients import Kind, open_client
from tests.support.engine import SharedEngine
from tests.support.faults import PATIENT_S
from tests.support.region_engines import Regions, region_engines
from tests.support.sentences import sentences

SENTENCES = sentences(30)


@pytest.fixture(scope="module")
def regions() -> Iterator[Regions]:
    """eu has documents, and us has made the collection and copied them."""
    configure_logs("error")
    shared = {name: {"mode": "replicated"} for name in ("docs", "never")}
    with region_engines(("eu", "us"), shared) as opened:
        with NestvecClient(opened.addresses["eu"]) as client:
            client.create_collection("docs", tiers=[64])
            client.index("docs", [IngestDocument(f"s{n}", one) for n, one in enumerate(SENTENCES)])
        with NestvecClient(opened.addresses["us"]) as client:
            until(client, "eu", len(SENTENCES))
        with NestvecClient(opened.addresses["eu"]) as client:
            until(client, "us", len(SENTENCES))
        yield opened


def until(client: NestvecClient, other: str, documents: int) -> None:
    """Until this region holds so many, and has everything of the other one."""
    deadline = time.monotonic() + PATIENT_S
    while True:
        here, there = client.regions()
        assert (here.here, there.name) == (True, other)
        held = [[(one.name, one.documents) for one in side.collections] for side in (here, there)]
        (way,) = [one for one in there.replication if one.collection == "docs"]
        if held == [[("docs", documents)]] * 2 and way.staleness_s is not None and not way.said:
            return
        assert time.monotonic() < deadline, (here, there)
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_both_clients_tell_how_the_regions_stand(regions: Regions, kind: Kind) -> None:
    with open_client(kind, regions.addresses["us"]) as client:
        here, there = client.regions()
        assert (here.name, here.here, here.reachable) == ("us", True, True)
        assert (there.name, there.here, there.reachable, there.said) == ("eu", False, True, "")
        assert abs(there.clock_skew_s) < 5.0
        (held,) = there.collections
        assert (held.name, held.documents, held.dim) == ("docs", len(SENTENCES), 768)
        way, other = there.replication
        assert (way.collection, way.lag, way.refused, way.said) == ("docs", 0, 0, "")
        assert (other.collection, other.lag, other.said) == ("never", 0, "")
        assert way.nbytes > sum(map(len, SENTENCES))
        (found,) = client.verify_regions("docs")
        assert found == RegionDifference("eu", len(SENTENCES), len(SENTENCES))
        with pytest.raises(InvalidRequest, match=r"'other' is not replicated .* here: docs, never"):
            client.verify_regions("other")
        with pytest.raises(NotFound, match="never"):
            client.verify_regions("never")


def test_the_commands_show_the_same(regions: Regions) -> None:
    address = regions.addresses["eu"]
    told = run_cli("regions", "--address", address)
    assert (told.code, told.err) == (0, "")
    assert f"docs {len(SENTENCES)}" in told.out
    assert "reachable" in told.out
    data = run_cli("regions", "--address", address, "--json").json
    assert [one["name"] for one in data["regions"]] == ["eu", "us"]
    assert data["regions"][1]["replication"][0]["collection"] == "docs"
    clean = run_cli("verify", "docs", "--regions", "--address", address)
    assert (clean.code, "clean: every region has the same" in clean.out) == (0, True)
    ran = run_cli("verify", "docs", "--regions", "--address", address, "--json")
    assert (ran.code, ran.json["clean"]) == (0, True)
    refused = run_cli("verify", "docs", "--regions", "--repair", "--address", address)
    assert (refused.code, "leave --repair out" in refused.err) == (1, True)


def test_a_server_that_is_no_region_says_so(engine: SharedEngine) -> None:
    ran = run_cli("regions", "--address", engine.address)
    assert (ran.code, "is no region" in ran.out) == (0, True)
    refused = run_cli("verify", "docs", "--regions", "--address", engine.address)
    assert (refused.code, "replicated here: none" in refused.err) == (1, True)


def test_what_is_wrong_is_told_and_differences_are_named() -> None:
    console = Console(width=200, record=True)
    held = ReplicationStatus("docs", lag=7, refused=2, said="no model", nbytes=2_500_000)
    prefixes = ReplicationStatus(
        "wiki", staleness_s=1.5, prefix_dim=128, documents=1_200, stored_bytes=340_000
    )
    ours, theirs = (
        HeldCollection("docs", 1, "f", 768, 5, tiers=tiers) for tiers in ((256, 128), (128,))
    )
    print_regions(
        console,
        [
            RegionStatus("eu", True, ("a:1",), True, collections=(ours,)),
            RegionStatus(
                "us", False, ("b:1",), False, "out", 0.08, -1.25, (theirs,), (held, prefixes)
            ),
        ],
    )
    told = console.export_text()
    for part in ("out of reach", "80.0 ms", "-1.250 s", "never whole", "prefixes of tier 128"):
        assert part in told
    assert "prefixes of tier 128: 1,200 documents, 0.3 MB" in told
    assert "docs has other tiers in each region: 128, 256 in eu; 128 in us" in told
    assert "docs from us: no model" in told
    assert "docs from us: 2 documents cannot be carried over" in told
    print_differences(
        console,
        [
            RegionDifference("us", 5, 4, missing_there=1, examples=("d1",)),
            RegionDifference("ap", said="away"),
            RegionDifference("sa", 5, 5, contents=4, other_contents=2, prefix_dim=0),
            RegionDifference("af", 5, 5, prefix_dim=256),
        ],
    )
    told = console.export_text()
    assert "us differs in 'd1'" in told
    assert "ap was not compared: away" in told
    assert "sa: 2 of 4 documents at a version that their writers chose" in told
    assert "af, prefixes of 256" in told
    assert "clean" not in told
    print_differences(console, [RegionDifference("af", 5, 5, prefix_dim=256)])
    assert "clean: every copy of prefixes has what its home has" in console.export_text()


def test_what_was_written_in_one_region_is_found_in_another_by_its_watermark(
    regions: Regions,
) -> None:
    text = "a lighthouse keeper counts the ships that pass"
    with (
        NestvecClient(regions.addresses["eu"], timeout_s=PATIENT_S) as eu,
        NestvecClient(regions.addresses["us"], timeout_s=PATIENT_S) as us,
    ):
        written = eu.index("docs", [IngestDocument("late", text)], ack="stored")
        found = us.search("docs", text, k=1, watermark=written.watermark)
        assert [hit.id for hit in found.hits] == ["late"]
        deleted = us.delete("docs", ["late"], ack="stored")
        found = eu.search("docs", text, k=1, watermark=deleted.watermark)
        assert [hit.id for hit in found.hits] != ["late"]
        eu.create_collection("own", tiers=[64])
        with pytest.raises(InvalidRequest, match="'own' is not replicated"):
            eu.search("own", text, watermark=deleted.watermark)
