"""What the command line of one process says outranks its file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nestvec import serving
from nestvec.config import Settings
from nestvec.core.errors import ConfigError
from nestvec.rpc.server import Mounted


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Settings:
    """The settings that a process with these arguments serves with."""
    found: list[Settings] = []

    def serve(settings: Settings, *_: object) -> None:
        found.append(settings)

    async def opener(*_: object) -> list[Mounted]:
        return []

    monkeypatch.setattr(serving, "run", serve)
    monkeypatch.setattr(sys, "argv", ["main", *arguments])
    code = serving.run_main(opener, "nothing")
    if code:
        raise ConfigError("refused")
    return found[0]


def test_it_outranks_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "nestvec.yaml"
    config.write_text("coarse: {shards: 4, shard: 1}\nserver: {port: 1}\n")
    told = [
        "--set=coarse.replica=3",
        "--set",
        "cluster.advertise=10.0.0.7:7700",
        "--set=server.port=0",
    ]
    settings = said(monkeypatch, "--config", str(config), *told)
    assert (settings.coarse.shard, settings.coarse.replica) == (1, 3)
    assert settings.cluster.advertise == "10.0.0.7:7700"
    assert settings.server.port == 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("coarse.replica", "expected SECTION.KEY=VALUE"),
        ("replica=1", "expected SECTION.KEY=VALUE"),
        ("coarse.replcia=1", "did you mean 'replica'"),
        ("coarse.replica=first", "coarse.replica"),
    ],
)
def test_what_it_cannot_mean_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    message: str,
) -> None:
    with pytest.raises(ConfigError):
        said(monkeypatch, f"--set={argument}")
    assert message in capsys.readouterr().err
