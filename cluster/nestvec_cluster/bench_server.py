"""The processes that a benchmark drives: an engine as `nestvec serve` runs it, and a bare echo.

    python -m nestvec_cluster.bench_server engine OVERRIDES [NESTVEC_YAML]
    python -m nestvec_cluster.bench_server echo

OVERRIDES is a JSON object of dotted settings, as {"encoder.model": "default"}.

Each prints its address, and ends with its standard input: when whoever started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc

from nestvec.config import load_settings
from nestvec.core.errors import ConfigError, NestvecError
from nestvec.serving import run, tune_process
from nestvec_cluster.background import run_on_fastest_loop
from nestvec_cluster.embedded import mounted

ECHO_METHOD = "/nestvec.bench.Echo/Echo"
# What the engine is told whatever the file says: a free port, a store that is gone afterwards.
_OVERRIDES: dict[str, Any] = {
    "server.host": "127.0.0.1",
    "server.port": 0,
    "server.drain_s": 0.5,
    "store.url": None,
    "store.data_dir": None,
    "log.level": "warning",
}
_STOP_TIMEOUT_S = 30.0


@contextmanager
def child(role: str, *arguments: str, log: IO[bytes] | None = None) -> Iterator[tuple[str, int]]:
    """Run one of the processes; gives its address and pid. log: where its standard error goes
    instead of ours. Raises ConfigError if it fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, role, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then ends it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise ConfigError(
                f"the benchmark's {role} process did not start; see its message above"
            )
        yield address, process.pid
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Echo(grpc.GenericRpcHandler):
    """Bytes in, bytes out: no messages, no interceptor, nothing but gRPC itself.

    The first four bytes of a request say how long the answer shall be.
    """

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}
        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self._echo
        )

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handler if handler_call_details.method == ECHO_METHOD else None

    async def _echo(self, request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        size = request[:4]
        answer = self._answers.get(size)
        if answer is None:
            answer = self._answers[size] = bytes(int.from_bytes(size, "little"))
        return answer


def echo_request(request_bytes: int, response_bytes: int) -> bytes:
    """A request of one size that asks for an answer of another."""
    return response_bytes.to_bytes(4, "little") + bytes(max(0, request_bytes - 4))


async def _serve_echo() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _tell(f"127.0.0.1:{port}")
    await stop.wait()
    await server.stop(0.0)


def _tell(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Run one role until standard input ends. Returns the exit code."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    if arguments[0] == "echo":
        tune_process()
        run_on_fastest_loop(_serve_echo())
        return 0
    _, overrides, *files = arguments
    try:
        settings = load_settings(
            Path(files[0]) if files else None, _OVERRIDES | json.loads(overrides)
        )
        run(settings, mounted, _tell)
    except NestvecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
