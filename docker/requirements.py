"""The requirements of nestvec and of some of its extras, one a line, without nestvec itself.

    python requirements.py pyproject.toml EXTRA,EXTRA

So that an image's layer of libraries does not change with nestvec's own code.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Raises SystemExit for an extra that there is not, and for both FAISS wheels at once."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    if unknown := [one for one in extras if one not in known]:
        raise SystemExit(f"{', '.join(unknown)}: no such extra; there are {', '.join(known)}")
    if len({"cpu", "gpu"} & set(extras)) != 1:
        raise SystemExit("take one of the extras cpu and gpu: both install the module faiss")
    return project["dependencies"] + [line for one in extras for line in known[one]]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2].split(","))))
