"""The command line in this process, against the shared engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nestvec_cluster.cli import app
from tests.support.engine import SharedEngine


@dataclass(frozen=True, slots=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output."""
        return json.loads(self.out)


Nestvec = Callable[..., Ran]


def run_cli(*arguments: object, stdin: bytes | str | None = None) -> Ran:
    """Run one command as the shell would. What escapes as an exception fails the test."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def nestvec(engine: SharedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nestvec:
    """Runs commands that find the engine by the environment, with a state folder of their own."""
    monkeypatch.setenv("NESTVEC_ADDRESS", engine.address)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NESTVEC_COLLECTION", raising=False)
    return run_cli
