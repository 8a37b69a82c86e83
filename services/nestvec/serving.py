"""Running one process of nestvec until it is told to stop. Every main.py ends here."""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import grpc
import threadpoolctl

import nestvec
from nestvec.adapters.opening import open_registry
from nestvec.config import Settings, load_settings
from nestvec.core.errors import ConfigError, NestvecError
from nestvec.core.members import Facts, Member, MemberRole, MemberState, Place
from nestvec.membership.lease import Lease
from nestvec.membership.measures import resident_bytes
from nestvec.rpc.clients import channel_to
from nestvec.rpc.securing import channel_security, server_limits, server_security
from nestvec.rpc.server import HealthPort, Mounted, Server, ServerSecurity
from nestvec.telemetry.exporter import export_metrics
from nestvec.telemetry.logs import configure_logs, logger
from nestvec.telemetry.opening import open_tracing

# Of a server that listens on all of them: nobody can be told to call it there.
_EVERY_ADDRESS = ("0.0.0.0", "::", "[::]")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a process offers. In a cluster: fingerprint, the space of an encoder; facts, asked with
    every heartbeat; lease, where the application has made its own, which has not joined yet.
    """

    mounted: Sequence[Mounted]
    fingerprint: str = ""
    facts: Callable[[], Awaitable[Facts]] | None = None
    lease: Lease | None = None


# Opens what a process offers; everything it opened is closed by the stack, in reverse.
Opener = Callable[[Settings, AsyncExitStack], Awaitable[Sequence[Mounted] | Offer]]
_log = logger()


async def listen(
    settings: Settings,
    mounted: Sequence[Mounted],
    stack: AsyncExitStack,
    serving: bool = True,
    security: ServerSecurity | None = None,
) -> Server:
    """Serve `mounted` until `stack` closes, then drain. serving: whether it is healthy from the
    start. security: of the port, where it was opened before. Raises ConfigError when it cannot, and
    for a port beyond this machine that anyone could call.
    """
    section = settings.server
    server = Server(mounted, server_limits(settings), security or server_security(settings))
    probes = None
    if section.health_port is not None:
        # Closed last: that calls are finished is told there as well.
        probes = HealthPort(server)
        stack.push_async_callback(probes.stop)
    await server.start(section.host, section.port, serving)
    stack.push_async_callback(server.stop)
    if probes is not None:
        await probes.start(section.host, section.health_port or 0)
    return server


def trace(settings: Settings, stack: AsyncExitStack, role: MemberRole | None = None) -> None:
    """Trace what this process does until `stack` closes, where the settings say so. role: what it
    is in a cluster. Raises ConfigError.
    """
    open_tracing(
        settings.telemetry.traces,
        stack,
        role="" if role is None else role.value,
        instance=settings.cluster.slot or "",
        region=settings.regions.here or "",
    )


async def open_channel(settings: Settings, address: str, stack: AsyncExitStack) -> grpc.aio.Channel:
    """A channel to another nestvec process, closed by `stack`."""
    channel = channel_to(address, settings.server.max_message_bytes, channel_security(settings))
    stack.push_async_callback(channel.close)
    return channel


# --- belonging to a cluster ---------------------------------------------------------------------


def member_of(
    settings: Settings,
    role: MemberRole,
    name: str,
    *,
    fingerprint: str = "",
    place: Place | None = None,
) -> Member:
    """What this process is, before it has an address. name: where the settings give no slot."""
    section = settings.cluster
    return Member(
        name=section.slot or name,
        role=role,
        address="",
        node=section.node or socket.gethostname(),
        version=nestvec.__version__,
        fingerprint=fingerprint,
        place=place,
    )


def advertised(settings: Settings, port: int) -> str:
    """Where others reach this process, which listens on `port`. Raises ConfigError."""
    wanted = settings.cluster.advertise
    if wanted is None:
        if settings.server.host in _EVERY_ADDRESS:
            raise ConfigError(
                f"server.host is {settings.server.host}, which others cannot call; give the "
                f"host:port at which they reach this process in cluster.advertise"
            )
        return f"{settings.server.host}:{port}"
    host, _, number = wanted.rpartition(":")
    if not host or not number.isdigit() or int(number) > 65_535:
        raise ConfigError(
            f"cluster.advertise is {wanted!r}, expected host:port; port 0 stands for the one that "
            f"this process listens on"
        )
    return wanted if int(number) else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Hosted:
    """A process that listens. address: where. lease: its place in a cluster, where it has one."""

    address: str
    server: Server
    lease: Lease | None

    async def become_ready(self) -> None:
        """Return once it may be asked; in a cluster, tell so. May be cancelled."""
        if self.lease is not None:
            await self.lease.become_ready()
            await self.server.tell_health(serving=True)


async def host(
    settings: Settings, opener: Opener, stack: AsyncExitStack, role: MemberRole | None = None
) -> Hosted:
    """Open and listen; with `cluster.name` and a role (or a lease in the offer) join as STARTING.

    `stack` ends it in this order: DRAINING and not healthy, while calls are answered for two
    heartbeats, until everybody knows; then no new calls, and those in flight finish; then the lease
    is given up; then what was opened is closed. Raises ConfigError or StoreUnavailable.
    """
    # First: what is wrong with it is said before anything is opened.
    security = server_security(settings)
    trace(settings, stack, role)
    offered = await opener(settings, stack)
    offer = offered if isinstance(offered, Offer) else Offer(offered)
    belongs = offer.lease is not None or (role is not None and settings.cluster.name is not None)
    # Between what was opened and the server: the lease goes when the last call is finished.
    leaving = await stack.enter_async_context(AsyncExitStack())
    server = await listen(settings, offer.mounted, stack, not belongs, security)
    hosted_at = f"{settings.server.host}:{server.port}"
    lease = offer.lease
    if belongs:
        address = advertised(settings, server.port)
        if lease is None:
            assert role is not None
            lease = await _open_lease(settings, role, offer, address, leaving)
        leaving.push_async_callback(lease.leave)
        await lease.join(address)
        stack.push_async_callback(_drain, lease, server)
    return Hosted(hosted_at, server, lease)


async def _open_lease(
    settings: Settings, role: MemberRole, offer: Offer, address: str, stack: AsyncExitStack
) -> Lease:
    name = f"{role.value}/{address}"
    member = member_of(settings, role, name, fingerprint=offer.fingerprint)
    registry = await open_registry(settings.store, settings.cluster, stack)
    return Lease(registry, member, settings.cluster.heartbeat_s, offer.facts or _plain_facts)


async def _plain_facts() -> Facts:
    return Facts(memory_bytes=resident_bytes())


async def _drain(lease: Lease, server: Server) -> None:
    _log.info("server.leaving", member=lease.member.name)
    await server.tell_health(serving=False)
    await lease.become(MemberState.DRAINING)
    await asyncio.sleep(lease.ttl_s)


# --- one process --------------------------------------------------------------------------------


async def serve(
    settings: Settings,
    opener: Opener,
    on_ready: Callable[[str], None],
    role: MemberRole | None = None,
) -> None:
    """Open, listen, tell the address, wait for SIGTERM or SIGINT, drain, close. role: what it is in
    a cluster, where the settings name one; see `host`.
    """
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
    await serve_until(stop, settings, opener, on_ready, role)


async def serve_until(
    stop: asyncio.Event,
    settings: Settings,
    opener: Opener,
    on_ready: Callable[[str], None],
    role: MemberRole | None = None,
) -> None:
    """As `serve`, for whoever has no signals of its own: until `stop` is set."""
    async with AsyncExitStack() as stack:
        if settings.server.metrics_port is not None:
            stack.callback(_export_metrics(settings).shutdown)
        hosted = await host(settings, opener, stack, role)
        if await _ready_before(stop, hosted):
            # What is open now stays: it need not be looked through for garbage again and again.
            gc.collect()
            gc.freeze()
            _log.info("server.started", address=hosted.address)
            on_ready(hosted.address)
            await stop.wait()
        _log.info("server.draining")


async def _ready_before(stop: asyncio.Event, hosted: Hosted) -> bool:
    """Whether it became ready before it was told to stop: catching up may take minutes."""
    ready = asyncio.create_task(hosted.become_ready())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            return False
        await ready
        return True
    finally:
        for task in (ready, stopping):
            task.cancel()
        await asyncio.gather(ready, stopping, return_exceptions=True)


def _export_metrics(settings: Settings) -> WSGIServer:
    section, tls = settings.server, settings.security.tls
    assert section.metrics_port is not None
    if tls is None or section.metrics_plain:
        return export_metrics(section.host, section.metrics_port)
    pair = tls.cert_file, tls.key_file
    return export_metrics(section.host, section.metrics_port, pair, tls.client_ca_file)


def tune_process() -> None:
    """What a process that serves sets for itself, once, before its first search."""
    # The default of 5 ms lets a busy thread hold the event loop for as long as ten searches take.
    sys.setswitchinterval(0.0005)
    # A request makes some hundred objects and leaves no cycles: look for some less often.
    gc.set_threshold(20_000, 20, 20)
    # A connection is an open file, and the usual 1024 are not many.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # A rerank's products are too small to share: a BLAS that spreads them over threads waits for
    # the slowest one, and on a busy machine quadruples the time of an analyst's query.
    threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def run(
    settings: Settings,
    opener: Opener,
    on_ready: Callable[[str], None],
    role: MemberRole | None = None,
) -> None:
    """`serve` on the fastest event loop there is."""
    configure_logs(settings.log.level, settings.log.format)
    tune_process()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, opener, on_ready, role))
    else:
        uvloop.run(serve(settings, opener, on_ready, role))


def _said(pairs: Sequence[str]) -> dict[str, str]:
    """Of `--set`. Raises ConfigError."""
    said = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or "." not in key:
            raise ConfigError(f"--set {pair}: expected SECTION.KEY=VALUE, such as server.port=7700")
        said[key] = value
    return said


def run_main(opener: Opener, what: str, role: MemberRole | None = None) -> int:
    """The command line of one application: `--config nestvec.yaml`. Returns the exit code. role:
    see `serve`.
    """
    parser = argparse.ArgumentParser(description=f"Serve {what} of nestvec on its own.")
    parser.add_argument("--config", type=Path, help="nestvec.yaml; without it, the defaults")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="outranks the file: for what differs between processes with the same file",
    )
    arguments = parser.parse_args()
    try:
        settings = load_settings(arguments.config, _said(arguments.set))
        run(settings, opener, lambda address: print(address, flush=True), role)  # noqa: T201
    except NestvecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0
