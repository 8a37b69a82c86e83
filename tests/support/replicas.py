"""A cluster's view that a test writes, and replicas that do what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.collection import Collection
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    ClusterView,
    Layout,
    Member,
    MemberRole,
    MemberState,
    Place,
)
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseHits,
    CoarseQuery,
    ShardVerification,
    SnapshotInfo,
    TierDifference,
    TierStatus,
)
from nestvec.core.space import Role, Space
from nestvec.core.watermark import Watermark
from nestvec.fanout.replica import Connection, Peer
from tests.support.faults import Faults

LAYOUT = Layout("docs", 2)
QUERY = CoarseQuery("docs", 1, "f", np.ones((1, 4), np.float32), 4, 10, None)
DOCS = Collection("docs", Space("scripted", 4, trained_dims=(2, 4)), 4, (2, 4), generation=1)


def a_worker(
    name: str,
    shard: int = 0,
    incarnation: int = 1,
    layout: Layout = LAYOUT,
    state: MemberState = MemberState.READY,
    address: str = "",
) -> Member:
    """A coarse worker; its address is its name unless told otherwise."""
    return Member(
        name,
        MemberRole.COARSE,
        address or name,
        incarnation=incarnation,
        state=state,
        place=Place(layout, shard),
    )


def an_encoder(name: str, fingerprint: str, state: MemberState = MemberState.READY) -> Member:
    return Member(name, MemberRole.ENCODER, name, "", 1, state, fingerprint=fingerprint)


@dataclass
class WrittenViews:
    """Fills fanout.following.Views."""

    view: ClusterView = field(default_factory=lambda: ClusterView(0))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def changed(self) -> None:
        await self._changed.wait()

    def show(
        self,
        *members: Member,
        assignments: Mapping[str, Assignment] | None = None,
        promised: Mapping[tuple[Layout, int], Mapping[str, int]] | None = None,
    ) -> None:
        """A new view."""
        if assignments is None:
            assignments = {EVERY_COLLECTION: Assignment(LAYOUT)}
        self.view = ClusterView(self.view.revision + 1, members, assignments, promised or {})
        self._changed.set()
        self._changed = asyncio.Event()

    def lose(self, name: str) -> None:
        """One is no member any more."""
        left = [one for one in self.view.members if one.name != name]
        self.show(*left, assignments=self.view.assignments, promised=self.view.promised)

    def turn(self, name: str, state: MemberState) -> None:
        """One is in another state."""
        members = [
            replace(one, state=state) if one.name == name else one for one in self.view.members
        ]
        self.show(*members, assignments=self.view.assignments, promised=self.view.promised)


class ScriptedShard:
    """A replica whose calls fail as `faults` says. Fills ports.CoarseSearcher. position: of each
    partition. cancelled: searches that were given up.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.faults = Faults()
        self.documents = 7
        self.positions: dict[int, int] = {}
        self.moved = asyncio.Event()
        self.verification = ShardVerification([], 7, np.empty(0, np.int64))
        self.inspection = Inspection.unknown(0)
        self.cancelled = 0

    async def _begin(self, what: str) -> None:
        try:
            await self.faults.begin(what)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def calls(self, what: str) -> int:
        return self.faults.calls.count(what)

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        await self._begin("search")
        ids = np.array([len(self.name)], np.int64)
        ones = np.ones(1, np.float32)
        hits = CoarseHits(ids, ones, 0 * ones, None)
        return CoarseAnswer([hits] * len(query.queries), self.documents, self.documents)

    async def open(self, collection: Collection) -> int:
        await self._begin("open")
        return self.documents

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        await self._begin("reach")
        while not watermark.reached_by(self.positions):
            await self.moved.wait()

    def move(self, partition: int, position: int) -> None:
        """It has read on."""
        self.positions[partition] = position
        self.moved.set()
        self.moved = asyncio.Event()

    async def progress(self, collection: Collection) -> Watermark:
        await self._begin("progress")
        return Watermark(collection.generation, dict(self.positions))

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        await self._begin("snapshot")
        return SnapshotInfo(self.name, self.documents, 1)

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        await self._begin("verify")
        return self.verification

    async def settle(self, collection: Collection) -> None:
        await self._begin("settle")

    async def drop(self, name: str, generation: int) -> None:
        await self._begin("drop")

    async def status(self, collection: Collection) -> list[TierStatus]:
        await self._begin("status")
        return [TierStatus(4, self.documents, 0, (), 1)]

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        await self._begin("names")
        return [f"{self.name}/{one}" for one in ids.tolist()]

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        await self._begin("inspect")
        return self.inspection


class ScriptedEncoder:
    """Fills ports.Encoder. All its vectors are in one direction."""

    def __init__(self, name: str, space: Space) -> None:
        self.name = name
        self.space = space
        self.faults = Faults()

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        await self.faults.begin("encode")
        return np.tile(np.eye(1, self.space.dim, dtype=np.float32), (len(texts), 1))


@dataclass
class Desk(Generic[Peer]):
    """Connects to scripted peers by (address, incarnation), and keeps who was hung up on."""

    peers: dict[tuple[str, int], Peer] = field(default_factory=dict)
    connected: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def connect(self, member: Member) -> Connection[Peer]:
        self.connected.append(member.name)

        async def close() -> None:
            self.closed.append(member.name)

        return Connection(self.peers[member.address, member.incarnation], close)


def a_difference(dim: int, documents: int, missing: int = 0, surplus: int = 0) -> TierDifference:
    return TierDifference(dim, documents, missing, surplus, documents, 0)
