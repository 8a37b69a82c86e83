"""Commands of a cluster: up, status, scale, drain, down. All read the same cluster.yaml."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nestvec_cluster.cli_options import Json, out, tell

if TYPE_CHECKING:
    from nestvec_cluster.cluster_tables import ClusterStatus
    from nestvec_cluster.deploy import Deployment
    from nestvec_cluster.draining import Drained
    from nestvec_cluster.topology import Topology

Result = TypeVar("Result")

File = Annotated[
    Path,
    typer.Option("--file", "-f", envvar="NESTVEC_CLUSTER", help="The cluster's topology."),
]
DEFAULT_FILE = Path("cluster.yaml")


def opened(file: Path) -> Topology:
    """What the file says. Raises ConfigError, also where Ray is not installed."""
    from nestvec_cluster.ray_cluster import require_ray
    from nestvec_cluster.topology import load_topology

    require_ray()
    return load_topology(file)


@asynccontextmanager
async def joined(
    topology: Topology, tell: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Deployment]:
    """The deployment of a cluster that runs. Raises ConfigError where its Ray head is gone."""
    from nestvec_cluster.ray_cluster import connect
    from nestvec_cluster.supervisor import require_head

    require_head(topology)
    await asyncio.to_thread(connect, topology)
    from nestvec_cluster.deploy import Deployment

    async with AsyncExitStack() as stack:
        yield await Deployment.open(topology, stack, tell)


def with_deployment(
    topology: Topology,
    work: Callable[[Deployment], Awaitable[Result]],
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Do `work` with the deployment of a cluster that runs. Raises ConfigError."""

    async def inside() -> Result:
        async with joined(topology, tell) as deployment:
            return await work(deployment)

    return asyncio.run(inside())


def up(file: File = DEFAULT_FILE, as_json: Json = False) -> None:
    """Start a cluster, or make what runs equal to its file. Returns once it answers.

    Where the file names no Ray and no store, both are started on this machine, and a supervisor
    that keeps them alive. Run again it changes only what differs, one replica at a time.
    """
    from dataclasses import asdict

    from nestvec_cluster.supervisor import ensure_supervisor
    from nestvec_cluster.tables import dump_json

    topology = opened(file)
    started = time.monotonic()
    if topology.ray.address is None or topology.store.url is None:
        ensure_supervisor(file, topology)

    async def work(deployment: Deployment) -> tuple[dict[str, object], list[str]]:
        changes = await deployment.reconcile()
        view = await deployment.registry.view()
        fronts = [one.address for one in view.members if one.role.value == "query"]
        return {**asdict(changes), "unchanged": changes.none}, sorted(fronts)

    changes, addresses = with_deployment(topology, work, tell)
    took_s = time.monotonic() - started
    if as_json:
        facts = {"cluster": topology.name, "search": addresses, "seconds": took_s}
        typer.echo(dump_json({**facts, "changes": changes}))
        return
    if changes["unchanged"]:
        typer.echo(f"cluster {topology.name} runs as {file} says; nothing to change")
    else:
        typer.echo(f"cluster {topology.name} is up after {took_s:.1f} s")
    typer.echo(f"search at {', '.join(addresses)}")


def status(
    file: File = DEFAULT_FILE,
    watch: Annotated[bool, typer.Option("--watch", help="Again every second.")] = False,
    as_json: Json = False,
) -> None:
    """Show nodes, shards x replicas, front ends and encoders. Exit code 3: something is missing.

    With --watch until Ctrl-C; with --json too, each second a line.
    """
    from nestvec_cluster import cli_watch
    from nestvec_cluster.cli_group import EXIT_PARTIAL
    from nestvec_cluster.cluster_tables import print_status, status_data
    from nestvec_cluster.tables import dump_json

    topology = opened(file)
    if watch:
        cli_watch.watch(lambda: look(topology), out(), as_json)
        return
    found = asyncio.run(look(topology))
    if as_json:
        typer.echo(dump_json(status_data(found)))
    else:
        print_status(out(), found)
    if found.ray or found.unready:
        raise typer.Exit(EXIT_PARTIAL)


async def look(topology: Topology) -> ClusterStatus:
    """How a cluster is now, also where its Ray head is gone. Raises StoreUnavailable."""
    from nestvec.adapters.opening import open_registry
    from nestvec.core.errors import ConfigError
    from nestvec.core.members import MemberRole
    from nestvec_cluster.cluster_tables import ClusterStatus, NodeStatus
    from nestvec_cluster.pieces import all_groups, base_settings, encoder_plan
    from nestvec_cluster.ray_cluster import connect
    from nestvec_cluster.ray_room import alive_nodes
    from nestvec_cluster.supervisor import read_state, require_head

    settings = base_settings(topology)
    broken = ""
    nodes = []
    async with AsyncExitStack() as stack:
        registry = await open_registry(settings.store, settings.cluster, stack)
        view = await registry.view()
    try:
        require_head(topology)
        await asyncio.to_thread(connect, topology)
        nodes = [
            NodeStatus(one["NodeID"], one["NodeManagerAddress"], True, one["Resources"])
            for one in await asyncio.to_thread(alive_nodes)
        ]
    except ConfigError as error:
        broken = str(error)
    state = read_state(topology)
    base = "" if state is None else state.phase if state.supervisor.alive else "supervisor gone"
    slots = [piece.slot for group in all_groups(topology) for piece in group.pieces]
    if (plan := encoder_plan(topology)) is not None:
        there = [one.name for one in view.of_role(MemberRole.ENCODER)]
        slots += there + [f"encoder/?{n}" for n in range(len(there), plan.minimum)]
    return ClusterStatus(topology.name, view, nodes, slots, broken, base)


def scale(
    kind: Annotated[
        str, typer.Argument(help="query, ingest, encoder, or a pool: default, or a collection.")
    ],
    count: Annotated[int, typer.Argument(min=1, help="How many; of a pool, replicas of a shard.")],
    file: File = DEFAULT_FILE,
) -> None:
    """Run more or fewer of one kind, now. The next `up` goes back to the file: change it too."""
    topology = opened(file).scaled(kind, count)

    async def work(deployment: Deployment) -> str:
        changes = await deployment.reconcile(only=kind)
        done = (("started", changes.started), ("removed", changes.removed))
        return "; ".join(f"{what} {', '.join(slots)}" for what, slots in done if slots)

    said = with_deployment(topology, work, tell)
    typer.echo(said or f"{kind} runs {count} already; nothing to change")
    typer.echo(f"write it into {file} as well: the next `nestvec up` makes what runs equal to it")


def drain(
    what: Annotated[str, typer.Argument(help="A process, or a node, as `status` names it.")],
    file: File = DEFAULT_FILE,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Even the last ready one of its kind, or what no other node has room for.",
        ),
    ] = False,
) -> None:
    """Take a process out of service, or move all of a node to others: calls in flight finish.

    A process is started again by the next `up`, where it was. A node is emptied: one process after
    the other drains and starts on another node, so that another replica answers meanwhile; a shard
    that has one alone gets a second for so long. Where something has no room, nothing is changed.
    Then take the node out of Ray: whatever is started later may be placed there again.
    """
    topology = opened(file)

    async def work(deployment: Deployment) -> Drained:
        from nestvec_cluster.draining import Draining

        return await Draining(topology, deployment, force, tell).drain(what)

    done = with_deployment(topology, work, tell)
    if done.moved:
        typer.echo(f"moved {', '.join(done.moved)} to other nodes")
    if done.stopped:
        typer.echo(f"drained {', '.join(done.stopped)}; `nestvec up` starts them again")
    if done.left:
        typer.echo(
            f"{', '.join(done.left)} stay on {what}: encoder replicas start elsewhere by "
            f"themselves when the node ends"
        )
    if not (done.moved or done.stopped or done.left):
        typer.echo(f"no process of cluster {topology.name} runs on {what}")


def down(
    file: File = DEFAULT_FILE,
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Keep documents and layouts, for the next `up`.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Delete the local store's data without asking.")
    ] = False,
) -> None:
    """Stop everything that `up` started. Data of a store that it did not start is never deleted."""
    from nestvec.core.errors import ConfigError, NestvecError
    from nestvec_cluster.supervisor import stop_supervisor

    topology = opened(file)
    ours = topology.store.url is None and topology.data_dir.exists()
    if ours and not keep_data and not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"this would delete the documents in {topology.data_dir}; say --yes, or keep them "
                f"with --keep-data"
            )
        typer.confirm(f"delete the documents in {topology.data_dir}?", abort=True)

    async def work(deployment: Deployment) -> list[str]:
        slots = await deployment.take_down()
        if not keep_data:
            await deployment.registry.disband()
        return slots

    ended: list[str] = []
    try:
        ended = with_deployment(topology, work)
    except NestvecError as error:
        if topology.ray.address is not None:
            raise
        typer.echo(f"ending what is left: {error}", err=True)
    from nestvec_cluster.ray_cluster import disconnect

    disconnect()
    stop_supervisor(topology)
    if ours and not keep_data:
        shutil.rmtree(topology.data_dir, ignore_errors=True)
    typer.echo(f"cluster {topology.name} is down; {len(ended)} processes drained")


def add_to(app: typer.Typer) -> None:
    """Their place on the command line."""
    for command in (up, status, scale, drain, down):
        app.command()(command)
