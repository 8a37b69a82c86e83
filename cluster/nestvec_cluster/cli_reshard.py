"""`nestvec reshard`: another number of shards for a collection, while it serves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from nestvec_cluster.cli_cluster import DEFAULT_FILE, File, opened, with_deployment
from nestvec_cluster.cli_options import tell

if TYPE_CHECKING:
    from nestvec.core.members import Assignment
    from nestvec_cluster.deploy import Deployment
    from nestvec_cluster.resharding import Resharding, ShardState
    from nestvec_cluster.topology import Topology


def reshard(
    collection: Annotated[
        str, typer.Argument(help="Its name; '*' for all that have no workers of their own.")
    ],
    shards: Annotated[
        int | None, typer.Argument(help="How many it is to have: 1 to its partitions, 64.")
    ] = None,
    file: File = DEFAULT_FILE,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Of each new shard; by default as many as before."),
    ] = None,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback", help="Go back to the layout before, or give up an unfilled one."
        ),
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Give up the layout before; after that no way back.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait until the new one is filled.")
    ] = 3600.0,
) -> None:
    """Change the number of shards of a collection while it serves and takes writes.

    New workers are filled beside those that serve, then all searches go to them at once. The old
    workers stay and follow, for --rollback, until --finish. Interrupted, it may be run again.
    """
    from nestvec.core.errors import ConfigError

    if rollback and (finish or shards is not None):
        raise ConfigError(
            "--rollback stands alone: without a number of shards and without --finish"
        )
    if shards is None and not rollback and not finish:
        raise ConfigError("say how many shards, or --finish, or --rollback")
    topology = opened(file)

    async def work(deployment: Deployment) -> str:
        async with AsyncExitStack() as stack:
            steps = await _steps(topology, deployment, collection, replicas, stack)
            if rollback:
                after = await steps.roll_back()
                return f"{collection} is held by {after.current} again{_kept(after)}"
            if shards is not None:
                await _move(steps, collection, shards, timeout_s)
            after = await (steps.finish() if finish else steps.assignment())
            return f"{collection} is held by {after.current} (pool/shards){_kept(after)}"

    said = with_deployment(topology, work, tell)
    typer.echo(said)
    typer.echo(f"write the number of shards into {file} as well: `nestvec up` refuses another one")


async def _steps(
    topology: Topology,
    deployment: Deployment,
    collection: str,
    replicas: int | None,
    stack: AsyncExitStack,
) -> Resharding:
    from nestvec.adapters.opening import open_shared_store
    from nestvec.adapters.redis_acl import StoreRole
    from nestvec.admin.app import StoredCatalogue
    from nestvec.core.members import Layout
    from nestvec.membership.lease import TTL_HEARTBEATS
    from nestvec_cluster.pieces import base_settings
    from nestvec_cluster.resharding import Resharding

    store = await open_shared_store(base_settings(topology).store, stack, StoreRole.OPERATOR)
    view = await deployment.registry.view()
    assignment = view.assignment(collection)
    asked = topology.layouts()
    before = 1
    if assignment is not None:
        there = [len(view.workers(assignment.current, n)) for n in range(assignment.current.shards)]
        before = asked.get(assignment.current, max(there, default=1)) or 1

    async def start(layout: Layout) -> None:
        await deployment.start_layout(layout, replicas or asked.get(layout, before))

    return Resharding(
        deployment.registry,
        collection,
        StoredCatalogue(store).generations,
        start,
        deployment.stop_layout,
        TTL_HEARTBEATS * topology.timeouts.heartbeat_s,
    )


async def _move(steps: Resharding, collection: str, shards: int, timeout_s: float) -> None:
    from nestvec.core.errors import BudgetSpent, ConfigError
    from nestvec.core.members import EVERY_COLLECTION, Layout

    now = await steps.assignment()
    pool = now.current.pool if collection == EVERY_COLLECTION else collection
    wanted = Layout(pool, shards)
    if now.previous == wanted:
        await steps.roll_back()  # it was filled, and is kept up to date
        return
    if now.left == wanted:
        await steps.switch()  # as above
        return
    if now.previous is not None and now.current.shards == shards:
        return  # an earlier run of this command got as far
    layout = await steps.begin(shards)
    said = ""

    def show(states: Sequence[ShardState]) -> None:
        nonlocal said
        ready = sum(bool(one.ready) for one in states)
        documents = sum(one.documents for one in states)
        line = f"filling {layout}: {ready} of {len(states)} shards ready, {documents:,} documents"
        if line != said:
            tell(line)
        said = line

    try:
        await steps.wait_until_filled(layout, timeout_s, show)
    except BudgetSpent:
        raise ConfigError(
            f"{layout} is not filled after {timeout_s:g} s ({said}); the move of {collection} is "
            f"still under way: run this again to go on waiting, or `nestvec reshard {collection} "
            f"--rollback` to give it up; `nestvec status` shows its workers"
        ) from None
    await steps.switch()


def _kept(assignment: Assignment) -> str:
    if assignment.left is not None:
        again = f"`nestvec reshard` to {assignment.left.shards} shards asks it again"
        return f"; {assignment.left} is kept up to date until --finish ({again})"
    if assignment.previous is None:
        return ""
    return f"; {assignment.previous} is kept up to date until --finish (--rollback goes to it)"


def add_to(app: typer.Typer) -> None:
    """Its place on the command line."""
    app.command()(reshard)
