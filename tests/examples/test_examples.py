"""Every example runs as it stands, against a real engine, and shows what it says it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import SharedEngine

FOLDER = Path(__file__).parents[2] / "examples"
EXPECTED = {
    "quickstart.py": ["4 documents can be found", "certificate: collection", "open(path)"],
    "async_searches.py": ["a stable sort -> a stable sort: passage", "parse JSON -> parse JSON"],
    "own_vectors.py": [
        "50 documents, 768 dimensions each",
        "nearest to d7: [('d7', 1.0)",
        "refused: the query vector is in space 0123456789abcdef",
        "what is stored: 1.0000",
    ],
    "ingest_with_errors.py": [
        "offset 500 (d500): invalid: document.text: empty",
        "1996 documents can be found, 4 were refused",
    ],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(name: str, engine: SharedEngine) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / name, engine.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for expected in EXPECTED[name]:
        assert expected in done.stdout
