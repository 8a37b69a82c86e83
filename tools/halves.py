"""Run the tests in two halves at once, one a core: much of each is waiting for processes to start.

    python tools/halves.py [arguments of pytest]

The first half's output is shown as it comes, the second's when the first has ended. Whatever starts
a Ray is in the second: two of them at once would take each other's time. The code is that of the
half that failed; a half in which nothing was selected has not failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECOND = ("tests/contract", "tests/examples", "tests/fault", "tests/helm", "tests/nestvec_cluster")
NOTHING_SELECTED = 5


def halves() -> tuple[list[str], list[str]]:
    """Folders and files of each, so that one that is new belongs to the first."""
    there = sorted(
        str(one.relative_to(ROOT))
        for one in (ROOT / "tests").iterdir()
        if one.name != "support" and (one.is_dir() and any(one.rglob("test_*.py")))
    )
    return [one for one in there if one not in SECOND], [one for one in there if one in SECOND]


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if any(one.startswith("tests") for one in arguments):
        # Whoever names files wants those.
        return subprocess.call([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    first, second = halves()
    with tempfile.TemporaryFile() as output:
        beside = subprocess.Popen(
            [sys.executable, "-m", "pytest", *second, *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = subprocess.call([sys.executable, "-m", "pytest", *first, *arguments], cwd=ROOT)
            codes = [code, beside.wait()]
        except BaseException:
            # It stops what it started.
            beside.terminate()
            beside.wait()
            raise
        output.seek(0)
        sys.stdout.write(output.read().decode(errors="replace"))
        sys.stdout.flush()
    failed = [code for code in codes if code not in (0, NOTHING_SELECTED)]
    return failed[0] if failed else min(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
