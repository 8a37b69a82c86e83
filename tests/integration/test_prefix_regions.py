"""Two engines with a store each: one holds the other's prefixes, and answers for it by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from nestvec.client import IngestDocument, NestvecClient, RegionDifference, SearchResult
from nestvec.config import load_settings
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import InvalidRequest, NotFound
from nestvec.core.regions import RegionState
from nestvec.regions.app import RegionApp
from nestvec_cluster.background import background_engine
from nestvec_cluster.ports import free_ports

PATIENT_S = 30.0
WORDS = ("lamp", "river", "stone", "cloud", "paper", "engine", "garden", "winter", "salt", "glass")
QUERIES = ("river stone", "winter garden lamp", "salt and paper", "cloud engine 17")
DIM = 16
# Enough for both: documents are told apart by their numbers alone.
COUNT = 120


def document(number: int) -> IngestDocument:
    words = (WORDS[number % 10], WORDS[number // 10 % 10], WORDS[number // 3 % 10], str(number))
    return IngestDocument(f"d{number}", " ".join(words), fields={"even": number % 2 == 0})


@contextmanager
def region(name: str, ports: dict[str, int], prefixes_of: Sequence[str]) -> Iterator[NestvecClient]:
    settings: dict[str, Any] = {
        "server.port": ports[name],
        "encoder.model": "hash:64",
        "regions": {
            "here": name,
            "look_s": 0.01,
            "map": [
                {"name": one, "number": number, "endpoints": [f"127.0.0.1:{port}"]}
                for number, (one, port) in enumerate(ports.items(), 1)
            ],
            "collections": {
                "docs": {
                    "mode": "partitioned",
                    "prefixes_of": list(prefixes_of),
                    "prefix_dim": DIM,
                }
            },
        },
    }
    with (
        background_engine(load_settings(None, settings)) as address,
        NestvecClient(address, timeout_s=PATIENT_S) as client,
    ):
        yield client


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.02)


def is_whole(client: NestvecClient, searched: list[str]) -> bool:
    """Whether the copy is taken for whole: its home is no longer asked to search."""
    searched.clear()
    everything(client, QUERIES[0])
    return not searched


def everything(client: NestvecClient, text: str, **options: Any) -> SearchResult:
    return client.search("docs", text, regions="all", **options)


def same(found: SearchResult, whole: SearchResult) -> bool:
    return [(one.id, one.score) for one in found.hits] == [
        (one.id, one.score) for one in whole.hits
    ]


def test_a_region_answers_for_another_by_its_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = dict(zip(("eu", "us"), free_ports(2), strict=True))
    searched = spied(monkeypatch)
    with ExitStack() as stack:
        # First the home: what is not there yet is looked for again seconds later.
        home = stack.enter_context(ExitStack())
        us = home.enter_context(region("us", ports, []))
        fill(us, "docs", range(0, COUNT, 2))
        eu = stack.enter_context(region("eu", ports, ["us"]))
        fill(eu, "docs", range(1, COUNT, 2))
        fill(eu, "whole", range(COUNT))
        until(lambda: is_whole(eu, searched))
        check_as_one_region(eu)
        assert searched == []
        until(lambda: copied(eu) == (DIM, 0, 0))
        check_follows(eu, us)
        check_compared(eu, us)
        check_hidden(eu)
        exact = {hit.id: hit.score for hit in eu.search("whole", QUERIES[0], k=100).hits}
        home.close()
        check_alone(eu, exact)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Regions that are asked to search for another one, as they are."""
    searched: list[str] = []
    plain = RegionApp.search

    async def watched(app: RegionApp, *asked: Any) -> Any:
        searched.append(app.name)
        return await plain(app, *asked)

    monkeypatch.setattr(RegionApp, "search", watched)
    return searched


def fill(client: NestvecClient, name: str, numbers: range) -> None:
    client.create_collection(name, tiers=(DIM, 32), fields={"even": "bool"})
    client.index(name, [document(number) for number in numbers])


def copied(client: NestvecClient) -> tuple[int, int, int]:
    """Tier, lag and refused documents of the one copy."""
    (one,) = [way for status in client.regions() for way in status.replication]
    return one.prefix_dim, one.lag, one.refused


def check_as_one_region(eu: NestvecClient) -> None:
    """By the copy and its home's rerank: as one region that holds all documents."""
    for text in QUERIES:
        found = everything(eu, text)
        assert same(found, eu.search("whole", text))
        assert [one.state for one in found.regions] == [RegionState.ANSWERED] * 2
        assert found.coverage.documents_total == COUNT
        assert found.degradations == ()
        assert found.certificate is Certificate.WITHIN_CANDIDATES
        assert all(hit.text for hit in found.hits)
    even = everything(eu, QUERIES[0], filter="even == true")
    assert same(even, eu.search("whole", QUERIES[0], filter="even == true"))
    assert {hit.region for hit in even.hits} == {"us"}


def check_follows(eu: NestvecClient, us: NestvecClient) -> None:
    """What is written and deleted at home."""
    text = "river stone anew"
    for client, name in ((us, "docs"), (eu, "whole")):
        client.index(name, [IngestDocument("new", text)])
        client.delete(name, ["d0", "d2"])
    until(lambda: same(everything(eu, text), eu.search("whole", text)))


def check_compared(eu: NestvecClient, us: NestvecClient) -> None:
    """The copy is compared with its home, and its size is told: nobody else can ask for it."""
    count = us.describe("docs").documents
    (found,) = eu.verify_regions("docs")
    assert found == RegionDifference("us", count, count, prefix_dim=DIM)
    with pytest.raises(InvalidRequest, match=r"replicated here: none; prefixes here: docs"):
        eu.verify_regions("whole")
    with pytest.raises(InvalidRequest, match="no prefixes of it are copied"):
        us.verify_regions("docs")
    here, there = eu.regions()
    (way,) = there.replication
    assert way.documents == count
    assert way.stored_bytes > 0
    assert [one.tiers for side in (here, there) for one in side.collections] == [(DIM, 32)] * 2


def check_hidden(eu: NestvecClient) -> None:
    """Nobody reads or writes the copy by its name."""
    for attempt in (
        lambda: eu.search("docs~us", "river"),
        lambda: eu.index("docs~us", [document(1)]),
        lambda: eu.describe("docs~us"),
        lambda: eu.drop_collection("docs~us"),
    ):
        with pytest.raises(NotFound, match="copy of prefixes of region 'us'"):
            attempt()
    with pytest.raises(InvalidRequest, match="cannot name a collection"):
        eu.create_collection("docs~ap")
    assert [one.name for one in eu.collections()] == ["docs", "whole"]


def check_alone(eu: NestvecClient, exact: dict[str, float]) -> None:
    """The home is lost: its part is answered in the order of estimates, and that is said."""
    found = everything(eu, QUERIES[0], timeout_s=5.0)
    states = {one.name: one.state for one in found.regions}
    assert states == {"eu": RegionState.ANSWERED, "us": RegionState.PREFIXES}
    kinds = {one.kind for one in found.degradations}
    assert {DegradationKind.REGION_MISSING, DegradationKind.RERANK_SKIPPED} <= kinds
    assert found.certificate is Certificate.NONE
    assert found.coverage.documents_answered == COUNT - 1
    assert found.coverage.fraction == 1.0
    assert {hit.region for hit in found.hits} == {"eu", "us"}
    off = [abs(hit.score - exact[hit.id]) for hit in found.hits if hit.id in exact]
    assert len(off) >= 5
    assert max(off) < 0.3
