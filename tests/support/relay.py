"""A TCP relay between a client and a server that can be cut, in the middle of a message too."""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_POLL_S = 0.02


class Relay:
    """Listens on a port of its own. After a cut, connections are reset and new ones refused."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        # Each end to the other, and which of them are clients.
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._bytes_left = math.inf
        self._muted = False
        self._thread = threading.Thread(target=self._run, name="relay")

    def cut(self, after_bytes: int = 0) -> None:
        """Reset everything once the client has sent so many more bytes; they still arrive."""
        self._bytes_left = after_bytes

    def mute(self) -> None:
        """From now on the client hears nothing of what the server says."""
        self._muted = True

    def wait_until_cut(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the client sent less than that"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()
        self._thread.join()

    def _run(self) -> None:
        while self._bytes_left > 0:
            readable, _, _ = select.select([self._listener, *self._peers], [], [], _POLL_S)
            for ready in readable:
                if ready is self._listener:
                    self._accept()
                elif ready in self._peers:
                    self._pass_on(ready)
        for end in (self._listener, *self._peers):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._server)
        self._peers |= {client: server, server: client}
        self._clients.add(client)

    def _pass_on(self, source: socket.socket) -> None:
        most = 65_536
        if source in self._clients:
            most = int(min(most, self._bytes_left))
        data = source.recv(most) if most else b""
        target = self._peers[source]
        if source in self._clients:
            self._bytes_left -= len(data)
        if data and not (self._muted and target in self._clients):
            target.sendall(data)
        elif not data:
            for end in (source, target):
                del self._peers[end]
                end.close()
