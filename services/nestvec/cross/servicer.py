"""CrossEncoderService over a pair scorer."""

from __future__ import annotations

from typing import Any

import grpc

from nestvec.core.codec import floats_to_bytes
from nestvec.core.ports import PairScorer
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.telemetry import tracing
from nestvec.v1 import cross_encoder_pb2, cross_encoder_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class CrossEncoderServicer(cross_encoder_pb2_grpc.CrossEncoderServiceServicer):
    """Scores pairs. cap_s: the longest deadline."""

    def __init__(self, scorer: PairScorer, cap_s: float) -> None:
        self._scorer = scorer
        self._cap_s = cap_s

    async def ScorePairs(
        self, request: cross_encoder_pb2.ScorePairsRequest, context: Context
    ) -> cross_encoder_pb2.ScorePairsResponse:
        """See cross_encoder.proto."""
        left_s = time_left_s(context, self._cap_s)
        scores = await self._scorer.score(request.query, list(request.texts), left_s)
        if (span := tracing.current()) is not None:
            span.set(
                {"nestvec.pairs": len(request.texts), "nestvec.cross_encoder": self._scorer.name}
            )
        return cross_encoder_pb2.ScorePairsResponse(
            scores=floats_to_bytes(scores), model=self._scorer.name
        )

    async def DescribeCrossEncoder(
        self, request: cross_encoder_pb2.DescribeCrossEncoderRequest, context: Context
    ) -> cross_encoder_pb2.DescribeCrossEncoderResponse:
        """See cross_encoder.proto."""
        return cross_encoder_pb2.DescribeCrossEncoderResponse(model=self._scorer.name)


def mount(scorer: PairScorer, cap_s: float) -> Mounted:
    """For a server."""
    return Mounted(
        cross_encoder_pb2.DESCRIPTOR,
        "CrossEncoderService",
        CrossEncoderServicer(scorer, cap_s),
        cross_encoder_pb2_grpc.add_CrossEncoderServiceServicer_to_server,
    )
