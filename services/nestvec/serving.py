"""Running one process of nestvec until it is told to stop. Every main.py ends here."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import grpc
import prometheus_client
import threadpoolctl

import nestvec
from nestvec.config import ServerSection, Settings, load_settings
from nestvec.core.errors import ConfigError, NestvecError
from nestvec.rpc.clients import channel_to
from nestvec.rpc.server import Mounted, Server, ServerLimits
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import configure_logs, logger

# Opens what a process offers; everything it opened is closed by the stack, in reverse.
Opener = Callable[[Settings, AsyncExitStack], Awaitable[list[Mounted]]]
_log = logger()


async def listen(settings: Settings, mounted: list[Mounted], stack: AsyncExitStack) -> Server:
    """Serve `mounted` until `stack` closes, then drain. Raises ConfigError when it cannot."""
    section = settings.server
    limits = ServerLimits(section.max_message_bytes, section.max_concurrent_calls, section.drain_s)
    server = Server(mounted, limits)
    await server.start(section.host, section.port)
    stack.push_async_callback(server.stop)
    return server


async def open_channel(settings: Settings, address: str, stack: AsyncExitStack) -> grpc.aio.Channel:
    """A channel to another nestvec process, closed by `stack`."""
    channel = channel_to(address, settings.server.max_message_bytes)
    stack.push_async_callback(channel.close)
    return channel


async def serve(settings: Settings, opener: Opener, on_ready: Callable[[str], None]) -> None:
    """Open, listen, tell the address, wait for SIGTERM or SIGINT, drain, close."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        # A second one means now: during start-up and drain as well.
        if stop.is_set():
            task.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with AsyncExitStack() as stack:
        if settings.server.metrics_port is not None:
            stack.callback(_export_metrics(settings.server).shutdown)
        server = await listen(settings, await opener(settings, stack), stack)
        address = f"{settings.server.host}:{server.port}"
        # What is open now stays: it need not be looked through for garbage again and again.
        gc.collect()
        gc.freeze()
        _log.info("server.started", address=address)
        on_ready(address)
        await stop.wait()
        _log.info("server.draining")


def _export_metrics(section: ServerSection) -> WSGIServer:
    assert section.metrics_port is not None
    metrics.BUILD.labels(nestvec.__version__).set(1)
    try:
        exporter, _ = prometheus_client.start_http_server(section.metrics_port, section.host)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {section.host}:{section.metrics_port} ({error.strerror}); "
            f"stop what holds the port, or choose another server.metrics_port"
        ) from None
    return exporter


def tune_process() -> None:
    """What a process that serves sets for itself, once, before its first search."""
    # The default of 5 ms lets a busy thread hold the event loop for as long as ten searches take.
    sys.setswitchinterval(0.0005)
    # A request makes some hundred objects and leaves no cycles: look for some less often.
    gc.set_threshold(20_000, 20, 20)
    # A rerank's products are too small to share: a BLAS that spreads them over threads waits for
    # the slowest one, and on a busy machine quadruples the time of an analyst's query.
    threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def run(settings: Settings, opener: Opener, on_ready: Callable[[str], None]) -> None:
    """`serve` on the fastest event loop there is."""
    configure_logs(settings.log.level, settings.log.format)
    tune_process()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, opener, on_ready))
    else:
        uvloop.run(serve(settings, opener, on_ready))


def run_main(opener: Opener, what: str) -> int:
    """The command line of one application: `--config nestvec.yaml`. Returns the exit code."""
    parser = argparse.ArgumentParser(description=f"Serve {what} of nestvec on its own.")
    parser.add_argument("--config", type=Path, help="nestvec.yaml; without it, the defaults")
    arguments = parser.parse_args()
    try:
        settings = load_settings(arguments.config)
        run(settings, opener, lambda address: print(address, flush=True))  # noqa: T201
    except NestvecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0
