"""Prometheus metrics over HTTP, with TLS where the process has it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import prometheus_client

import nestvec
from nestvec.core.errors import ConfigError
from nestvec.security.files import stamps_of
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger

_log = logger()


def export_metrics(
    host: str,
    port: int,
    pair: tuple[Path, Path] | None = None,
    client_ca: Path | None = None,
) -> WSGIServer:
    """Serve them on a thread, until `shutdown`. pair: certificate and key; a changed pair is used
    from the next connection but one. client_ca: who may sign the certificate that a scraper must
    bring. The files are known to be good. Raises ConfigError.
    """
    metrics.BUILD.labels(nestvec.__version__).set(1)
    with_tls: dict[str, Any] = {}
    if pair is not None:
        with_tls = {"certfile": str(pair[0]), "keyfile": str(pair[1])}
        if client_ca is not None:
            with_tls |= {"client_cafile": str(client_ca), "client_auth_required": True}
    try:
        exporter, _ = prometheus_client.start_http_server(port, host, **with_tls)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {host}:{port} ({error.strerror}); "
            f"stop what holds the port, or choose another server.metrics_port"
        ) from None
    if pair is not None:
        _renew_by(exporter.socket, pair)
    return exporter


def _renew_by(listening: Any, pair: tuple[Path, Path]) -> None:
    """Read a changed pair again as connections come in."""
    context: ssl.SSLContext = listening.context
    seen = [stamps_of(pair)]

    def look(*_: object) -> None:
        now = stamps_of(pair)
        if now == seen[0]:
            return
        try:
            context.load_cert_chain(*pair)
        except (OSError, ssl.SSLError) as error:
            metrics.CREDENTIAL_FAILURES.inc()
            _log.error("metrics.certificate_not_reloaded", kind=type(error).__name__)
        seen[0] = now

    context.sni_callback = look
