"""Encoders of one space answer for each other, and those of another space never do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nestvec.core.errors import InvalidRequest, Overloaded, WorkerUnavailable
from nestvec.core.members import MemberState
from nestvec.core.ports import Encoder
from nestvec.core.space import Role, Space
from nestvec.fanout import replicated_encoder
from nestvec.fanout.replicated_encoder import ReplicatedEncoder
from tests.support.faults import PATIENT_S, eventually, hanging, raising
from tests.support.replicas import Desk, ScriptedEncoder, WrittenViews, an_encoder
from tests.support.rooms import SpyLog

SPACE = Space("scripted", 4, trained_dims=(2, 4))
OTHER = Space("other", 4, trained_dims=(2, 4))


class Encoders:
    """encoder over the members that `views` shows."""

    def __init__(self) -> None:
        self.views = WrittenViews()
        self.desk: Desk[Encoder] = Desk()
        self.encoder = ReplicatedEncoder(self.views, SPACE, self.desk.connect)

    def peer(self, name: str, space: Space = SPACE) -> ScriptedEncoder:
        peer = ScriptedEncoder(name, space)
        self.desk.peers[name, 1] = peer
        return peer

    async def encode(self, role: Role = Role.QUERY, timeout_s: float = PATIENT_S) -> None:
        vectors = await self.encoder.encode(["a", "b"], role, timeout_s)
        assert vectors.shape == (2, 4)


@pytest.fixture
async def encoders() -> AsyncIterator[Encoders]:
    built = Encoders()
    yield built
    await built.encoder.close()


async def test_members_of_another_space_are_never_asked_and_that_is_said(
    encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpyLog()
    monkeypatch.setattr(replicated_encoder, "_log", log)
    mine, other = encoders.peer("e0"), encoders.peer("e1", OTHER)
    encoders.views.show(an_encoder("e0", SPACE.fingerprint), an_encoder("e1", OTHER.fingerprint))
    encoders.encoder.start()
    for _ in range(20):
        await encoders.encode()
    assert len(mine.faults.calls) == 20
    assert other.faults.calls == []
    assert encoders.desk.connected == ["e0"]
    (line,) = log.named("fanout.encoder_of_another_space")
    assert line["member"] == "e1"
    encoders.views.lose("e0")
    with pytest.raises(WorkerUnavailable, match=rf"{SPACE.fingerprint}.*e1 \({OTHER.fingerprint}"):
        await encoders.encode()
    assert other.faults.calls == []


async def test_what_one_encoder_cannot_do_another_does(encoders: Encoders) -> None:
    bad, good = encoders.peer("e0"), encoders.peer("e1")
    encoders.views.show(*(an_encoder(name, SPACE.fingerprint) for name in ("e0", "e1")))
    encoders.encoder.start()
    bad.faults.always("encode", raising(Overloaded("full")))
    for role in Role:
        for _ in range(10):
            await encoders.encode(role)
    assert len(good.faults.calls) == 20
    bad.faults.always("encode", raising(InvalidRequest("texts.0", "empty")))
    good.faults.always("encode", raising(InvalidRequest("texts.0", "empty")))
    with pytest.raises(InvalidRequest):
        await encoders.encode()


async def test_queries_are_hedged_and_documents_are_not(encoders: Encoders) -> None:
    peers = [encoders.peer("e0"), encoders.peer("e1")]
    encoders.views.show(*(an_encoder(name, SPACE.fingerprint) for name in ("e0", "e1")))
    encoders.encoder.start()
    counts = encoders.encoder.group.hedging.counts

    async def some_call() -> bool:
        return any(peer.faults.calls for peer in peers)

    for role, hedges, retries in ((Role.QUERY, 1, 0), (Role.DOCUMENT, 1, 1)):
        for peer in peers:
            peer.faults.calls.clear()
            peer.faults.before["encode"] = [hanging]
        task = asyncio.create_task(encoders.encode(role, timeout_s=3.0))
        await eventually(some_call)
        idle = peers[0] if peers[1].faults.calls else peers[1]
        idle.faults.heal()
        await task
        assert (counts.hedges, counts.retries) == (hedges, retries)


async def test_only_ready_encoders_are_asked_and_none_is_an_error(encoders: Encoders) -> None:
    encoders.peer("e0")
    encoders.views.show(an_encoder("e0", SPACE.fingerprint, MemberState.STARTING))
    encoders.encoder.start()
    with pytest.raises(WorkerUnavailable, match=r"encoder scripted .*e0 is starting"):
        await encoders.encode()
    encoders.views.turn("e0", MemberState.READY)
    await encoders.encode()
