"""Where snapshots are kept follows from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvec.config import load_settings
from nestvec.core.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        ({}, None),
        ({"store.data_dir": "/data"}, "/data/snapshots"),
        ({"coarse.snapshots": "s3://bucket/x"}, "s3://bucket/x"),
        ({"coarse.snapshots": "/elsewhere", "store.data_dir": "/data"}, "/elsewhere"),
        ({"store.url": "redis://host"}, None),
    ],
)
def test_snapshots_stand_beside_the_data_unless_told_otherwise(
    overrides: dict[str, str], place: str | None
) -> None:
    settings = load_settings(None, overrides)
    assert settings.snapshots == place
    assert settings.coarse.snapshot_every_s == 300.0


def test_a_file_sets_them(tmp_path: Path) -> None:
    file = tmp_path / "nestvec.yaml"
    file.write_text("coarse:\n  snapshots: memory://x\n  snapshot_every_s: 0\n")
    settings = load_settings(file)
    assert (settings.snapshots, settings.coarse.snapshot_every_s) == ("memory://x", 0.0)


@pytest.mark.parametrize(
    ("key", "value"), [("coarse.snapshot_every_s", -1), ("coarse.snapshots", "")]
)
def test_what_makes_no_sense_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        load_settings(None, {key: value})
