"""A region's copy of another one's prefixes, cut off from its home again and again while both are
written to.

While it is cut off, every answer has the home's part by the copy, in coarse order, and says so.
Afterwards the copy has exactly what its home has, and each region every acknowledged write.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from nestvec.client import IngestDocument, NestvecClient, RegionDifference, SearchResult
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.regions import RegionState
from nestvec.telemetry.logs import configure_logs
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S
from tests.fault.region_faults import COLLECTION, PAUSE_S, eventually
from tests.fault.writing import Writer, problems_of
from tests.support.long_runs import takes_long
from tests.support.region_engines import Collections, Regions, as_process, region_engines

SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261129"))
ROUNDS = int(os.environ.get("NESTVEC_PREFIX_ROUNDS", "50"))
# Who has the copy, and whose documents they are.
HERE, HOME = "eu", "us"
DIM = 128
ONE_WAY_S = 0.005
QUERIES = ("river summit tundra", "amber basin", "orchid and prairie quartz")
# What a search may take while the home says nothing.
SEARCH_S = 3.0

pytestmark = [takes_long, pytest.mark.timeout(120 + 30 * ROUNDS)]


def shared(here: str) -> Collections:
    copies = {"prefixes_of": [HOME], "prefix_dim": DIM} if here == HERE else {}
    return {COLLECTION: {"mode": "partitioned", **copies}}


@dataclass
class World:
    """histories: of each region's own documents."""

    regions: Regions
    clients: dict[str, NestvecClient]
    histories: dict[str, History] = field(default_factory=dict)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    configure_logs("error")
    with ExitStack() as stack:
        opened = region_engines((HERE, HOME), shared, one_way_s=ONE_WAY_S, start=as_process)
        regions = stack.enter_context(opened)
        clients = {
            name: stack.enter_context(NestvecClient(address, timeout_s=PATIENCE_S))
            for name, address in regions.addresses.items()
        }
        for client in clients.values():
            client.create_collection(COLLECTION, tiers=[DIM, 256])
        yield World(regions, clients, {name: History() for name in clients})


def test_a_copy_cut_off_and_healed_has_what_its_home_has(world: World) -> None:
    chosen = random.Random(SEED)
    # Before its home has the collection there is nothing to be behind of, and no copy.
    eventually(lambda: compared(world.clients[HERE]).clean, "the copy is made")
    # With documents: of a copy without any there is nothing that only its home could put in order.
    world.clients[HOME].index(COLLECTION, [IngestDocument("always", "river summit tundra")])
    world.histories[HOME].begin({"always": "river summit tundra"})
    world.histories[HOME].acknowledge({"always": "river summit tundra"})
    eventually(lambda: bool(search(world, QUERIES[0]).hits), "the copy is searched")
    for number in range(ROUNDS):
        threads = writers(world, chosen)
        for thread in threads:
            thread.start()
        try:
            time.sleep(chosen.uniform(0.1, 0.4))
            world.regions.cut(HOME)
            time.sleep(chosen.uniform(0.0, 1.0))
            for text in QUERIES:
                check_alone(alone(world, text))
            world.regions.heal()
            time.sleep(chosen.uniform(0.0, 0.4))
        finally:
            world.regions.heal()
            for thread in threads:
                thread.stop()
        check_converged(world, f"round {number}")
        assert [said for thread in threads for said in thread.failures] == []
    assert all(one.acknowledged > 20 * ROUNDS for one in world.histories.values())


def writers(world: World, chosen: random.Random) -> list[Writer]:
    """One a region."""
    return [
        Writer(
            number,
            client.address,
            COLLECTION,
            world.histories[name],
            chosen.getrandbits(32),
            pause_s=PAUSE_S,
        )
        for number, (name, client) in enumerate(world.clients.items())
    ]


def search(world: World, text: str, **options: Any) -> SearchResult:
    """Here, of both."""
    return world.clients[HERE].search(
        COLLECTION, text, regions="all", timeout_s=SEARCH_S, **options
    )


def alone(world: World, text: str) -> SearchResult:
    """On a machine that is busy with everything else a search of the copy may come too late, and
    then the home is missing: that is asked again.
    """
    found = search(world, text)
    for _ in range(4):
        if not any(one.state is RegionState.MISSING for one in found.regions):
            break
        found = search(world, text)
    return found


def check_alone(found: SearchResult) -> None:
    """An answer with the home out of reach."""
    states = {one.name: one.state for one in found.regions}
    assert states == {HERE: RegionState.ANSWERED, HOME: RegionState.PREFIXES}, found
    kinds = {one.kind for one in found.degradations}
    assert {DegradationKind.REGION_MISSING, DegradationKind.RERANK_SKIPPED} <= kinds
    assert found.certificate is Certificate.NONE
    assert found.coverage.fraction == 1.0
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)


def check_converged(world: World, when: str) -> None:
    here, home = world.clients[HERE], world.clients[HOME]
    eventually(lambda: caught_up(here), f"{when}: the copy is not whole again")
    found = compared(here)
    assert found.clean, f"{when}: {found}"
    for name, client in world.clients.items():
        problems = problems_of(client, COLLECTION, world.histories[name])
        assert problems == [], f"{when}; in {name}"
    # All that the home finds, by what the copy keeps of it: the same, to the last bit.
    documents = home.describe(COLLECTION).documents
    asked: dict[str, Any] = {"rerank": False, "coarse_dim": DIM, "k": 1000}
    for text in QUERIES:
        there = home.search(COLLECTION, text, regions="local", timeout_s=PATIENCE_S, **asked)
        copied = [hit for hit in search(world, text, **asked).hits if hit.region == HOME]
        assert len(there.hits) == documents
        assert columns(copied) == columns(there.hits), f"{when}: {text}"


def compared(client: NestvecClient) -> RegionDifference:
    """The one copy with its home."""
    (found,) = client.verify_regions(COLLECTION)
    return found


def columns(hits: Any) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


def caught_up(client: NestvecClient) -> bool:
    _, there = client.regions()
    (way,) = there.replication
    return not (way.lag or way.said) and way.staleness_s is not None and way.staleness_s < 2.0
