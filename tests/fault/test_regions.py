"""Three regions that replicate a collection, cut apart and healed while all of them are written to.

Each is an engine with a store of its own, behind proxies that let nothing through while cut.
While a region is cut off every search succeeds in every region, and says what it cannot know.
Afterwards all of them hold every acknowledged write, in its newest version, and nothing that was
deleted. `make soak` cuts 50 times, and each engine is a process of its own.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack

import pytest

from nestvec.client import NestvecClient
from nestvec.telemetry.logs import configure_logs
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S
from tests.fault.region_faults import (
    COLLECTION,
    check_converged,
    cut_and_heal,
    until_held,
)
from tests.support.long_runs import LONG
from tests.support.region_engines import as_process, in_this_process, region_engines

SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261129"))
NAMES = ("eu", "us", "ap")
ROUNDS = 50 if LONG else 1
# Processes take some seconds to start.
START = as_process if LONG else in_this_process
ONE_WAY_S = 0.005 if LONG else 0.0


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
            cut_and_heal(clients, regions, lost, history, chosen)
            check_converged(clients, history, f"round {number}, {lost} was cut off")
        assert history.acknowledged > 50 * ROUNDS
