"""A real cluster on this machine: what runs follows the file, and answers while processes die."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.adapters.opening import open_registry
from nestvec.client import NestvecClient
from nestvec.core.errors import NestvecError, WorkerUnavailable
from nestvec.core.members import ClusterView, Member, MemberState
from nestvec_cluster.pieces import base_settings
from nestvec_cluster.processes import with_descendants
from tests.support.cli import Ran
from tests.support.listeners import listener
from tests.support.long_runs import takes_long
from tests.support.ray_cluster import DEPLOYED, RaySession, free_ports

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
def repeated(ask: Callable[[int], None]) -> Iterator[list[str]]:
    """Asks again and again, on a thread; gives what went wrong."""
    wrong: list[str] = []
    stop = threading.Event()
    asked = 0

    def run() -> None:
        nonlocal asked
        while not stop.is_set():
            try:
                ask(asked)
            except (NestvecError, AssertionError) as error:
                wrong.append(str(error))
            asked += 1
            time.sleep(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()
    assert asked > 10


@contextmanager
def load(cluster: RaySession) -> Iterator[list[str]]:
    """Searches one after the other at both front ends; gives what failed or was not complete."""
    first = cluster.topology.query.port
    with (
        NestvecClient(f"127.0.0.1:{first}", timeout_s=10) as one,
        NestvecClient(f"127.0.0.1:{first + 1}", timeout_s=10) as two,
    ):

        def ask(number: int) -> None:
            n = number % 120
            for client in (one, two):
                hits = client.search("docs", _TEXTS[n], k=3, min_coverage=1.0).hits
                assert hits[0].id == f"d{n}", f"hit {hits[0].id} for text {n}"

        with repeated(ask) as wrong:
            yield wrong


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


def test_a_node_with_nowhere_to_go_is_not_drained(cluster: RaySession) -> None:
    before = members(cluster)
    node = before["docs/2-0.0"].node
    ran = cluster.run("drain", node)
    assert ran.code == 1
    assert "nobody else is ready to answer for ingest/0; start another replica first" in ran.err
    assert incarnations(cluster) == {name: one.incarnation for name, one in before.items()}


@takes_long
@pytest.mark.timeout(900)
def test_what_stands_on_a_drained_node_is_started_elsewhere_and_nothing_goes_unanswered(
    ray_session: RaySession,
) -> None:
    cluster = ray_session
    first = free_ports(20)
    # Nobody answers in place of its only worker, but one that is started for so long.
    alone = {"alone": {"shards": 1, "replicas": 1}}

    def written(**collections: Any) -> Path:
        return cluster.joining(
            "spread",
            collections={**alone, **collections},
            coarse={"num_cpus": 0.25},
            query={"count": 2, "port": first},
            ingest={"count": 2, "port": first + 10},
            timeouts={"drain_s": 5, "ready_s": 200},
        )

    def ran(*command: str) -> Ran:
        done = cluster.run(*command, file=file)
        assert done.code == 0, done.err
        return done

    def nodes() -> dict[str, str]:
        """Of each member."""
        shown = cluster.run("status", "--json", file=file).json
        return {one["name"]: one["node"] for one in shown["members"]}

    file = written()
    ran("up")
    home = nodes()["alone/1-0.0"]
    refused = cluster.run("drain", home, file=file)
    assert "nothing was drained, since alone/1-0.0 has no room on another node" in refused.err
    assert "1 x 0.25 CPU asked for, other nodes have free: none is there" in refused.err
    with ExitStack() as stack:
        stack.enter_context(cluster.node(num_cpus=4))
        file = written(docs={"shards": 1, "replicas": 2})
        ran("up")
        before = nodes()
        assert before["docs/1-0.0"] != before["docs/1-0.1"]
        with NestvecClient(f"127.0.0.1:{first + 10}", timeout_s=30) as client:
            for collection in ("docs", "alone"):
                client.index(collection, DEPLOYED[:20])
        wrong = stack.enter_context(load_on_either(first, ("docs", "alone")))
        done = ran("drain", home)
        there = sorted(name for name in before if before[name] == home)
        assert f"moved {', '.join(there)} to other nodes" in done.out
        assert "starting alone/1-0.1 beside alone/1-0.0" in done.err
        after = nodes()
        assert set(after) == set(before)
        assert home not in after.values()
        # The file and what runs agree: nothing goes back, and the one that was added is gone.
        assert ran("up", "--json").json["changes"]["unchanged"] is True
        assert wrong == []
    # The node is gone, and Ray was told to keep away from the other one.
    ran("up")
    until(lambda: nodes() == dict.fromkeys(before, home))
    ran("down", "--keep-data")


@contextmanager
def load_on_either(port: int, collections: Sequence[str]) -> Iterator[list[str]]:
    """As `load`, at two front ends of which one may be on its way, in several collections. Each
    time over a new connection: one that was refused is not tried again for seconds.
    """

    def ask(number: int) -> None:
        n = number % 20
        for collection in collections:
            answers = []
            for at in (port, port + 1):
                with (
                    suppress(WorkerUnavailable),
                    NestvecClient(f"127.0.0.1:{at}", timeout_s=10) as client,
                ):
                    answers.append(client.search(collection, _TEXTS[n], k=3, min_coverage=1.0))
            assert answers, f"nobody answered in {collection}"
            for one in answers:
                assert one.hits[0].id == f"d{n}", f"hit {one.hits[0].id} for text {n}"

    with repeated(ask) as wrong:
        yield wrong


def test_a_changed_number_of_shards_is_pointed_to_reshard(cluster: RaySession) -> None:
    data = yaml.safe_load(cluster.file.read_text())
    data["collections"]["docs"]["shards"] = 4
    other = cluster.folder / "four.yaml"
    other.write_text(yaml.safe_dump(data))
    ran = cluster.run("up", file=other)
    assert ran.code == 1
    assert "held by docs/2" in ran.err
    assert "nestvec reshard" in ran.err
