"""Two regions that are clusters: writers, front ends and shards are processes of their own, and
whoever copies from the other region is killed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import NestvecError
from nestvec.core.regions import RegionState
from nestvec_cluster.ports import free_ports
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S
from tests.fault.region_faults import (
    COLLECTION,
    Clients,
    check_converged,
    eventually,
    until_held,
    writers,
)
from tests.fault.writing import patient
from tests.support.cluster_processes import ClusterProcesses
from tests.support.long_runs import takes_long
from tests.support.region_engines import REPLICATED, settings_of
from tests.support.sentences import sentences

SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261129"))
# Of each region: another number of shards changes nothing for the other one.
SHARDS = {"eu": 2, "us": 1}
# Of `us` alone; `eu` has its prefixes.
PARTS, DIM = "parts", 128
TEXTS = sentences(120)
STALE_S = 2.0

pytestmark = [takes_long, pytest.mark.timeout(300)]


@dataclass
class World:
    """Two clusters, a client of each one's front end, and all that is written to them."""

    clusters: dict[str, ClusterProcesses]
    clients: Clients
    history: History


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    ports = dict(zip(SHARDS, free_ports(len(SHARDS)), strict=True))
    seen = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    folder = tmp_path_factory.mktemp("clusters")
    with ExitStack() as stack:
        clusters = {}
        for name, shards in SHARDS.items():
            parts: dict[str, Any] = {"mode": "partitioned"}
            if name == "eu":
                parts |= {"prefixes_of": ["us"], "prefix_dim": DIM}
            settings = settings_of(name, seen, {**REPLICATED, PARTS: parts})
            regions = {"regions": settings["regions"]}
            cluster = stack.enter_context(ClusterProcesses(name, folder, regions, shards))
            for slot in ("ingest-0", "ingest-1"):
                cluster.start(slot)
            cluster.start("query-0", server={"port": ports[name]})
            clusters[name] = cluster
        clients = {
            name: stack.enter_context(NestvecClient(address, timeout_s=PATIENCE_S))
            for name, address in seen.items()
        }
        eventually(lambda: all(serves(one) for one in clients.values()), "the clusters serve")
        create(clients["eu"], COLLECTION)
        for client in clients.values():
            create(client, PARTS)
        until_held(clients)
        yield World(clusters, clients, History())


def create(client: NestvecClient, name: str) -> None:
    """A writer that is late, on a machine that starts all of these, may have lost its lease."""
    patient(lambda: client.create_collection(name, tiers=[DIM, 256], exist_ok=True))


def serves(client: NestvecClient) -> bool:
    """Whether the front end has found somebody who writes."""
    try:
        client.collections()
    except NestvecError:
        return False
    return True


def test_whoever_copies_is_killed_and_another_one_goes_on(world: World) -> None:
    clients, history = world.clients, world.history
    threads = writers(clients, history, random.Random(SEED))
    for thread in threads:
        thread.start()
    try:
        for number, (name, other) in enumerate((("eu", "us"), ("us", "eu"))):
            cluster = world.clusters[name]
            killed = copying(cluster, COLLECTION)
            cluster.kill(killed)
            late = IngestDocument(f"late-{number}", f"after a kill in {name}")
            history.begin({late.id: late.text})
            clients[other].index(COLLECTION, [late], ack="stored")
            history.acknowledge({late.id: late.text})
            eventually(partial(has, clients[name], late.id), f"nobody in {name} goes on")
            assert copying(cluster, COLLECTION) != killed
            cluster.start(killed)
    finally:
        for thread in threads:
            thread.stopping.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    check_converged(clients, history, "after the kills")
    assert history.acknowledged > 100


def has(client: NestvecClient, name: str) -> bool:
    return bool(client.get(COLLECTION, [name]).documents)


def copying(cluster: ClusterProcesses, collection: str) -> str:
    """The process that has begun last to copy a collection."""

    def begun() -> list[tuple[str, str]]:
        return [
            (told["timestamp"], slot)
            for slot in ("ingest-0", "ingest-1")
            for told in cluster.events(slot, "region.following")
            if told["collection"] == collection
        ]

    eventually(lambda: bool(begun()), "nobody copies")
    return max(begun())[1]


def test_a_front_end_knows_how_old_its_region_is(world: World) -> None:
    """The ages are told by another process than the one that answers."""
    for name, client in world.clients.items():
        found = search(client, COLLECTION, max_staleness_s=STALE_S)
        states = {one.name: one.state for one in found.regions}
        (other,) = states.keys() - {name}
        assert states == {name: RegionState.ANSWERED, other: RegionState.NOT_ASKED}
        assert found.degradations == ()
        assert found.coverage.fraction == 1.0
        (here,) = (one for one in found.regions if one.name == name)
        assert here.staleness_s is not None
        assert here.staleness_s <= STALE_S


def test_a_cluster_answers_for_another_by_its_prefixes(world: World) -> None:
    eu, us = world.clients["eu"], world.clients["us"]
    us.index(PARTS, [IngestDocument(f"u{n}", one) for n, one in enumerate(TEXTS)])
    us.delete(PARTS, ["u0", "u1"])

    eventually(lambda: eu.verify_regions(PARTS)[0].clean, "the prefixes are not copied")
    query = f"what {TEXTS[7].lower()}"

    def same() -> bool:
        found, home = search(eu, PARTS, query, regions="all"), search(us, PARTS, query)
        hits = [[(one.id, one.score) for one in side.hits] for side in (found, home)]
        return hits[0] == hits[1] and found.coverage.documents_answered == len(TEXTS) - 2

    eventually(same, "the copy and its home's rerank are not as the home alone")
    world.clusters["us"].kill("query-0")
    found = search(eu, PARTS, query, regions="all")
    states = {one.name: one.state for one in found.regions}
    assert states == {"eu": RegionState.ANSWERED, "us": RegionState.PREFIXES}
    kinds = {one.kind for one in found.degradations}
    assert {DegradationKind.REGION_MISSING, DegradationKind.RERANK_SKIPPED} <= kinds
    assert found.certificate is Certificate.NONE
    assert found.coverage.documents_answered == len(TEXTS) - 2
    assert "u7" in {hit.id for hit in found.hits}
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)


def search(
    client: NestvecClient, collection: str, text: str = "river summit tundra", **options: Any
) -> SearchResult:
    return client.search(collection, text, timeout_s=5.0, **options)
