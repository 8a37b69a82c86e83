"""Regions that replicate a collection while they are cut apart: who writes to them, what a search
must say meanwhile, and what must be true afterwards.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import BudgetSpent, NestvecError, NotFound
from nestvec.core.regions import RegionState
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S
from tests.fault.writing import Writer, contents_of
from tests.support.long_runs import LONG

COLLECTION = "docs"
SHARED = 40
# Between two operations of one writer.
PAUSE_S = 0.01 if LONG else 0.04
# What a search allows a region to be behind, and a search may take.
STALE_S = 0.25
SEARCH_S = 0.8 if LONG else 0.5

# By the names of their regions.
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


class Ways(Protocol):
    """Between regions."""

    def cut(self, *names: str) -> None: ...

    def heal(self) -> None: ...


def cut_and_heal(
    clients: Clients, ways: Ways, lost: str, history: History, chosen: random.Random
) -> None:
    """Cut one region off for a moment, while all are written to, and searched on both sides."""
    threads = writers(clients, history, chosen)
    for thread in threads:
        thread.start()
    try:
        time.sleep(chosen.uniform(0.0, 0.3))
        ways.cut(lost)
        time.sleep(chosen.uniform(2 * STALE_S, 4 * STALE_S))
        for name in (lost, next(one for one in clients if one != lost)):
            check_honest(clients, name, lost)
        ways.heal()
        time.sleep(chosen.uniform(0.0, 0.3))
    finally:
        ways.heal()
        for thread in threads:
            thread.stopping.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a writer hangs"
    # What a cut does to others must not keep a writer of this region from its own.
    assert [said for thread in threads for said in thread.failures] == []


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


def check_honest(clients: Clients, here: str, lost: str) -> None:
    """A search that wants to be told of staleness is answered, and told."""
    result = asked(clients[here])
    assert result.coverage.fraction == 1.0
    outcomes = {one.name: one for one in result.regions}
    assert outcomes[here].state is RegionState.ANSWERED
    unheard = [name for name in clients if name != here and lost in (here, name)]
    for name in unheard:
        assert outcomes[name].state is RegionState.MISSING, outcomes
        assert outcomes[name].said
    kinds = {one.kind for one in result.degradations}
    assert DegradationKind.REGION_STALE.value in kinds, result.degradations


def asked(client: NestvecClient) -> SearchResult:
    """It waits for a region that says nothing until shortly before its deadline: on a machine that
    is busy with everything else, that is asked again, with more time each time.
    """
    for attempt in range(5):
        timeout_s = SEARCH_S * 2**attempt
        with suppress(BudgetSpent):
            return client.search(
                COLLECTION, "river summit tundra", k=5, max_staleness_s=STALE_S, timeout_s=timeout_s
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
        asked = list(clients.values()) if LONG else [*clients.values()][:1]
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
