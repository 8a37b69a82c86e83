"""What both clients know of the server at the other end: where it is, and how to speak to it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from nestvec.client.credentials import Credentials
from nestvec.client.traces import trace_headers
from nestvec.core.errors import ConfigError, InvalidRequest, NestvecError
from nestvec.core.space import Space
from nestvec.rpc.status import error_from

REQUEST_ID_KEY = "x-request-id"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# Finds a peer that vanished without a word, in the middle of a call.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
# Reads only: a write that was tried again after an unseen success would be done twice. gRPC obeys a
# server's push-back, and the throttle stops trying again when most calls fail (gRFC A6).
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "nestvec.v1.QueryService"},
                {"service": "nestvec.v1.AdminService", "method": "ListCollections"},
                {"service": "nestvec.v1.AdminService", "method": "DescribeCollection"},
                {"service": "nestvec.v1.AdminService", "method": "DescribeServer"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
}

Metadata = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Connection:
    """The settings of one client, and what it learnt.

    address: host:port, or one with a scheme that gRPC knows (unix:, dns:); several servers of one
    cluster with commas between. timeout_s: of a call that brings none. wait_for_ready: let calls
    wait, within their deadline, for a server that is still starting. request_id: makes the
    x-request-id of each call; without it the server does. credentials: None for a server that asks
    for none. spaces: of collections, as described once.
    """

    address: str
    timeout_s: float
    wait_for_ready: bool
    max_message_bytes: int
    request_id: Callable[[], str] | None
    credentials: Credentials | None = None
    spaces: dict[str, Space] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for address in self.addresses:
            if not address.rpartition(":")[2].strip() or ":" not in address:
                raise ConfigError(
                    f"address {self.address!r}: expected host:port, as in 127.0.0.1:7700, or "
                    f"several with commas between"
                )
            if self.credentials is not None:
                self.credentials.require_safe(address)
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(f"timeout_s {self.timeout_s}: expected more than 0 seconds")

    @property
    def addresses(self) -> list[str]:
        """One a server."""
        return [one.strip() for one in self.address.split(",")]

    def channels(self) -> list[grpc.Channel]:
        """One a server, for threads. Raises ConfigError for credentials that cannot be read."""
        if self.credentials is None:
            return [grpc.insecure_channel(one, options=self.options()) for one in self.addresses]
        from nestvec.rpc.channels import open_blocking_channel

        security = self.credentials.security()
        return [open_blocking_channel(one, self.options(), security) for one in self.addresses]

    def async_channels(self) -> list[grpc.aio.Channel]:
        """As `channels`, for the event loop that runs."""
        if self.credentials is None:
            return [
                grpc.aio.insecure_channel(one, options=self.options()) for one in self.addresses
            ]
        from nestvec.rpc.channels import open_channel

        security = self.credentials.security()
        return [open_channel(one, self.options(), security) for one in self.addresses]

    def options(self) -> list[tuple[str, int | str]]:
        """Of a channel."""
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            # Of several servers, trying again means trying another one: client/asking.py does.
            ("grpc.enable_retries", int(len(self.addresses) == 1)),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            # A proxy for the web has no business between a service and its search.
            ("grpc.enable_http_proxy", 0),
        ]

    def metadata(self) -> Metadata:
        """Of one call."""
        own = () if self.request_id is None else ((REQUEST_ID_KEY, self.request_id()),)
        return (*own, *trace_headers())

    def limit(self, timeout_s: float | None) -> float:
        """The seconds that a call may take. Raises InvalidRequest when there are none."""
        if timeout_s is None:
            return self.timeout_s
        if not 0 < timeout_s < math.inf:
            raise InvalidRequest("timeout_s", f"{timeout_s}, expected more than 0 seconds")
        return timeout_s

    def error(self, call: grpc.RpcError, method: str) -> NestvecError:
        """What a failed call means. The server's request id, where known, is added as a note."""
        error = error_from(call, f"{method} at {self.address}")
        trailers: Any = call.trailing_metadata() or ()
        for key, value in trailers:
            if key == REQUEST_ID_KEY:
                error.add_note(f"request id {value}")
        return error

    def learn(self, collection: str, space: Space) -> Space:
        """Keep the space that was described."""
        self.spaces[collection] = space
        return space

    def forget(self, collection: str) -> None:
        """Describe it again next time: it was made or dropped by this client."""
        self.spaces.pop(collection, None)
