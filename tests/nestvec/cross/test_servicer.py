"""A cross-encoder behind gRPC answers as the one in this process, and refuses as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from nestvec.core.errors import InvalidRequest, WorkerUnavailable, WouldNotFit
from nestvec.cross import servicer
from nestvec.cross.app import CrossEncoderApp
from nestvec.rpc.clients import RemotePairScorer
from nestvec.rpc.server import Server, ServerLimits
from tests.support.cross_encoders import NumberedPairs
from tests.support.faults import PATIENT_S


@pytest.fixture
async def app() -> AsyncIterator[CrossEncoderApp]:
    app = CrossEncoderApp(NumberedPairs())
    yield app
    await app.close()


@pytest.fixture
async def remote(app: CrossEncoderApp) -> AsyncIterator[RemotePairScorer]:
    server = Server([servicer.mount(app, 10.0)], ServerLimits(drain_s=0.1))
    port = await server.start("127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    yield await RemotePairScorer.connect(channel)
    await channel.close()
    await server.stop()


async def test_scores_and_name_come_back(remote: RemotePairScorer, app: CrossEncoderApp) -> None:
    texts = ["text 3", "text 1", "no number"]
    scores = await remote.score("q", texts, PATIENT_S)
    assert scores.tolist() == (await app.score("q", texts, PATIENT_S)).tolist() == [3.0, 1.0, 0.0]
    assert remote.name == "numbered"
    assert (await remote.score("q", [], PATIENT_S)).shape == (0,)


async def test_it_refuses_what_would_not_fit(
    remote: RemotePairScorer, app: CrossEncoderApp
) -> None:
    app._measured_s = float("inf")
    for count in (1, 2, 4, 8):
        app._batcher._costs.note(count * 10, count * 100.0)
    with pytest.raises(WouldNotFit, match="cross_encode would take about") as caught:
        await remote.score("q", ["text 3"], 5.0)
    assert caught.value.stage == "cross_encode"


async def test_bad_input_and_a_closed_one_are_told(
    remote: RemotePairScorer, app: CrossEncoderApp
) -> None:
    with pytest.raises(InvalidRequest, match="1,025 texts"):
        await remote.score("q", ["text"] * 1025, PATIENT_S)
    await app.close()
    with pytest.raises(WorkerUnavailable, match="closed"):
        await remote.score("q", ["text 3"], PATIENT_S)
