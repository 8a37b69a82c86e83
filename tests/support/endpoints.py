"""Encoder endpoints for the conformance suite: right ones, and ones with a fault of their own.

Both are real servers on loopback: one speaks OpenAI's protocol, one nestvec's gRPC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
import numpy as np

from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.models.openai_double import OpenAIDouble
from nestvec.core.arrays import Floats
from nestvec.core.codec import floats_to_bytes
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Prompts, Recipe, Role, Space
from nestvec.core.tiers import prepare
from nestvec.rpc.wire import role_from_wire, space_to_wire
from nestvec.v1 import common_pb2, encoder_pb2, encoder_pb2_grpc
from tests.nestvec.core.synthetic import unit

DIM = 64
TRAINED = (16, 32, 64)

# Vectors of one request -> what is answered in their place.
Change = Callable[[Floats, Sequence[str]], Any]


def a_model(recipe: Recipe | None = None, prompts: Prompts | None = None) -> HashModel:
    return HashModel(DIM, TRAINED, recipe=recipe, prompts=prompts)


@dataclass(frozen=True, slots=True)
class Fault:
    """What an endpoint does wrong. full: to full vectors. cut: to how a dimension is given;
    None refuses untrained ones and cuts, then renormalises. delay_s: before each answer.
    """

    full: Change = lambda vectors, _: vectors
    cut: Callable[[Floats, int], Floats] | None = None
    gives: tuple[int, ...] | None = TRAINED
    delay_s: float = 0.0


RIGHT = Fault()


class OpenAIEncoder(OpenAIDouble):
    """Serves unit vectors of a model's space, and shortens them, as `fault` has it."""

    def __init__(self, model: EmbeddingModel, fault: Fault = RIGHT) -> None:
        self.fault = fault
        super().__init__(cast("EmbeddingModel", _Embedding(self, model)))
        self.delay_s = fault.delay_s

    def answer(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        dim = body.get("dimensions")
        gives = self.fault.gives
        if dim is not None and gives is not None and dim not in gives:
            return 400, {}, f'{{"error": {{"message": "dimensions: {dim} was not trained"}}}}'
        return super().answer(path, key, body)


class _Embedding:
    """What the double asks for vectors: prepared, changed and cut, as the fault has it."""

    def __init__(self, server: OpenAIEncoder, model: EmbeddingModel) -> None:
        self._server = server
        self._model = model

    def embed(self, texts: Sequence[str]) -> Any:
        fault = self._server.fault
        vectors = fault.full(prepare(self._model.embed(texts), self._model.space), texts)
        dim = self._server.requests[-1].get("dimensions")
        if dim is None or isinstance(vectors, list):
            return vectors
        if fault.cut is not None:
            return fault.cut(vectors, dim)
        return unit(vectors[:, :dim])


@contextmanager
def openai_encoder(model: EmbeddingModel, fault: Fault = RIGHT) -> Iterator[str]:
    """Gives its base URL. The model is known as `served`."""
    with OpenAIEncoder(model, fault) as server:
        yield server.url


@contextmanager
def grpc_encoder(
    model: EmbeddingModel,
    change: Callable[[Floats, Sequence[str], Role], Floats] = lambda vectors, _texts, _role: (
        vectors
    ),
    announced: Space | None = None,
    applied: Prompts | None = None,
    delay_s: float = 0.0,
) -> Iterator[str]:
    """Gives its address. announced: what it says of itself, where that is not so. applied: the
    prompts that it puts in front, where those are not its own.
    """
    space = model.space
    prompts = applied or space.prompts

    class Servicer(encoder_pb2_grpc.EncoderServiceServicer):
        def Encode(self, request: encoder_pb2.EncodeRequest, context: Any) -> Any:
            time.sleep(delay_s)
            role = role_from_wire(request.role)
            texts = [prompts.apply(text, role) for text in request.texts]
            vectors = change(prepare(model.embed(texts), space), texts, role)
            return encoder_pb2.EncodeResponse(
                vectors=floats_to_bytes(np.ascontiguousarray(vectors, np.float32)),
                space=common_pb2.SpaceRef(fingerprint=space.fingerprint, dim=vectors.shape[1]),
            )

        def DescribeEncoder(self, request: Any, context: Any) -> Any:
            return encoder_pb2.DescribeEncoderResponse(space=space_to_wire(announced or space))

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()
