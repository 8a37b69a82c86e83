"""The cluster's commands: what they refuse, in words, and that `down` leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nestvec.client import IngestDocument, NestvecClient
from nestvec_cluster.processes import Identity, with_descendants, with_words
from tests.support.cli import run_cli
from tests.support.long_runs import takes_long
from tests.support.ray_cluster import RaySession, session

_SMALL = {
    "coarse": {"num_cpus": 0.25},
    "query": {"count": 1, "port": 0},
    "ingest": {"count": 1, "port": 0},
}


def test_a_file_that_is_wrong_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("name: demo\nquerry: {count: 2}\n")
    for command in (["up"], ["status"], ["scale", "query", "2"], ["drain", "x"], ["down"]):
        ran = run_cli(*command, "--file", file)
        assert ran.code == 1
        assert "querry: unknown key; did you mean 'query'?" in ran.err


def test_down_asks_before_it_deletes_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "cluster.yaml"
    data = tmp_path / "data"
    data.mkdir()
    file.write_text(yaml.safe_dump({"name": "demo", "store": {"data_dir": str(data)}}))
    ran = run_cli("down", "--file", file)
    assert ran.code == 1
    assert "--keep-data" in ran.err
    assert data.is_dir()


def test_a_port_in_use_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        file = tmp_path / "cluster.yaml"
        sections = {"name": "taken", "query": {"port": port}, "ray": {"port": 30_000}}
        file.write_text(yaml.safe_dump(sections))
        ran = run_cli("up", "--file", file)
    assert ran.code == 1
    assert f"query.port: port {port} is in use" in ran.err


def test_a_ray_head_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    sections = {"store": {"url": "redis://127.0.0.1:1"}, "ray": {"address": "127.0.0.1:9"}}
    file.write_text(yaml.safe_dump({"name": "gone", **sections}))
    ran = run_cli("up", "--file", file)
    assert ran.code == 1
    assert "no Ray head answers at 127.0.0.1:9" in ran.err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_cannot_be_placed_says_what_is_missing(ray_session: RaySession) -> None:
    large = {**_SMALL, "coarse": {"num_cpus": 5}, "collections": {"*": {"shards": 3}}}
    ran = ray_session.run("up", file=ray_session.joining("large", **large))
    assert ran.code == 1
    assert "needs 15.5 CPUs in pieces of 5, 0.25 (coarse, ingest, query), nodes have 8" in ran.err


@takes_long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gpus_that_no_node_has_are_refused(ray_session: RaySession) -> None:
    gpus = {**_SMALL, "coarse": {"num_cpus": 0.25, "num_gpus": 0.5}}
    ran = ray_session.run("up", file=ray_session.joining("gpus", **gpus))
    assert ran.code == 1
    assert "GPUs are asked for (coarse) and no node has any" in ran.err


@takes_long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_clusters_cannot_share_a_namespace(ray_session: RaySession) -> None:
    first = ray_session.joining("first", **_SMALL)
    ran = ray_session.run("status", "--json", file=first)
    assert ran.code == 3, ran.err
    store = yaml.safe_load(first.read_text())["store"]
    second = ray_session.joining("second", **_SMALL, store=store)
    ran = ray_session.run("up", file=second)
    assert ran.code == 1
    assert "first" in ran.err
    assert "second" in ran.err


@takes_long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_of_another_protocol_is_refused(ray_session: RaySession, tmp_path: Path) -> None:
    current = ray_session.joining("protocols", **_SMALL)
    assert ray_session.run("status", file=current).code == 3
    topology = yaml.safe_load(current.read_text())
    config = tmp_path / "nestvec.yaml"
    sections = {
        "store": topology["store"],
        "server": {"port": 0},
        "cluster": {"name": "protocols"},
    }
    config.write_text(yaml.safe_dump(sections))
    old = (
        "import nestvec.core.members as members\n"
        "members.PROTOCOL = 0\n"
        "from nestvec.coarse.main import mounted\n"
        "from nestvec.core.members import MemberRole\n"
        "from nestvec.serving import run_main\n"
        "raise SystemExit(run_main(mounted, 'an old worker', MemberRole.COARSE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", old, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "protocol" in done.stderr


@takes_long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_down_leaves_nothing_and_keeps_what_it_is_told_to() -> None:
    with session("alone", collections={"docs": {"shards": 1, "replicas": 1}}) as alone:
        assert alone.run("up").code == 0
        topology = alone.topology
        port = topology.ingest.port
        with NestvecClient(f"127.0.0.1:{port}", timeout_s=30) as client:
            client.index("docs", [IngestDocument("a", "a text that is kept")])
        started = everything(alone)
        assert len(started) > 6
        ran = alone.run("down", "--keep-data")
        assert ran.code == 0, ran.err
        assert [one for one in started if one.alive] == []
        assert with_words(str(alone.folder)) == {}
        for ports in topology.fixed_ports().values():
            assert [one for one in ports if listens(one)] == []
        # Its documents are there again; then its Ray head goes for good.
        assert alone.run("up").code == 0
        with NestvecClient(f"127.0.0.1:{topology.query.port}", timeout_s=30) as client:
            assert client.search("docs", "a text that is kept").hits[0].id == "a"
        raylet = alone.state.raylet
        assert raylet is not None
        os.kill(raylet.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while alone.state.phase != "head-gone":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for command in (["up"], ["scale", "query", "3"]):
            ran = alone.run(*command)
            assert ran.code == 1
            assert "`nestvec down --keep-data`" in ran.err
        assert alone.run("status").code == 3
        ran = alone.run("down", "--yes")
        assert ran.code == 0, ran.err
        assert with_words(str(alone.folder)) == {}
        assert not topology.data_dir.exists()


def everything(cluster: RaySession) -> list[Identity]:
    state = cluster.state
    bases = (state.supervisor, state.store, state.gcs, state.raylet)
    return with_descendants([one for one in bases if one is not None])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
