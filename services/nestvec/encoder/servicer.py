"""EncoderService over the encoders of a process."""

from __future__ import annotations

import time
from typing import Any

import grpc

from nestvec.core.budget import Budget
from nestvec.core.codec import floats_to_bytes
from nestvec.core.ports import Encoder, Encoders
from nestvec.membership.measures import Load
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.rpc.wire import role_from_wire, space_to_wire
from nestvec.telemetry import tracing
from nestvec.v1 import common_pb2, encoder_pb2, encoder_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Encodes texts. cap_s: the longest deadline. load: of all calls."""

    def __init__(self, encoders: Encoders, cap_s: float, load: Load | None = None) -> None:
        self._encoders = encoders
        self._cap_s = cap_s
        self._load = load or Load(1)

    async def Encode(
        self, request: encoder_pb2.EncodeRequest, context: Context
    ) -> encoder_pb2.EncodeResponse:
        """See encoder.proto."""
        role = role_from_wire(request.role)
        budget = Budget.of(time_left_s(context, self._cap_s), time.monotonic)
        with self._load.one():
            encoder = await self._encoder_of(request.fingerprint, budget.stage_s("encode"))
            vectors = await encoder.encode(list(request.texts), role, budget.left_s())
        space = encoder.space
        if (span := tracing.current()) is not None:
            span.set({"nestvec.texts": len(request.texts), "nestvec.role": role.value})
        return encoder_pb2.EncodeResponse(
            vectors=floats_to_bytes(vectors),
            space=common_pb2.SpaceRef(fingerprint=space.fingerprint, dim=space.dim),
        )

    async def DescribeEncoder(
        self,
        request: encoder_pb2.DescribeEncoderRequest,
        context: Context,
    ) -> encoder_pb2.DescribeEncoderResponse:
        """See encoder.proto."""
        left_s = time_left_s(context, self._cap_s)
        encoder = await self._encoder_of(request.fingerprint, left_s)
        return encoder_pb2.DescribeEncoderResponse(
            space=space_to_wire(encoder.space),
            spaces=[space_to_wire(one.encoder.space) for one in self._encoders.open_now],
        )

    async def _encoder_of(self, fingerprint: str, timeout_s: float) -> Encoder:
        if not fingerprint:
            return self._encoders.default
        return await self._encoders.by_fingerprint(fingerprint, timeout_s)


def mount(encoders: Encoders, cap_s: float, load: Load | None = None) -> Mounted:
    """For a server."""
    return Mounted(
        encoder_pb2.DESCRIPTOR,
        "EncoderService",
        EncoderServicer(encoders, cap_s, load),
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server,
    )
