"""A release with runtime kuberay, run here: the head's own script starts Ray, and has `nestvec up`
fill it beside front ends that run elsewhere. Ray's tables are in the bundled store.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nestvec_cluster.processes import end_all, with_descendants, with_words
from tests.support.chart import CHART, pods, with_helm
from tests.support.chart_release import (
    FILES,
    PASSWORD,
    Release,
    started_store,
    store_client,
    until_healthy,
)
from tests.support.long_runs import takes_long
from tests.support.stores import free_port

pytestmark = [with_helm, takes_long, pytest.mark.ray, pytest.mark.timeout(400)]
_PATIENCE_S = 150.0
# As KubeRay writes it, with what the chart's rayStartParams say, and this machine's one address.
_START = (
    "{bin}/ray start --head --num-cpus=3 --num-gpus=0 --include-dashboard=false --port={port} "
    "--object-store-memory=83886080 --node-ip-address=127.0.0.1 --redis-username=ray "
    "--redis-password={password} --temp-dir={temp} --disable-usage-stats --block"
)


@contextmanager
def head(folder: Path, port: int, store_port: int) -> Iterator[Path]:
    """The head's container; what it says. Everything that it started is gone afterwards."""
    bin_folder = Path(sys.executable).parent
    # A short path: Ray's sockets stand below it.
    temp = Path(f"/tmp/nv-ray-{os.getpid()}")
    script = (FILES / "ray-head.sh").read_text(encoding="utf-8")
    (folder / "head.sh").write_text(script.replace("/etc/nestvec", str(folder)))
    said = folder / "head.log"
    environment = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "OPENBLAS_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "t" * 64,
        "RAY_worker_niceness": "0",
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{store_port}",
        "RAY_external_storage_namespace": "nestvec-ray",
        "RECONCILE_S": "2",
        "KUBERAY_GEN_RAY_START_CMD": _START.format(
            bin=bin_folder, port=port, password=PASSWORD, temp=temp
        ),
    }
    with said.open("wb") as log:
        process = subprocess.Popen(
            ["sh", str(folder / "head.sh")],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield said
    finally:
        # As a container's end: the whole group, and those that left it.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        end_all(with_descendants(with_words(str(temp))), 10.0)


def test_the_head_fills_ray_beside_front_ends_that_run_elsewhere(tmp_path: Path) -> None:
    made = {pod.owner: pod for pod in pods("ray")}
    with ExitStack() as stack:
        store_port = stack.enter_context(started_store(tmp_path / "store"))
        release = Release("ray", tmp_path, store_port, stack)
        port = free_port()
        topology = release.file("nv-nestvec-ray", "cluster.yaml")
        topology = topology.replace("nv-nestvec-head-svc:6379", f"127.0.0.1:{port}")
        (tmp_path / "cluster.yaml").write_text(topology)
        release.start(made["Deployment/nv-nestvec-ingest"], "127.0.78.1")
        address, health = release.start_front_end(made["Deployment/nv-nestvec-query"])
        until_healthy("127.0.78.1:7701", release, "ingest-0")
        until_healthy(health, release, "query-0")
        said = stack.enter_context(head(tmp_path, port, store_port))
        hook: Any = [sys.executable, CHART / "files" / "search.py", address, tmp_path / "client"]
        deadline = time.monotonic() + _PATIENCE_S
        while (done := subprocess.run(hook, check=False, capture_output=True)).returncode:
            assert time.monotonic() < deadline, said.read_text() + done.stderr.decode()
            time.sleep(1.0)
        assert done.stdout.startswith(b"found sea")
        # Run again it changes nothing.
        deadline = time.monotonic() + _PATIENCE_S
        while "nothing to change" not in said.read_text():
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.5)
        rays = store_client(store_port, "ray")
        assert next(rays.scan_iter(match="RAYnestvec-ray*", count=1000))
