"""A real HTTP server on loopback that speaks OpenAI's embeddings protocol, and can misbehave.

For tests, and for trying nestvec against an endpoint without one. Standard library only.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.ports import EmbeddingModel

Body = dict[str, Any]


class OpenAIDouble:
    """Serves `model` as `name` at `url` until closed.

    requests: the bodies received so far. faults: taken one a request, first to last; each is an
    HTTP answer (status, headers, raw body) given in place of the right one. change: edits every
    right answer before it is sent. delay_s: before every answer.
    """

    def __init__(self, model: EmbeddingModel, name: str = "served", key: str = "") -> None:
        self.model = model
        self.name = name
        self.key = key
        self.requests: list[Body] = []
        self.faults: list[tuple[int, dict[str, str], str]] = []
        self.change: Callable[[Body], object] | None = None
        self.delay_s = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """What to put into endpoint.url."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> OpenAIDouble:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def answer(self, path: str, key: str, body: Body) -> tuple[int, dict[str, str], str]:
        """Status, headers and body for one request."""
        self.requests.append(body)
        time.sleep(self.delay_s)
        if self.faults:
            return self.faults.pop(0)
        if self.key and key != f"Bearer {self.key}":
            return _refusal(401, f"Incorrect API key provided: {key}")
        if path != "/v1/embeddings" or body.get("model") != self.name:
            return _refusal(404, f"no model {body.get('model')!r} at {path}")
        vectors = self.model.embed(body["input"])
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body)}
            for index, vector in enumerate(vectors)
        ]
        # Backwards, as the protocol allows: `index` is what counts.
        answer: Body = {"object": "list", "model": self.name, "data": data[::-1]}
        changed = self.change(answer) if self.change else answer
        return 200, {}, json.dumps(changed)


def _encoded(vector: Floats, body: Body) -> object:
    if body.get("encoding_format") == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return np.asarray(vector, np.float64).tolist()


def _refusal(status: int, message: str) -> tuple[int, dict[str, str], str]:
    return status, {}, json.dumps({"error": {"message": message, "type": "invalid_request_error"}})


def _handler(double: OpenAIDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave together: apart, the second waits 40 ms for the first's receipt.
        wbufsize = -1

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            body = json.loads(self.rfile.read(length))
            status, headers, text = double.answer(
                self.path, self.headers.get("authorization", ""), body
            )
            content = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """A test's output is not the place for an access log."""

    return Handler
