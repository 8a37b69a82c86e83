"""Run the tests in three parts at once: much of each is waiting for processes to start.

    python tools/parts.py [arguments of pytest]

The first part's output is shown as it comes, the others' when it has ended. Whatever starts a Ray
is in one part: two of them at once would take each other's time. The code is that of the part that
failed; a part in which nothing was selected has not failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
# By what they took, about alike; what is new belongs to the last.
PARTS = (("tests/nestvec",), ("tests/fault", "tests/nestvec_cluster"))
NOTHING_SELECTED = 5


def parts() -> list[list[str]]:
    """Folders of each."""
    there = sorted(
        str(one.relative_to(ROOT))
        for one in (ROOT / "tests").iterdir()
        if one.name != "support" and (one.is_dir() and any(one.rglob("test_*.py")))
    )
    named = {one for part in PARTS for one in part}
    found = [[one for one in there if one in part] for part in PARTS]
    return [*found, [one for one in there if one not in named]]


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if any(one.startswith("tests") for one in arguments):
        # Whoever names files wants those.
        return subprocess.call([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    first, *others = parts()
    with ExitStack() as stack:
        beside = [_begun(part, arguments, stack) for part in others]
        codes = [subprocess.call([sys.executable, "-m", "pytest", *first, *arguments], cwd=ROOT)]
        for process, output in beside:
            codes.append(process.wait())
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
            sys.stdout.flush()
    failed = [code for code in codes if code not in (0, NOTHING_SELECTED)]
    return failed[0] if failed else min(codes)


def _begun(
    part: list[str], arguments: list[str], stack: ExitStack
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """One that runs beside, and where its output goes; ended with us."""
    output = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *part, *arguments],
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process, output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
