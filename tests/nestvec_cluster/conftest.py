"""The command line against the shared engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvec.core.document import Document
from nestvec_cluster.corpus import stdlib_passages
from tests.support.cli import Nestvec, run_cli
from tests.support.engine import SharedEngine


@pytest.fixture
def nestvec(engine: SharedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nestvec:
    """Runs commands that find the engine by the environment, with a state folder of their own."""
    monkeypatch.setenv("NESTVEC_ADDRESS", engine.address)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NESTVEC_COLLECTION", raising=False)
    return run_cli


@pytest.fixture(scope="session")
def stdlib() -> list[Document]:
    """`stdlib_passages()`, which takes some seconds to read."""
    return stdlib_passages()
