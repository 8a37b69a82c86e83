"""kill -9 of the store, the coarse worker or the engine at random moments, under writes.

Afterwards every acknowledged document is read and found as it was acknowledged, none twice, no
deleted or replaced one is found, and `verify` has nothing to say. `make soak` runs 200 rounds.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestvec.client import NestvecClient
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S, Processes
from tests.fault.writing import Writer, check

ROUNDS = int(os.environ.get("NESTVEC_FAULT_ROUNDS", "3"))
SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261124"))
WRITERS = 2
LONGEST_RUN_S = 1.5
COLLECTION = "faults"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


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
            when = f"round {number}: {role} {killed_after:.3f} s"
            check(client, processes, COLLECTION, history, when)
    assert history.acknowledged > 10 * ROUNDS


def run_round(processes: Processes, history: History, chosen: random.Random, role: str) -> float:
    """Write, kill in the middle, start again, write on. Returns when it was killed, in seconds."""
    writers = [
        Writer(number, processes.address, COLLECTION, history, chosen.getrandbits(32))
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
            writer.stop()
    return killed_after
