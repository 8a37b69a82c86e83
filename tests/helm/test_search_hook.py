"""`helm test` runs this against a release; here it runs against an engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nestvec import NestvecClient
from tests.support.chart import CHART
from tests.support.engine import SharedEngine


def test_it_finds_its_document_and_leaves_nothing(engine: SharedEngine, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(CHART / "files" / "search.py"), engine.address, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("found sea, ")
    with NestvecClient(engine.address) as client:
        assert "helm-test" not in [one.name for one in client.collections()]
