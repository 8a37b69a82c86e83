"""Three regions in network namespaces: each a process with a store of its own, 80 and 150 ms apart
by packets that are held up, and cut off by packets that vanish.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.core.coverage import DegradationKind
from nestvec.core.regions import RegionState
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S
from tests.fault.region_faults import (
    COLLECTION,
    Clients,
    check_converged,
    cut_and_heal,
    eventually,
    until_held,
)
from tests.support.long_runs import takes_long
from tests.support.namespaces import Namespace, WideArea, namespaces
from tests.support.region_engines import REPLICATED, process_at, settings_of
from tests.support.sentences import sentences

SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261129"))
ROUNDS = int(os.environ.get("NESTVEC_NAMESPACE_ROUNDS", "10"))
ROUND_TRIPS_S = {("eu", "us"): 0.08, ("eu", "ap"): 0.15, ("us", "ap"): 0.17}
NAMES = ("eu", "us", "ap")
PORT = 7700
# Beside the replicated one: each region's own documents, and all of them in `eu` alone.
PARTS, WHOLE = "parts", "whole"

# Answers each byte. Asks for a byte with each line's patience, and says what it took.
ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("up", flush=True)
connection, _ = server.accept()
while data := connection.recv(1):
    connection.sendall(data)
"""
ASK = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7000), 5)
for line in sys.stdin:
    connection.settimeout(float(line))
    began_s = time.monotonic()
    try:
        connection.sendall(b"x")
        connection.recv(1)
        print(time.monotonic() - began_s, flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""


def test_packets_take_as_long_as_the_way_and_vanish_while_it_is_cut() -> None:
    with namespaces({("eu", "us"): 0.03}) as (spaces, wide), ExitStack() as stack:
        answering = stack.enter_context(running(spaces["us"], ECHO))
        assert line_of(answering) == "up"
        asking = stack.enter_context(running(spaces["eu"], ASK, spaces["us"].wide))
        assert 0.03 <= float(ask(asking, 10.0)) < 10.0
        passed = wide.passed
        wide.cut("us")
        # As a connection over a real way: nobody is told, and what was sent is sent again.
        assert ask(asking, 0.1) == "nothing"
        assert wide.dropped > 0
        wide.heal()
        assert float(ask(asking, 10.0)) > 0.0
        assert wide.passed > passed
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"nestvec-{os.getpid()}-" not in left.stdout


@contextmanager
def running(space: Namespace, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        space.command(sys.executable, "-S", "-c", code, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], patience_s: float) -> str:
    assert process.stdin is not None
    process.stdin.write(f"{patience_s}\n")
    process.stdin.flush()
    return line_of(process)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- regions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Clients, WideArea]]:
    """A client of each region, and what is between them."""
    with namespaces(ROUND_TRIPS_S) as (spaces, wide), ExitStack() as stack:
        seen = {name: f"{spaces[name].wide}:{PORT}" for name in NAMES}
        shared = {**REPLICATED, PARTS: {"mode": "partitioned"}}
        engines = {}
        for here in NAMES:
            settings = settings_of(here, seen, shared)
            settings["server"] |= {"host": "0.0.0.0", "port": PORT, "insecure": True}
            space = spaces[here]
            engine = process_at(f"{space.near}:{PORT}", settings, space.command())
            engines[here] = stack.enter_context(engine)
        clients = {
            name: stack.enter_context(NestvecClient(ready(), timeout_s=PATIENCE_S))
            for name, ready in engines.items()
        }
        clients["eu"].create_collection(COLLECTION, tiers=[128, 256])
        until_held(clients)
        yield clients, wide


@takes_long
@pytest.mark.timeout(300)
def test_parts_of_three_regions_are_one_answer_and_a_lost_one_costs_its_share(
    world: tuple[Clients, WideArea],
) -> None:
    clients, wide = world
    texts = sentences(90)
    documents = [IngestDocument(f"s{number}", text) for number, text in enumerate(texts)]
    clients["eu"].create_collection(WHOLE)
    clients["eu"].index(WHOLE, documents)
    for number, client in enumerate(clients.values()):
        client.create_collection(PARTS)
        client.index(PARTS, documents[number::3])
    eu = clients["eu"]
    eventually(lambda: merged(eu, texts[0]).coverage.fraction == 1.0, "they find each other")
    for text in texts[:20]:
        found, whole = merged(eu, f"what {text.lower()}"), eu.search(WHOLE, f"what {text.lower()}")
        assert columns(found) == columns(whole)
        assert found.degradations == ()
        assert {one.name: one.state for one in found.regions} == dict.fromkeys(
            NAMES, RegionState.ANSWERED
        )
    # No answer comes sooner than packets do.
    for status in eu.regions()[1:]:
        assert status.round_trip_s >= ROUND_TRIPS_S["eu", status.name]
    wide.cut("ap")
    try:
        dropped, began_s = wide.dropped, time.monotonic()
        found = merged(eu, texts[0], timeout_s=1.0)
        assert time.monotonic() - began_s < PATIENCE_S
        assert wide.dropped > dropped
        assert found.coverage.fraction == pytest.approx(2 / 3)
        assert {hit.region for hit in found.hits} == {"eu", "us"}
        kinds = [one.kind for one in found.degradations]
        assert kinds == [DegradationKind.REGION_MISSING]
        assert "ap" in found.degradations[0].detail
    finally:
        wide.heal()
    eventually(
        lambda: merged(eu, texts[0]).coverage.fraction == 1.0, "the lost region does not come back"
    )


def merged(client: NestvecClient, text: str, timeout_s: float = 5.0) -> SearchResult:
    return client.search(PARTS, text, regions="all", min_coverage=0.0, timeout_s=timeout_s)


def columns(result: SearchResult) -> list[tuple[str, float, str]]:
    return [(hit.id, hit.score, hit.text) for hit in result.hits]


@takes_long
@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_regions_cut_off_by_lost_packets_lose_nothing_acknowledged(
    world: tuple[Clients, WideArea],
) -> None:
    clients, wide = world
    chosen, history = random.Random(SEED), History()
    for number in range(ROUNDS):
        lost = chosen.choice(NAMES)
        dropped = wide.dropped
        cut_and_heal(clients, wide, lost, history, chosen)
        assert wide.dropped > dropped
        check_converged(clients, history, f"round {number}, {lost} was cut off")
    assert history.acknowledged > 50 * ROUNDS
