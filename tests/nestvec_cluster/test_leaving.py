"""A Ray node that leaves has its own processes of nestvec drain, and touches no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nestvec_cluster import leaving
from nestvec_cluster.processes import Identity

# As Ray does it: a process bears the name of its actor's class, and of what it is about.
_NAMED = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("on", flush=True)
time.sleep(60)
"""


@contextmanager
def named(title: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line begins with `title`."""
    with subprocess.Popen(
        [title, "-c", _NAMED], executable=sys.executable, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("title", ["ray::CoarseWorker", "ray::EncoderReplica.report"])
def test_ours_are_told_to_drain(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with named(title) as worker, named("ray::IDLE") as other:
        found = leaving.ours()
        assert Identity.of(other.pid) not in found
        # A pod sees its own processes only; other tests may run actors on this machine.
        mine = [one for one in found if one.pid == worker.pid]
        assert mine
        monkeypatch.setattr(leaving, "ours", lambda: mine)
        assert leaving.main(["5"]) == 0
        assert worker.wait(5) == 7
        assert other.poll() is None
