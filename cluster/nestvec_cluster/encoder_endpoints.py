"""Encoder endpoints as the conformance suite asks them: plainly, once, mending nothing.

nestvec's own adapters retry, check and normalise; here every answer counts as it came.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import grpc
import httpx2
import numpy as np

from nestvec.core.errors import ConfigError, NestvecError
from nestvec.core.space import Prompts, Role, Space
from nestvec.quality.endpoint import DimensionRefused, EndpointFailed, Row
from nestvec.rpc.status import error_from
from nestvec.rpc.wire import role_to_wire, space_from_wire
from nestvec.v1 import encoder_pb2, encoder_pb2_grpc
from nestvec_cluster.cli_credentials import channel_of

# How a server says that it will not: OpenAI and vLLM 400, TEI 413 and 422.
_REFUSALS = frozenset({400, 413, 422})
_QUOTED = 200


class GrpcEndpoint:
    """nestvec's EncoderService."""

    applies_prompts = True
    shortens = False

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = channel_of(address)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)
        self._space: Space | None = None

    def announced(self) -> Space:
        """The space that it says it serves. Raises EndpointFailed."""
        if self._space is None:
            request = encoder_pb2.DescribeEncoderRequest()
            response = self._call(self._stub.DescribeEncoder, request)
            try:
                self._space = space_from_wire(response.space)
            except NestvecError as error:
                raise EndpointFailed(f"announces no valid space: {error}") from None
        return self._space

    def encode(self, texts: Sequence[str], role: Role, dim: int | None = None) -> list[Row]:
        """See Endpoint. The answer says how long its vectors are."""
        assert dim is None, "the protocol gives full vectors only"
        request = encoder_pb2.EncodeRequest(texts=texts, role=role_to_wire(role))
        response = self._call(self._stub.Encode, request)
        length = response.space.dim
        if length < 1 or len(response.vectors) % (4 * length):
            raise EndpointFailed(
                f"answered {len(response.vectors)} bytes, which are no vectors of {length} "
                f"dimensions"
            )
        flat = np.frombuffer(response.vectors, "<f4").astype(np.float64)
        return list(flat.reshape(-1, length))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: Any, request: object) -> Any:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise EndpointFailed(f"did not answer within {self._timeout_s:g} s") from None
            raise EndpointFailed(str(error_from(error, self._address))) from None


class OpenAIEndpoint:
    """POST /embeddings. Prompts are put in front here, as a caller of such an endpoint must."""

    applies_prompts = False
    shortens = True

    def __init__(
        self, url: str, model: str, prompts: Prompts, timeout_s: float, api_key_env: str = ""
    ) -> None:
        """Raises ConfigError for a URL that is none, and for a key that is not set."""
        self._url = f"{url.rstrip('/')}/embeddings"
        self._model = model
        self._prompts = prompts
        self._timeout_s = timeout_s
        headers = {}
        if api_key_env:
            key = os.environ.get(api_key_env, "").strip()
            if not key:
                raise ConfigError(f"environment variable {api_key_env} holds no API key")
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx2.Client(timeout=timeout_s, headers=headers)

    def encode(self, texts: Sequence[str], role: Role, dim: int | None = None) -> list[Row]:
        """See Endpoint."""
        prompted = [self._prompts.apply(text, role) for text in texts]
        body: dict[str, object] = {
            "model": self._model,
            "input": prompted,
            "encoding_format": "float",
        }
        if dim is not None:
            body["dimensions"] = dim
        try:
            response = self._client.post(self._url, json=body)
        except httpx2.TimeoutException:
            raise EndpointFailed(f"did not answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise EndpointFailed(f"cannot be reached ({error})") from None
        if response.status_code != 200:
            said = " ".join(response.text.split())[:_QUOTED]
            kind = (
                DimensionRefused
                if dim is not None and response.status_code in _REFUSALS
                else EndpointFailed
            )
            raise kind(f"answered HTTP {response.status_code}: {said}")
        try:
            return _rows(response.json()["data"])
        except (ValueError, TypeError, KeyError) as error:
            raise EndpointFailed(f"answered what is no list of embeddings ({error})") from None

    def close(self) -> None:
        """Close connections."""
        self._client.close()


def _rows(data: list[dict[str, Any]]) -> list[Row]:
    """In the order of `index`, which the protocol lets differ from the order they stand in."""
    ordered = sorted(enumerate(data), key=lambda item: item[1].get("index", item[0]))
    rows = [np.asarray(one["embedding"], np.float64) for _, one in ordered]
    if any(row.ndim != 1 for row in rows):
        raise ValueError("an embedding is not a list of numbers")
    return rows
