"""kill -9 of the store, the coarse worker or the engine at random moments, under writes.

Afterwards every acknowledged document is read and found as it was acknowledged, none twice, no
deleted or replaced one is found, and `verify` has nothing to say. `make soak` runs 200 rounds.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from nestvec.client import AckName, IngestDocument, NestvecClient
from nestvec.core.errors import NestvecError
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S, Processes

Result = TypeVar("Result")
ROUNDS = int(os.environ.get("NESTVEC_FAULT_ROUNDS", "5"))
SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261124"))
WRITERS = 2
ACKS: tuple[AckName, ...] = ("stored", "searchable")
NAMES_PER_WRITER = 150
LONGEST_RUN_S = 1.5
COLLECTION = "faults"
WORDS = (
    "amber basin cedar delta ember fjord grove harbor island jungle kernel lagoon meadow nectar "
    "orchid prairie quartz river summit tundra umber valley willow yarrow zephyr anchor beacon"
)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


class Writer(threading.Thread):
    """Writes and deletes documents of its own until told to stop."""

    def __init__(self, number: int, address: str, history: History, seed: int) -> None:
        super().__init__(name=f"writer-{number}")
        self._random = random.Random(seed)
        self._names = [f"w{number}-{i}" for i in range(NAMES_PER_WRITER)]
        self._address = address
        self._history = history
        self.stopping = threading.Event()
        self.failures: list[str] = []

    def run(self) -> None:
        with NestvecClient(self._address, timeout_s=3.0) as client:
            while not self.stopping.is_set():
                try:
                    self._change(client)
                except NestvecError as error:
                    # What became of it is uncertain: the next operation is another one.
                    self.failures.append(str(error))
                    time.sleep(0.02)

    def _change(self, client: NestvecClient) -> None:
        chosen = self._random
        names = chosen.sample(self._names, chosen.choice([1, 1, 3, 20]))
        ack: AckName = chosen.choice(ACKS)
        if chosen.random() < 0.25:
            gone: dict[str, str | None] = dict.fromkeys(names)
            self._history.begin(gone)
            client.delete(COLLECTION, names, ack=ack)
            self._history.acknowledge(gone)
            return
        texts = {name: self._text(name) for name in names}
        written: dict[str, str | None] = dict(texts)
        self._history.begin(written)
        report = client.index(
            COLLECTION,
            [IngestDocument(name, text) for name, text in texts.items()],
            ack=ack,
            timeout_s=3.0,
        )
        refused = {failure.id for failure in report.failures}
        self._history.acknowledge({n: t for n, t in written.items() if n not in refused})

    def _text(self, name: str) -> str:
        words = " ".join(self._random.choices(WORDS.split(), k=6))
        return f"{name} revision {self._random.getrandbits(40):x} {words}"


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(processes: Processes) -> None:
    chosen = random.Random(SEED)
    history = History()
    with NestvecClient(processes.address, timeout_s=PATIENCE_S) as client:
        client.create_collection(COLLECTION, tiers=[128, 256])
        for number in range(ROUNDS):
            # Each role in turn, so that a short run kills all of them.
            role = Processes.ROLES[number % len(Processes.ROLES)]
            killed_after = run_round(processes, history, chosen, role)
            settle_and_check(client, processes, history, f"{number}: {role} {killed_after:.3f} s")
    assert history.acknowledged > 10 * ROUNDS


def run_round(processes: Processes, history: History, chosen: random.Random, role: str) -> float:
    """Write, kill in the middle, start again, write on. Returns when it was killed, in seconds."""
    writers = [
        Writer(number, processes.address, history, chosen.getrandbits(32))
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    killed_after = chosen.uniform(0.05, LONGEST_RUN_S)
    try:
        time.sleep(killed_after)
        processes.kill(role)
        time.sleep(chosen.uniform(0.0, 0.3))
        processes.start(role)
        time.sleep(0.3)
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(PATIENCE_S)
            assert not writer.is_alive(), "a writer hangs"
    return killed_after


def settle_and_check(
    client: NestvecClient, processes: Processes, history: History, when: str
) -> None:
    found = {}
    for names in batches(history.names(), 200):
        for document in patient(partial(client.get, COLLECTION, names)).documents:
            found[document.id] = document.text
    problems = history.settle(found)
    verification = patient(lambda: client.verify(COLLECTION))
    if not verification.clean:
        problems.append(f"verify: {verification}")
    problems += check_searches(client, history)
    logs = "\n".join(f"--- {role}\n{processes.log(role)}" for role in ("coarse", "engine"))
    assert not problems, f"round {when}\n" + "\n".join(problems[:20]) + f"\n{logs}"


def check_searches(client: NestvecClient, history: History) -> list[str]:
    """Some documents by their own texts, and some texts that no document has any more."""
    problems = []
    for name in random.Random(0).sample(history.names(), min(60, len(history.names()))):
        text = history.state(name)
        old = sorted(history.outdated(name))[:2]
        for query in filter(None, [text, *old]):
            hits = client.search(COLLECTION, query, k=20).hits
            mine = [hit.text for hit in hits if hit.id == name]
            if len(mine) > 1:
                problems.append(f"{name}: found {len(mine)} times by {query!r}")
            if any(one != text for one in mine):
                problems.append(f"{name}: found as {mine!r}, is {text!r}")
            if query == text and not mine:
                problems.append(f"{name}: not found by its own text {text!r}")
    return problems


def patient(call: Callable[[], Result]) -> Result:
    """What was killed is back, but connections to it may not be yet."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except NestvecError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
