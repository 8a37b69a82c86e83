"""EncoderService over an encoder."""

from __future__ import annotations

from typing import Any

import grpc

from nestvec.core.codec import floats_to_bytes
from nestvec.core.ports import Encoder
from nestvec.membership.measures import Load
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.rpc.wire import role_from_wire, space_to_wire
from nestvec.v1 import common_pb2, encoder_pb2, encoder_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Encodes texts. cap_s: the longest deadline. load: of all calls."""

    def __init__(self, app: Encoder, cap_s: float, load: Load | None = None) -> None:
        self._app = app
        self._cap_s = cap_s
        self._load = load or Load(1)

    async def Encode(
        self, request: encoder_pb2.EncodeRequest, context: Context
    ) -> encoder_pb2.EncodeResponse:
        """See encoder.proto."""
        role = role_from_wire(request.role)
        left_s = time_left_s(context, self._cap_s)
        with self._load.one():
            vectors = await self._app.encode(list(request.texts), role, left_s)
        space = self._app.space
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
        return encoder_pb2.DescribeEncoderResponse(space=space_to_wire(self._app.space))


def mount(app: Encoder, cap_s: float, load: Load | None = None) -> Mounted:
    """For a server."""
    return Mounted(
        encoder_pb2.DESCRIPTOR,
        "EncoderService",
        EncoderServicer(app, cap_s, load),
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server,
    )
