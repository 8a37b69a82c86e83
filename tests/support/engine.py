"""A real engine for tests that only talk to it: one for the whole session, on a free port.

Tests share it, so each takes a collection of its own from `collection_name`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class SharedEngine:
    """address: host:port. The default model, an ephemeral store, default settings."""

    address: str


_numbers = itertools.count()


@pytest.fixture(scope="session")
def engine() -> Iterator[SharedEngine]:
    """The embedded engine in a thread with a loop of its own; its store goes with it."""
    # Here, so that tests that need no engine do not load one.
    from nestvec.config import load_settings
    from nestvec.telemetry.logs import configure_logs
    from nestvec_cluster.background import background_engine

    configure_logs("error")
    with background_engine(load_settings(None, {"server.port": 0})) as address:
        yield SharedEngine(address)


@pytest.fixture
def collection_name() -> str:
    """One that no other test uses. The test creates it."""
    return f"test-{next(_numbers)}"
