"""Three regions that replicate a collection, cut apart and healed while all of them are written to.

Each is an engine with a store of its own, behind proxies that let nothing through while cut.
While a region is cut off every search succeeds in every region, and says what it cannot know.
Afterwards all of them hold every acknowledged write, in its newest version, and nothing that was
deleted. `make soak` cuts 50 times, and each engine is a process of its own.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import BudgetSpent, NestvecError, NotFound
from nestvec.core.regions import RegionState
from nestvec.telemetry.logs import configure_logs
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S
from tests.fault.writing import Writer, contents_of
from tests.support.long_runs import LONG
from tests.support.region_engines import as_process, in_this_process, region_engines

SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261129"))
NAMES = ("eu", "us", "ap")
COLLECTION = "docs"
ROUNDS = 50 if LONG else 1
# Processes take some seconds to start.
START = as_process if LONG else in_this_process
SHARED = 40
# Between two operations of one writer.
PAUSE_S = 0.01 if LONG else 0.04
ONE_WAY_S = 0.005 if LONG else 0.0
# What a search allows a region to be behind, and a search may take.
STALE_S = 0.25
SEARCH_S = 0.8 if LONG else 0.5

Clients = dict[str, NestvecClient]


class Alternating(threading.Thread):
    """Writes and deletes the same documents in all regions, one operation after another: so the
    last one of each is known.
    """

    def __init__(self, clients: Clients, history: History, seed: int) -> None:
        super().__init__(name="alternating")
        self._clients = clients
        self._history = history
        self._random = random.Random(seed)
        self.names = [f"shared-{number}" for number in range(SHARED)]
        self.stopping = threading.Event()
        self.failures: list[str] = []

    def run(self) -> None:
        # Clocks tick in milliseconds: what comes later has a greater version.
        while not self.stopping.wait(PAUSE_S):
            name = self._random.choice(self.names)
            try:
                self._change(self._random.choice(list(self._clients.values())), name)
            except NestvecError as error:
                # It may be done at any later moment: what comes after it is not known any more.
                self.names.remove(name)
                self.failures.append(str(error))

    def _change(self, client: NestvecClient, name: str) -> None:
        text = f"{name} at {client.address}, {self._random.getrandbits(40):x}"
        wanted = None if self._random.random() < 0.3 else text
        self._history.begin({name: wanted})
        if wanted is None:
            client.delete(COLLECTION, [name], ack="stored")
        else:
            report = client.index(COLLECTION, [IngestDocument(name, wanted)], ack="stored")
            assert not report.failures
        self._history.acknowledge({name: wanted})


@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_regions_cut_apart_and_healed_lose_nothing_acknowledged() -> None:
    configure_logs("error")
    chosen, history = random.Random(SEED), History()
    with ExitStack() as stack:
        regions = stack.enter_context(region_engines(NAMES, one_way_s=ONE_WAY_S, start=START))
        clients = {
            name: stack.enter_context(NestvecClient(address, timeout_s=PATIENCE_S))
            for name, address in regions.addresses.items()
        }
        clients["eu"].create_collection(COLLECTION, tiers=[128, 256])
        until_held(clients)
        for number in range(ROUNDS):
            lost = chosen.choice(NAMES)
            threads = writers(clients, history, chosen)
            for thread in threads:
                thread.start()
            try:
                time.sleep(chosen.uniform(0.0, 0.3))
                regions.cut(lost)
                time.sleep(chosen.uniform(2 * STALE_S, 4 * STALE_S))
                for name in (lost, next(one for one in NAMES if one != lost)):
                    check_honest(clients[name], name, lost)
                regions.heal()
                time.sleep(chosen.uniform(0.0, 0.3))
            finally:
                regions.heal()
                for thread in threads:
                    thread.stopping.set()
                for thread in threads:
                    thread.join(PATIENCE_S)
                    assert not thread.is_alive(), "a writer hangs"
            check_converged(clients, history, f"round {number}, {lost} was cut off")
            # What a cut did to others must not keep a writer of this region from its own.
            assert [said for thread in threads for said in thread.failures] == []
        assert history.acknowledged > 50 * ROUNDS


def writers(
    clients: Clients, history: History, chosen: random.Random
) -> list[Writer | Alternating]:
    """One a region, of its own documents, and one that writes the same ones everywhere."""
    own = [
        Writer(number, client.address, COLLECTION, history, chosen.getrandbits(32), pause_s=PAUSE_S)
        for number, client in enumerate(clients.values())
    ]
    return [*own, Alternating(clients, history, chosen.getrandbits(32))]


def until_held(clients: Clients) -> None:
    """Until every region has made the collection, serves it, and knows that the others have too."""

    def held(client: NestvecClient) -> bool:
        try:
            # Of its shards too: the catalogue has it before they do.
            client.describe(COLLECTION)
        except NotFound:
            return False
        _, *others = client.regions()
        return all(one.collections and one.replication[0].staleness_s is not None for one in others)

    eventually(lambda: all(held(client) for client in clients.values()), "the collection is made")


def check_honest(client: NestvecClient, here: str, lost: str) -> None:
    """A search that wants to be told of staleness is answered, and told."""
    result = asked(client)
    assert result.coverage.fraction == 1.0
    outcomes = {one.name: one for one in result.regions}
    assert outcomes[here].state is RegionState.ANSWERED
    unheard = [name for name in NAMES if name != here and lost in (here, name)]
    for name in unheard:
        assert outcomes[name].state is RegionState.MISSING, outcomes
        assert outcomes[name].said
    kinds = {one.kind for one in result.degradations}
    assert DegradationKind.REGION_STALE.value in kinds, result.degradations


def asked(client: NestvecClient) -> SearchResult:
    """It waits for a region that says nothing until shortly before its deadline: on a machine that
    is busy with everything else, that is asked again.
    """
    for _ in range(5):
        with suppress(BudgetSpent):
            return client.search(
                COLLECTION, "river summit tundra", k=5, max_staleness_s=STALE_S, timeout_s=SEARCH_S
            )
    raise AssertionError("no search came back in time")


def check_converged(clients: Clients, history: History, when: str) -> None:
    """All regions hold the same, and what was acknowledged."""

    def caught_up() -> bool:
        others = [one for client in clients.values() for one in client.regions()[1:]]
        ages = [way.staleness_s for one in others for way in one.replication]
        return all(age is not None and age < 2.0 for age in ages)

    def clean() -> bool:
        # Two that are the same as a third are the same as each other.
        asked = list(clients.values()) if LONG else [clients[NAMES[0]]]
        return all(one.clean for client in asked for one in client.verify_regions(COLLECTION))

    eventually(caught_up, f"{when}: one is not whole again")
    eventually(clean, f"{when}: it does not become clean")
    for name, client in clients.items():
        # What is uncertain is settled by the first region; the others must agree.
        problems = history.settle(contents_of(client, COLLECTION, history))
        assert problems == [], f"{when}; in {name}"
        assert client.verify(COLLECTION).clean, f"{when}; in {name}"


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until `holds` does; what never does fails the test."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
