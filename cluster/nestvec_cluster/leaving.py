"""What a Ray node does before its pod ends: the processes of nestvec on it drain.

    python -m nestvec_cluster.leaving SECONDS

Each gets SIGTERM, tells the front ends, finishes its calls and gives up its lease; what is still
there after SECONDS is killed. Ray starts them again on the nodes that stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nestvec_cluster.actors import ACTORS
from nestvec_cluster.processes import Identity, end_all, with_words


def ours() -> list[Identity]:
    """Actors of nestvec on this machine: Ray names a process for its actor's class."""
    titles = {f"ray::{actor.__name__}" for actor in ACTORS.values()}
    return [
        identity
        for identity, words in with_words("ray::").items()
        if words[0].partition(".")[0] in titles
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Drain the processes of nestvec on this Ray node.")
    parser.add_argument("seconds", type=float, help="how long they may take")
    end_all(ours(), parser.parse_args(arguments).seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
