"""Run the tests in parts at once: much of each is waiting for processes and for what is late.

    python tools/parts.py [arguments of pytest]

The first part's output is shown as it comes, that of the others when it has ended. Whatever starts
a Ray is in the last: two of them at once would take each other's time. What runs torch is in one
part too: loading it takes ten seconds. The code is that of the first part that failed; one in which
nothing was selected has not failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A folder that nobody names here is in the first part.
OTHERS = (
    (
        "tests/contract",
        "tests/examples",
        "tests/helm",
        "tests/integration",
        "tests/nestvec/adapters",
        "tests/nestvec/encoder",
        "tests/nestvec/cross",
    ),
    ("tests/fault", "tests/nestvec_cluster"),
)
NOTHING_SELECTED = 5


def parts() -> list[list[str]]:
    """Folders and files of each."""
    named = {one for part in OTHERS for one in part}
    there = sorted(_tests("tests") + _tests("tests/nestvec"))
    first = [one for one in there if one not in named and one != "tests/nestvec"]
    return [first, *([one for one in part if one in there] for part in OTHERS)]


def _tests(folder: str) -> list[str]:
    return [
        str(one.relative_to(ROOT))
        for one in (ROOT / folder).iterdir()
        if one.match("test_*.py") or (one.is_dir() and any(one.rglob("test_*.py")))
    ]


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    if any(one.startswith("tests") for one in arguments):
        # Whoever names files wants those.
        return subprocess.call([*pytest, *arguments], cwd=ROOT)
    first, *others = parts()
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in others]
        beside = []
        try:
            for part, output in zip(others, outputs, strict=True):
                command = [*pytest, *part, *arguments]
                beside.append(
                    subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
                )
            codes = [subprocess.call([*pytest, *first, *arguments], cwd=ROOT)]
            codes += [one.wait() for one in beside]
        except BaseException:
            # It stops what it started.
            for one in beside:
                one.terminate()
            for one in beside:
                one.wait()
            raise
        for output in outputs:
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
        sys.stdout.flush()
    failed = [code for code in codes if code not in (0, NOTHING_SELECTED)]
    return failed[0] if failed else min(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
