"""From the section `telemetry.traces` to the tracer of this process."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import grpc

import nestvec
from nestvec.core.errors import ConfigError
from nestvec.security.files import Reloaded, ReloadedFiles, Standing
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import logger
from nestvec.telemetry.sampling import Sampler
from nestvec.telemetry.settings import CollectorTlsSection, TracesSection

if TYPE_CHECKING:
    from nestvec.telemetry.otel import CollectorTracer

_HEADERS = "headers of telemetry.traces"
# Where every program that uses OpenTelemetry looks.
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
# Of gRPC's metadata; `-bin` would be bytes.
_NAME = re.compile(r"(?!grpc-)[a-z0-9._-]{1,128}(?<!-bin)")
_VALUE = re.compile(r"[ -~]{1,8192}")
_log = logger()


class _OfThisProcess:
    """A process has one tracer, also where several engines run in it: the first one's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._tracer: CollectorTracer | None = None

    def enter(self, section: TracesSection, role: str, instance: str, region: str) -> None:
        with self._lock:
            if self._tracer is None:
                self._tracer = _tracer(section, role, instance, region)
                tracing.tracer = self._tracer
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._tracer is None:
                return
            last, self._tracer, tracing.tracer = self._tracer, None, None
        last.close()


_of_this_process = _OfThisProcess()


def open_tracing(
    section: TracesSection,
    stack: AsyncExitStack,
    *,
    role: str = "",
    instance: str = "",
    region: str = "",
) -> None:
    """Trace what this process does until `stack` closes; does nothing where no endpoint is given.

    role, instance, region: what this process is, where that is known. Raises ConfigError where
    OpenTelemetry is not installed, or a file cannot be used. A collector that cannot be reached is
    no error: it may come later.
    """
    if section.endpoint is None:
        return
    _of_this_process.enter(section, role, instance, region)

    async def leave() -> None:
        await asyncio.to_thread(_of_this_process.leave)

    stack.push_async_callback(leave)


def _tracer(section: TracesSection, role: str, instance: str, region: str) -> CollectorTracer:
    try:
        from nestvec.telemetry.otel import Collector, CollectorTracer
    except ImportError as error:
        raise ConfigError(
            f"telemetry.traces.endpoint is set, and OpenTelemetry is not installed ({error.name} "
            f"is missing): pip install 'nestvec[tracing]', or remove the endpoint"
        ) from None
    collector = Collector(
        address=urlsplit(section.endpoint or "").netloc,
        credentials=_credentials(section),
        headers=headers_of(section),
        every_s=section.every_s,
        timeout_s=section.timeout_s,
        queue_spans=section.queue_spans,
    )
    resource = {
        **section.attributes,
        "service.name": section.service_name or (f"nestvec-{role}" if role else "nestvec"),
        "service.version": nestvec.__version__,
        "service.instance.id": instance or f"{socket.gethostname()}/{os.getpid()}",
        **({"nestvec.region": region} if region else {}),
    }
    sampler = Sampler(section.sample, section.callers_per_s)
    _log.info("traces.on", endpoint=section.endpoint, sample=section.sample)
    return CollectorTracer(sampler, collector, resource)


def _credentials(section: TracesSection) -> Reloaded[grpc.ChannelCredentials | None]:
    """Made again when a file changes. Raises ConfigError."""
    tls = section.tls or CollectorTlsSection()
    in_order = (tls.ca_file, tls.key_file, tls.cert_file)
    paths = [one for one in in_order if one is not None]
    if not section.secure or not paths:
        return Standing(grpc.ssl_channel_credentials() if section.secure else None)

    def read(contents: Sequence[bytes]) -> grpc.ChannelCredentials:
        found = dict(zip(paths, contents, strict=True))
        return grpc.ssl_channel_credentials(
            *(None if one is None else found[one] for one in in_order)
        )

    return ReloadedFiles("telemetry.traces.tls", paths, read)


# --- headers --------------------------------------------------------------------------------------


def headers_of(section: TracesSection) -> Reloaded[Sequence[tuple[str, str]]]:
    """For the collector; those of a file are read again when it changes. Raises ConfigError, which
    names where they are from and quotes none.
    """
    file = section.headers_file
    if file is None:
        return Standing(_in_variable(section))
    return ReloadedFiles(_HEADERS, (file,), lambda contents: _in_file(contents[0], file))


def _in_file(data: bytes, path: Path) -> list[tuple[str, str]]:
    lines = [line.strip() for line in data.decode("utf-8", errors="replace").splitlines()]
    pairs = [line.partition(":") for line in lines if line and not line.startswith("#")]
    return [_header(number, *pair, str(path)) for number, pair in enumerate(pairs, 1)]


def _in_variable(section: TracesSection) -> list[tuple[str, str]]:
    variable = section.headers_env or next(filter(os.environ.get, _VARIABLES), None)
    if variable is None:
        return []
    where = f"the variable {variable}"
    data = os.environ.get(variable, "")
    if not data.strip():
        raise ConfigError(f"{_HEADERS}: {where} is not set, or is empty")
    try:
        section.require_private()
    except ValueError as error:
        raise ConfigError(f"{_HEADERS}, in {where}: {error}") from None
    split = [one.partition("=") for one in data.split(",") if one.strip()]
    pairs = [(name, mark, unquote(value)) for name, mark, value in split]
    return [_header(number, *pair, where) for number, pair in enumerate(pairs, 1)]


def _header(number: int, name: str, mark: str, value: str, where: str) -> tuple[str, str]:
    name, value = name.strip().lower(), value.strip()
    if not mark or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ConfigError(
            f"{_HEADERS}: number {number} in {where} is no name and value; expected "
            f"`name: value` on each line of a file, `name=value,name=value` in a variable"
        )
    return name, value
