"""A Ray cluster of two nodes on this machine, and what is done to it while it answers.

A fault is a context: entering it breaks something and gives the slots that have to come back as
other processes; leaving it mends what does not mend by itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from nestvec.adapters.opening import open_registry
from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.errors import NestvecError
from nestvec.core.members import ClusterView, Member, MemberRole, MemberState
from nestvec_cluster import supervisor
from nestvec_cluster.pieces import all_groups, base_settings, encoder_plan
from nestvec_cluster.processes import Identity, with_descendants
from tests.support.listeners import listener
from tests.support.ray_cluster import RaySession

SHARDS = 2
_NODE_CPUS = 4

Fault = Callable[["Cluster"], AbstractContextManager[list[str]]]


@dataclass
class Cluster:
    """What runs. pool: of the coarse workers. nodes: raylets beside the head's, newest last. stack:
    ends what faults start.
    """

    session: RaySession
    pool: str
    nodes: list[list[Identity]] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def add_node(self) -> None:
        """Another one; it is gone when the stack is closed."""
        self.nodes.append(self.stack.enter_context(self.session.node(_NODE_CPUS)))

    @property
    def fronts(self) -> list[str]:
        """Addresses of the query front ends; they do not change."""
        section = self.session.topology.query
        return [f"127.0.0.1:{section.port_of(number)}" for number in range(section.count)]

    @property
    def writing(self) -> str:
        """The address for writes."""
        return f"127.0.0.1:{self.session.topology.ingest.port}"

    @property
    def slots(self) -> list[str]:
        """Of all processes that should run, but for encoders: their scaler names those."""
        return [one.slot for group in all_groups(self.session.topology) for one in group.pieces]

    def view(self) -> ClusterView:
        """What the registry knows now. Raises StoreUnavailable."""

        async def look() -> ClusterView:
            settings = base_settings(self.session.topology)
            async with AsyncExitStack() as stack:
                registry = await open_registry(settings.store, settings.cluster, stack)
                return await registry.view()

        return asyncio.run(look())

    def member(self, slot: str) -> Member:
        """Of a process that runs."""
        return next(one for one in self.view().members if one.name == slot)

    def process(self, slot: str) -> Identity:
        """Whoever listens where a member says that it does."""
        return listener(_port(self.member(slot)))

    def incarnations(self) -> dict[str, int]:
        """By slot."""
        return {one.name: one.incarnation for one in self.view().members}

    def encoders(self) -> list[Member]:
        """Those that are asked now."""
        return [one for one in self.view().of_role(MemberRole.ENCODER) if one.is_ready]

    def healed(self, gone: dict[str, int], lag: int = 0) -> bool:
        """Whether all slots and enough encoders are ready and no more than `lag` documents wait to
        be indexed anywhere. gone: incarnations that have to have been succeeded by others.
        """
        state = self.session.state
        if state.phase != "running" or not all(
            one is not None and one.alive for one in (state.store, state.gcs, state.raylet)
        ):
            return False
        try:
            members = {one.name: one for one in self.view().members}
            encoders = [one for one in self.encoders() if one.incarnation != gone.get(one.name)]
        except NestvecError:
            return False
        plan = encoder_plan(self.session.topology)
        if plan is not None and len(encoders) < plan.minimum:
            return False
        return all(
            (member := members.get(slot)) is not None
            and member.state is MemberState.READY
            and member.incarnation != gone.get(slot)
            and member.facts.lag <= lag
            for slot in self.slots
        )

    def told(self) -> str:
        """How it is, for a message."""
        try:
            members = [f"{one.name} {one.state} {one.incarnation}" for one in self.view().members]
        except NestvecError as error:
            members = [str(error)]
        return f"{self.session.state}; members: {', '.join(members)}"

    def write_again(self, collection: str, document: IngestDocument) -> None:
        """A document that is there already, as it is: writing works, and no answer changes."""
        with NestvecClient(self.writing, timeout_s=30, wait_for_ready=True) as client:
            report = client.index(collection, [document])
        assert (report.indexed, report.failed) == (1, 0)


@contextmanager
def started(session: RaySession, pool: str) -> Iterator[Cluster]:
    """Of two nodes, as `nestvec up` starts it; every shard's replicas stand on different ones."""
    supervisor.ensure_supervisor(session.file, session.topology)
    with ExitStack() as stack:
        cluster = Cluster(session, pool, stack=stack)
        cluster.add_node()
        ran = session.run("up")
        assert ran.code == 0, ran.err
        places: dict[object, list[str]] = {}
        for member in cluster.view().of_role(MemberRole.COARSE):
            places.setdefault(member.place, []).append(member.node)
        assert all(len(set(nodes)) == 2 for nodes in places.values()), places
        yield cluster


# --- what may happen ------------------------------------------------------------------------------


def _kill(processes: Iterable[Identity]) -> None:
    for one in processes:
        one.send(signal.SIGKILL)


@contextmanager
def _killed(cluster: Cluster, *slots: str) -> Iterator[list[str]]:
    _kill([cluster.process(slot) for slot in slots])
    yield list(slots)


@contextmanager
def _stopped(cluster: Cluster, slot: str) -> Iterator[list[str]]:
    process = cluster.process(slot)
    process.send(signal.SIGSTOP)
    try:
        yield [slot]
    finally:
        process.send(signal.SIGCONT)


def kill_coarse_replica(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """Kill -9; Ray starts another one."""
    return _killed(cluster, _coarse(cluster, 0, 0))


def kill_query_front_end(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """Kill -9 of one of two."""
    return _killed(cluster, "query/0")


def kill_ingest(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """Kill -9 of the only one: nobody writes until it is back."""
    return _killed(cluster, "ingest/0")


@contextmanager
def kill_encoder_replica(cluster: Cluster) -> Iterator[list[str]]:
    """Kill -9 of one of two; no front end keeps vectors, so each query needs the other one."""
    (slot, *_) = sorted(one.name for one in cluster.encoders())
    with _killed(cluster, slot) as slots:
        yield slots


def kill_whole_shard(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """Kill -9 of both replicas: answers are without it until one is back."""
    return _killed(cluster, _coarse(cluster, 1, 0), _coarse(cluster, 1, 1))


def stop_coarse_replica(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """SIGSTOP, later SIGCONT: its lease ends meanwhile, and it still believes in it."""
    return _stopped(cluster, _coarse(cluster, 0, 1))


def stop_query_front_end(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """SIGSTOP: it takes connections and answers nothing."""
    return _stopped(cluster, "query/1")


@contextmanager
def kill_node(cluster: Cluster) -> Iterator[list[str]]:
    """Everything on it at once; what stood there moves to the other one."""
    raylet = cluster.nodes.pop()
    slots = _kept_on(cluster, raylet)
    assert slots, "nothing of the cluster stands on that node"
    _kill(with_descendants(raylet))
    yield slots


@contextmanager
def kill_gcs(cluster: Cluster) -> Iterator[list[str]]:
    """Ray's control server; it is started again and Ray restarts actors again."""
    gcs, restarts = cluster.session.state.gcs, cluster.session.state.gcs_restarts
    assert gcs is not None
    _kill([gcs])
    _wait_for(lambda: cluster.session.state.gcs_restarts > restarts)
    yield []


@contextmanager
def kill_redis(cluster: Cluster) -> Iterator[list[str]]:
    """The store, and the registry in it."""
    store, restarts = cluster.session.state.store, cluster.session.state.store_restarts
    assert store is not None
    _kill([store])
    _wait_for(lambda: cluster.session.state.store_restarts > restarts)
    yield []


def blackhole_coarse_replica(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """Its packets are dropped, both ways; it holds its lease."""
    return _filtered(cluster, "dport {port} drop", "sport {port} drop")


def refuse_coarse_replica(cluster: Cluster) -> AbstractContextManager[list[str]]:
    """Its connections are reset and refused; it holds its lease."""
    return _filtered(cluster, "dport {port} reject with tcp reset")


@contextmanager
def _filtered(cluster: Cluster, *rules: str) -> Iterator[list[str]]:
    if shutil.which("nft") is None or os.geteuid() != 0:
        pytest.skip("filtering packets needs nft (Debian: nftables) and root")
    table = f"nestvec_faults_{os.getpid()}"
    port = _port(cluster.member(_coarse(cluster, 1, 1)))
    lines = [
        f"table inet {table} {{",
        "chain input {",
        "type filter hook input priority 0",
        *(f"tcp {rule.format(port=port)}" for rule in rules),
        "}",
        "}",
    ]
    script = "".join(f"{line}\n" for line in lines)
    made = subprocess.run(
        ["nft", "-f", "-"], input=script, text=True, capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"nft cannot filter packets here: {made.stderr.strip()}")
    try:
        yield []
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)


# --- who is where ---------------------------------------------------------------------------------


def _coarse(cluster: Cluster, shard: int, replica: int) -> str:
    return f"{cluster.pool}/{SHARDS}-{shard}.{replica}"


def _kept_on(cluster: Cluster, raylet: list[Identity]) -> list[str]:
    """Slots of the processes that a node's raylet has started."""
    pids = {one.pid for one in with_descendants(raylet)}
    encoders = [one.name for one in cluster.encoders()]
    slots = [*cluster.slots, *encoders]
    return [slot for slot in slots if cluster.process(slot).pid in pids]


def _port(member: Member) -> int:
    return int(member.address.rpartition(":")[2])


def _wait_for(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        time.sleep(0.05)
