"""Which workers hold which collections, where something else than Ray starts the workers: a
StatefulSet, systemd, a person. `nestvec up` and `nestvec reshard` do the same with Ray.

    python -m nestvec_cluster.layouts --config nestvec.yaml assign '*' default/2
    python -m nestvec_cluster.layouts --config nestvec.yaml move '*' default/4
    python -m nestvec_cluster.layouts --config nestvec.yaml back '*'
    python -m nestvec_cluster.layouts --config nestvec.yaml finish '*'
    python -m nestvec_cluster.layouts --config nestvec.yaml check default/4

`check` fails where a collection is held by a layout that is not listed: its workers must stay.
`move` needs workers of the wanted layout that run already, and returns once they are asked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from nestvec.adapters.opening import open_registry, open_shared_store
from nestvec.adapters.redis_acl import StoreRole
from nestvec.admin.app import StoredCatalogue
from nestvec.config import Settings, load_settings
from nestvec.core.errors import ConfigError, NestvecError, StoreUnavailable
from nestvec.core.members import Assignment, Layout
from nestvec.core.ports import Registry
from nestvec.membership.lease import TTL_HEARTBEATS
from nestvec_cluster.resharding import Resharding

_STORE_S = 300.0
_AGAIN_S = 2.0


async def assign(registry: Registry, name: str, layout: Layout) -> str:
    """Have a layout hold a collection that nobody holds yet, or "*". What was said before stays:
    another layout is then for `move`. Returns what holds it.
    """
    held = (await registry.view()).assignments.get(name)
    if held is None:
        try:
            await registry.assign(name, None, Assignment(layout))
        except ConfigError:  # another worker was first
            return await assign(registry, name, layout)
        return f"{name} is held by {layout} (pool/shards) from now on"
    if layout in held.layouts():
        return f"{name} is held by {held.current} (pool/shards), and {layout} follows it"
    return f"{name} is held by {held.current} (pool/shards); {layout} waits until it is moved there"


async def check(registry: Registry, layouts: Collection[Layout]) -> str:
    """That the workers of all layouts in use are among those that there will be. Raises
    ConfigError, naming what would have nobody.
    """
    for name, one in sorted((await registry.view()).assignments.items()):
        if lost := [str(layout) for layout in one.layouts() if layout not in layouts]:
            raise ConfigError(
                f"{name} is held by {one.current} (pool/shards), and {', '.join(lost)} would have "
                f"no workers; keep them, `move` {name!r} to the new layout and `finish` that first"
            )
    return "every collection keeps its workers"


async def take(steps: Resharding, step: str, layout: Layout | None, timeout_s: float) -> str:
    """One step of a move; see resharding.py. Returns how it stands. Raises ConfigError, or
    BudgetSpent where the workers are not filled in time; asking again goes on.
    """
    if step == "move":
        assert layout is not None
        now = await steps.assignment()
        if now.previous == layout:
            await steps.roll_back()
        elif now.left == layout:
            await steps.switch()
        elif now.current != layout:
            begun = await steps.begin(layout.shards)
            if begun != layout:
                await steps.roll_back()
                raise ConfigError(f"{layout}: a move keeps to the pool; expected {begun}")
            await steps.wait_until_filled(layout, timeout_s)
            await steps.switch()
    elif step == "back":
        await steps.roll_back()
    else:
        await steps.finish()
    now = await steps.assignment()
    kept = now.previous or now.left
    return f"held by {now.current} (pool/shards)" + (f"; {kept} is kept up to date" if kept else "")


async def run(settings: Settings, told: argparse.Namespace) -> str:
    """Returns what to print. Raises NestvecError."""
    async with AsyncExitStack() as stack:
        if told.step == "assign":
            registry = await _registry(settings, stack)
            return await assign(registry, told.name, told.layout)
        registry = await open_registry(settings.store, settings.cluster, stack)
        if told.step == "check":
            return await check(registry, told.layouts)
        store = await open_shared_store(settings.store, stack, StoreRole.OPERATOR)

        async def nothing(_: Layout) -> None:
            """Workers are started and ended elsewhere."""

        steps = Resharding(
            registry,
            told.name,
            StoredCatalogue(store).generations,
            nothing,
            nothing,
            TTL_HEARTBEATS * settings.cluster.heartbeat_s,
        )
        return await take(steps, told.step, getattr(told, "layout", None), told.timeout)


async def _registry(settings: Settings, stack: AsyncExitStack) -> Registry:
    """At the start of a cluster its store may start at the same time."""
    deadline_s = time.monotonic() + _STORE_S
    while True:
        try:
            return await open_registry(settings.store, settings.cluster, stack)
        except StoreUnavailable:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(_AGAIN_S)


def parsed_layout(text: str) -> Layout:
    """POOL/SHARDS."""
    pool, _, shards = text.rpartition("/")
    if not pool or not shards.isdigit() or not 1 <= int(shards) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r}: expected POOL/SHARDS, such as default/4")
    return Layout(pool, int(shards))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Which workers hold which collections.")
    parser.add_argument("--config", type=Path, required=True, help="nestvec.yaml of the cluster")
    steps = parser.add_subparsers(dest="step", required=True)
    for step in ("assign", "move", "back", "finish"):
        one = steps.add_parser(step)
        one.add_argument("name", help="a collection, or '*' for all without workers of their own")
        if step in ("assign", "move"):
            one.add_argument("layout", type=parsed_layout, help="POOL/SHARDS")
        one.add_argument("--timeout", type=float, default=3600.0, help="of move, in seconds")
    steps.add_parser("check").add_argument("layouts", type=parsed_layout, nargs="+")
    told = parser.parse_args(arguments)
    try:
        said = asyncio.run(run(load_settings(told.config), told))
    except NestvecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print(said)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
