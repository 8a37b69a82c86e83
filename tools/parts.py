"""Run the tests in parts, three at once: much of each is waiting for processes and what is late.

    python tools/parts.py [arguments of pytest]

The first part's output is shown as it comes, that of the others when all have ended. Whatever
starts a Ray is in one part: two of them at once would take each other's time. It is a part of its
own, since a cluster that is up takes a third of a core until the part ends. What runs torch is in
one part too: loading it takes ten seconds. The code is that of the first part that failed; one in
which nothing was selected has not failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent
AT_ONCE = 3
# What nobody names here is in the first part, which begins before these.
TORCH = (
    "tests/contract",
    "tests/examples",
    "tests/helm",
    "tests/integration",
    "tests/nestvec/adapters",
    "tests/nestvec/cross",
    "tests/nestvec/encoder",
    "tests/nestvec/training",
)
CLUSTER = ("tests/fault", "tests/nestvec_cluster")
_STARTS_RAY = "pytest.mark.ray"
NOTHING_SELECTED = 5


def parts() -> list[list[str]]:
    """What each gives pytest, in the order in which they begin. A folder of one is without what
    another one names of it.
    """
    ray = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if _STARTS_RAY in path.read_text(encoding="utf-8")
    ]
    every = (["tests"], TORCH, ray, CLUSTER)
    named = [one for part in every for one in part]
    return [[*part, *_without(part, named)] for part in every]


def _without(part: Sequence[str], named: Sequence[str]) -> list[str]:
    """Leaves out what lies in a folder of this part and is named elsewhere."""
    return [
        f"--ignore={one}"
        for one in named
        if one not in part and any(one.startswith(f"{folder}/") for folder in part)
    ]


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    if any(one.startswith("tests") for one in arguments):
        # Whoever names files wants those.
        return subprocess.call([*pytest, *arguments], cwd=ROOT)
    waiting = [[*pytest, *part, *arguments] for part in parts()]
    begun: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in waiting[1:]]
        try:
            while waiting or _running(begun):
                if waiting and len(_running(begun)) < AT_ONCE:
                    output = outputs[len(begun) - 1] if begun else None
                    command = waiting.pop(0)
                    begun.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output))
                else:
                    time.sleep(0.2)
        finally:
            # Nothing, unless this was told to stop.
            for one in _running(begun):
                one.terminate()
            for one in begun:
                one.wait()
        for output in outputs:
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
        sys.stdout.flush()
    codes = [one.returncode for one in begun]
    failed = [code for code in codes if code not in (0, NOTHING_SELECTED)]
    return failed[0] if failed else min(codes)


def _running(begun: Sequence[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    return [one for one in begun if one.poll() is None]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
