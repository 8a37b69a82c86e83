"""A release of the chart, run here: it answers whom it knows, and drains."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nestvec import NestvecClient
from nestvec.client import Credentials
from nestvec.core.errors import NestvecError
from tests.support.chart import CHART, pods, with_helm
from tests.support.chart_release import Release, started_store, until_healthy
from tests.support.long_runs import takes_long

pytestmark = [with_helm, takes_long, pytest.mark.timeout(300)]


@contextmanager
def installed(folder: Path) -> Iterator[tuple[Release, str]]:
    """And the address of its front end."""
    (folder / "store").mkdir()
    made = {pod.owner: pod for pod in pods("default")}
    with ExitStack() as stack:
        port = stack.enter_context(started_store(folder / "store"))
        release = Release("default", folder, port, stack)
        for index in (0, 1):
            worker = made["StatefulSet/nv-nestvec-coarse-default-1-0"]
            release.start(worker, f"127.0.77.{index + 1}", index)
        release.start(made["Deployment/nv-nestvec-ingest"], "127.0.77.3")
        address, health = release.start_front_end(made["Deployment/nv-nestvec-query"])
        for name, asked in {
            "coarse-0": "127.0.77.1:7701",
            "coarse-1": "127.0.77.2:7701",
            "ingest-0": "127.0.77.3:7701",
            "query-0": health,
        }.items():
            until_healthy(asked, release, name)
        yield release, address


def test_it_answers_only_whom_it_knows_and_drains(tmp_path: Path) -> None:
    with installed(tmp_path) as (release, address):
        hook: Any = [sys.executable, CHART / "files" / "search.py", address]
        done = subprocess.run([*hook, tmp_path / "client"], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr.decode() + release.log("query-0")
        # Whoever brings no certificate is not answered.
        stranger = Credentials(ca_file=tmp_path / "client" / "ca.crt")
        with (
            NestvecClient(address, timeout_s=3.0, credentials=stranger) as client,
            pytest.raises(NestvecError),
        ):
            client.collections()
        # One replica leaves, as at an upgrade; the other answers for the shard.
        worker = release.processes["coarse-0"]
        worker.send_signal(signal.SIGTERM)
        while worker.poll() is None:
            again = subprocess.run([*hook, tmp_path / "client"], check=False, capture_output=True)
            assert again.returncode == 0, again.stderr.decode()
        assert worker.returncode == 0, release.log("coarse-0")
