"""A real cluster on this machine: what runs follows the file, and answers while processes die."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.adapters.opening import open_registry
from nestvec.client import NestvecClient
from nestvec.core.errors import NestvecError
from nestvec.core.members import ClusterView, Member, MemberState
from nestvec_cluster.pieces import base_settings
from nestvec_cluster.processes import with_descendants
from tests.support.listeners import listener
from tests.support.long_runs import takes_long
from tests.support.ray_cluster import DEPLOYED, RaySession

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
_TEXTS = [one.text for one in DEPLOYED]
_PATIENCE_S = 60.0
_ALL = 9
# Two replicas of the two shards of `docs`, and one of `written`.
_WORKERS = 5


@pytest.fixture
def cluster(deployed: RaySession) -> RaySession:
    return deployed


def search(cluster: RaySession, number: int = 0) -> Any:
    port = cluster.topology.query.port + number
    with NestvecClient(f"127.0.0.1:{port}", timeout_s=10) as client:
        return client.search("docs", _TEXTS[7], k=5, min_coverage=1.0)


def until(what: Callable[[], bool]) -> None:
    """Bounded."""
    deadline = time.monotonic() + _PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"not within {_PATIENCE_S:g} s"
        time.sleep(0.2)


def view(cluster: RaySession) -> ClusterView:
    """As the registry has it: without a command's second to start."""

    async def look() -> ClusterView:
        settings = base_settings(cluster.topology)
        async with AsyncExitStack() as stack:
            registry = await open_registry(settings.store, settings.cluster, stack)
            return await registry.view()

    return asyncio.run(look())


def members(cluster: RaySession) -> dict[str, Member]:
    """By name."""
    return {one.name: one for one in view(cluster).members}


def all_ready(cluster: RaySession, count: int = _ALL) -> bool:
    there = members(cluster).values()
    return len(there) == count and all(one.state is MemberState.READY for one in there)


def incarnations(cluster: RaySession) -> dict[str, int]:
    return {name: one.incarnation for name, one in members(cluster).items()}


def workers(cluster: RaySession) -> set[int]:
    """Pids of all coarse workers, as Ray names its actors."""
    state = cluster.state
    assert state.raylet is not None
    return {
        one.pid
        for one in with_descendants([state.raylet])
        if Path(f"/proc/{one.pid}/comm").read_text().startswith("ray::CoarseWorker"[:15])
    }


def a_worker(cluster: RaySession) -> int:
    """The pid of one that holds a part of `docs`."""
    return listener(int(members(cluster)["docs/2-0.0"].address.rpartition(":")[2])).pid


@contextmanager
def load(cluster: RaySession) -> Iterator[list[str]]:
    """Searches one after the other at both front ends; gives what failed or was not complete."""
    wrong: list[str] = []
    stop = threading.Event()
    asked = 0

    def ask() -> None:
        nonlocal asked
        first = cluster.topology.query.port
        with (
            NestvecClient(f"127.0.0.1:{first}", timeout_s=10) as one,
            NestvecClient(f"127.0.0.1:{first + 1}", timeout_s=10) as two,
        ):
            while not stop.is_set():
                for client in (one, two):
                    try:
                        hits = client.search("docs", _TEXTS[asked % 120], k=3, min_coverage=1.0)
                        if hits.hits[0].id != f"d{asked % 120}":
                            wrong.append(f"hit {hits.hits[0].id} for text {asked % 120}")
                    except NestvecError as error:
                        wrong.append(str(error))
                    asked += 1
                time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()
    assert asked > 10


def test_up_returns_when_all_of_it_answers(cluster: RaySession) -> None:
    for number in (0, 1):
        found = search(cluster, number)
        assert found.hits[0].id == "d7"
        assert found.coverage.fraction == 1.0
        assert found.coverage.shards_total == 2


def test_status_shows_every_process_and_what_it_holds(cluster: RaySession) -> None:
    ran = cluster.run("status", "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert told["ready"] is True
    members = {one["name"]: one for one in told["members"]}
    assert {f"docs/2-{shard}.{replica}" for shard in (0, 1) for replica in (0, 1)} < set(members)
    for replica in (0, 1):
        held = sum(members[f"docs/2-{shard}.{replica}"]["documents"] for shard in (0, 1))
        assert held == len(_TEXTS)
    table = cluster.run("status").out
    assert f"all {_ALL} ready" in table
    assert "docs/2-1.1" in table


def test_up_again_changes_nothing(cluster: RaySession) -> None:
    before = incarnations(cluster)
    ran = cluster.run("up", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["changes"]["unchanged"] is True
    assert incarnations(cluster) == before


def test_a_killed_worker_costs_no_answer_and_comes_back(cluster: RaySession) -> None:
    before = incarnations(cluster)
    victim = a_worker(cluster)
    assert victim in workers(cluster)
    assert len(workers(cluster)) == _WORKERS
    with load(cluster) as wrong:
        os.kill(victim, signal.SIGKILL)
        until(lambda: incarnations(cluster) != before)
        until(lambda: all_ready(cluster) and len(workers(cluster)) == _WORKERS)
    assert wrong == []
    after = incarnations(cluster)
    assert len([name for name in before if before[name] != after[name]]) == 1
    assert victim not in workers(cluster)


@takes_long
def test_sigterm_drains_and_ray_starts_it_again(cluster: RaySession) -> None:
    before = incarnations(cluster)
    with load(cluster) as wrong:
        victim = a_worker(cluster)
        os.kill(victim, signal.SIGTERM)
        until(lambda: incarnations(cluster) != before)
        until(lambda: all_ready(cluster) and len(workers(cluster)) == _WORKERS)
    assert wrong == []
    assert victim not in workers(cluster)


@takes_long
def test_scale_adds_and_the_file_takes_away(cluster: RaySession) -> None:
    ran = cluster.run("scale", "docs", "3")
    assert ran.code == 0, ran.err
    assert "docs/2-0.2, docs/2-1.2" in ran.out
    until(lambda: all_ready(cluster, _ALL + 2))
    assert members(cluster)["docs/2-1.2"].state is MemberState.READY
    with load(cluster) as wrong:
        ran = cluster.run("up", "--json")
    assert ran.code == 0, ran.err
    assert sorted(ran.json["changes"]["removed"]) == ["docs/2-0.2", "docs/2-1.2"]
    assert ran.json["changes"]["restarted"] == []
    assert wrong == []


@takes_long
def test_a_drained_process_is_missing_until_the_next_up(cluster: RaySession) -> None:
    assert cluster.run("drain", "docs/2-0.1").code == 0
    ran = cluster.run("drain", "docs/2-0.0")
    assert ran.code == 1
    assert "nobody else is ready to answer for docs/2-0.0" in ran.err
    ran = cluster.run("status", "--json")
    assert ran.code == 3
    assert ran.json["missing"] == ["docs/2-0.1"]
    assert search(cluster).coverage.fraction == 1.0
    ran = cluster.run("up", "--json")
    assert ran.json["changes"]["started"] == ["docs/2-0.1"]
    until(lambda: all_ready(cluster))
    ran = cluster.run("drain", "dogs/1-0.0")
    assert ran.code == 1
    assert "is no process of this cluster; there are: docs/2-0.0" in ran.err


@takes_long
def test_changed_settings_are_a_rolling_restart(cluster: RaySession) -> None:
    data = yaml.safe_load(cluster.file.read_text())
    data["coarse"]["exact_rows"] = 9_000
    cluster.file.write_text(yaml.safe_dump(data))
    with load(cluster) as wrong:
        ran = cluster.run("up", "--json")
    assert ran.code == 0, ran.err
    assert sorted(ran.json["changes"]["restarted"]) == [
        "docs/2-0.0",
        "docs/2-0.1",
        "docs/2-1.0",
        "docs/2-1.1",
        "written/1-0.0",
    ]
    assert wrong == []
    assert all_ready(cluster)


@takes_long
def test_a_gcs_that_is_killed_under_load_is_started_again(cluster: RaySession) -> None:
    before = cluster.state
    assert before.gcs is not None
    with load(cluster) as wrong:
        os.kill(before.gcs.pid, signal.SIGKILL)
        until(lambda: cluster.state.gcs_restarts == before.gcs_restarts + 1)
        until(lambda: cluster.run("status", "--json").json["ray"] == "ok")
    assert wrong == []
    # It is a working one: Ray restarts an actor again.
    victim = a_worker(cluster)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(cluster)) == _WORKERS)
    until(lambda: all_ready(cluster))
    assert search(cluster).coverage.fraction == 1.0


@takes_long
def test_a_collection_is_moved_by_command_and_up_follows_the_file(cluster: RaySession) -> None:
    with load(cluster) as wrong:
        ran = cluster.run("reshard", "docs", 3, "--replicas", 1)
        assert ran.code == 0, ran.err
        assert "filling docs/3" in ran.err
        assert "docs is held by docs/3" in ran.out
        assert "docs/2 is kept up to date until --finish" in ran.out
        assert search(cluster).coverage.shards_total == 3
        # What the file says of old never moves it back.
        ran = cluster.run("up")
        assert ran.code == 1
        assert "is held by docs/3" in ran.err
        assert "write `shards: 3`" in ran.err
        table = cluster.run("status").out
        assert "holds docs (current)" in table
        assert "holds docs (previous)" in table
        ran = cluster.run("reshard", "docs", "--rollback")
        assert ran.code == 0, ran.err
        assert search(cluster).coverage.shards_total == 2
        ran = cluster.run("reshard", "docs", "--finish")
        assert ran.code == 0, ran.err
    assert wrong == []
    until(lambda: all_ready(cluster))
    ran = cluster.run("reshard", "docs", 2)
    assert ran.code == 1
    assert "has 2 shards already" in ran.err


@takes_long
def test_a_node_is_drained_and_another_takes_over_what_it_had(cluster: RaySession) -> None:
    file = cluster.joining(
        "spread",
        collections={"docs": {"shards": 2, "replicas": 2}},
        coarse={"num_cpus": 0.25},
        query={"count": 1, "port": 0},
        ingest={"count": 1, "port": 0},
    )

    def told() -> dict[str, dict[str, Any]]:
        shown = cluster.run("status", "--json", file=file).json
        return {one["name"]: one for one in shown["members"]}

    ours = {one.node for one in members(cluster).values()}
    with cluster.node(num_cpus=4):
        ran = cluster.run("up", file=file)
        assert ran.code == 0, ran.err
        before = told()
        for shard in (0, 1):
            nodes = [one["node"] for one in before.values() if one["shard"] == shard]
            assert len(nodes) == len(set(nodes)) == 2
        # Front ends may stand on either; a node that this test started is the one that is drained.
        node = next(one["node"] for one in before.values() if one["node"] not in ours)
        there = {name for name, one in before.items() if one["node"] == node}
        ran = cluster.run("drain", node, "--force", file=file)
        assert ran.code == 0, ran.err
        assert set(told()) == set(before) - there
        # Where it was, while that is there.
        ran = cluster.run("up", "--json", file=file)
        assert ran.code == 0, ran.err
        assert set(ran.json["changes"]["started"]) == there
        until(lambda: there == {n for n, one in told().items() if one["node"] == node})
    # The node is gone: everything on the one that is left.
    ran = cluster.run("up", file=file)
    assert ran.code == 0, ran.err
    until(lambda: set(told()) == set(before))
    assert node not in {one["node"] for one in told().values()}
    ran = cluster.run("down", "--keep-data", file=file)
    assert ran.code == 0, ran.err


def test_a_changed_number_of_shards_is_pointed_to_reshard(cluster: RaySession) -> None:
    data = yaml.safe_load(cluster.file.read_text())
    data["collections"]["docs"]["shards"] = 4
    other = cluster.folder / "four.yaml"
    other.write_text(yaml.safe_dump(data))
    ran = cluster.run("up", file=other)
    assert ran.code == 1
    assert "held by docs/2" in ran.err
    assert "nestvec reshard" in ran.err
