"""What a new cluster must show before it counts as up: collections are made, searches answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from nestvec.client import AsyncNestvecClient
from nestvec.core.errors import (
    ConfigError,
    NestvecError,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.members import (
    EVERY_COLLECTION,
    ClusterView,
    MemberRole,
)
from nestvec_cluster.cli_credentials import credentials_of
from nestvec_cluster.topology import CollectionTopology, Topology

_LOOK_S = 0.1
_ANSWER_S = 30.0
# A worker that joins again, a store that fails over.
_PASSING = (StoreUnavailable, WorkerUnavailable)

_Answer = TypeVar("_Answer")


async def make_collections(
    topology: Topology, view: ClusterView, tell: Callable[[str], None]
) -> list[str]:
    """Those of the file that are not there yet; returns their names."""
    made = []
    async with _client(topology, _ready(view, MemberRole.INGEST)) as client:
        there = {one.name for one in await _patiently(client.collections, _PASSING)}
        for name, one in topology.collections.items():
            if name != EVERY_COLLECTION and name not in there:
                tell(f"creating collection {name}")
                create = partial(client.create_collection, name, exist_ok=True, **_design(one))
                await _patiently(create, _PASSING)
                made.append(name)
    return made


async def wait_for_answers(topology: Topology, view: ClusterView) -> None:
    """A front end of each kind answers for real: it describes, and it searches."""
    ingest, query = (_ready(view, role) for role in (MemberRole.INGEST, MemberRole.QUERY))

    async def ask() -> None:
        async with _client(topology, ingest) as client:
            named = [one.name for one in await client.collections()]
            for name in named:
                await client.describe(name)
        async with _client(topology, query) as client:
            for name in named:
                await client.search(name, "nestvec", min_coverage=0.0)

    await _patiently(ask, NestvecError)


async def _patiently(
    ask: Callable[[], Awaitable[_Answer]],
    passing: type[NestvecError] | tuple[type[NestvecError], ...],
) -> _Answer:
    """Again for `_ANSWER_S` while it fails with what may pass; what does not is raised."""
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            return await ask()
        except passing:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_LOOK_S)


def _client(topology: Topology, address: str) -> AsyncNestvecClient:
    """With what the cluster's own processes show each other."""
    credentials = credentials_of(topology.security)
    return AsyncNestvecClient(address, timeout_s=_ANSWER_S, credentials=credentials)


def _ready(view: ClusterView, role: MemberRole) -> str:
    """The address of one of them."""
    ready = [one for one in view.of_role(role) if one.is_ready]
    if not ready:
        raise ConfigError(f"no {role.value} front end is ready; `nestvec status` shows all")
    return ready[0].address


def _design(one: CollectionTopology) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if one.tiers:
        told["tiers"] = one.tiers
    if one.fields:
        told["fields"] = one.fields
    if one.dtype is not None:
        told["store_dtype"] = one.dtype
    return told
