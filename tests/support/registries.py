"""Members, layouts and registries for tests of a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from nestvec.core.members import Layout, Member, MemberRole, Place
from nestvec.core.ports import Registry

PATIENT_S = 30.0
LAYOUT = Layout("docs", 2)


def a_member(name: str = "query/1", role: MemberRole = MemberRole.QUERY) -> Member:
    """One that has not joined."""
    return Member(name, role, "127.0.0.1:7700", node="here", version="1")


def a_worker(shard: int = 0, replica: int = 0, layout: Layout = LAYOUT) -> Member:
    """A coarse worker that has not joined."""
    return Member(
        f"{layout}-{shard}.{replica}",
        MemberRole.COARSE,
        f"127.0.0.1:{7800 + 10 * shard + replica}",
        place=Place(layout, shard),
    )


async def names_of(registry: Registry) -> list[str]:
    """Whoever is there."""
    return [member.name for member in (await registry.view()).members]


async def until(met: Callable[[], bool], what: str, every_s: float = 0.01) -> None:
    """Wait for it; fail where it does not come."""
    deadline = time.monotonic() + PATIENT_S
    while not met():
        assert time.monotonic() < deadline, f"not within {PATIENT_S:g} s: {what}"
        await asyncio.sleep(every_s)
