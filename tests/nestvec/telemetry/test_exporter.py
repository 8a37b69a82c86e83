"""Metrics are scraped in the clear, or with TLS and a certificate where the process has one."""

from __future__ import annotations

import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestvec.telemetry.exporter import export_metrics
from tests.support.certificates import Authority


@contextmanager
def exported(*tls: object) -> Iterator[int]:
    exporter = export_metrics("127.0.0.1", 0, *tls)  # type: ignore[arg-type]
    try:
        yield exporter.server_port
    finally:
        exporter.shutdown()
        exporter.server_close()


def scraped(url: str, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=20, context=context) as answer:
        return str(answer.read().decode())


def test_without_tls() -> None:
    with exported() as port:
        assert "nestvec_build_info" in scraped(f"http://127.0.0.1:{port}/metrics")


def test_with_tls_a_scraper_shows_a_certificate_and_a_new_pair_is_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    mine = ssl.create_default_context(cafile=authority.file)
    mine.load_cert_chain(*authority.sign("prometheus"))
    with exported(pair, authority.file) as port:
        url = f"https://127.0.0.1:{port}/metrics"
        assert "nestvec_build_info" in scraped(url, mine)
        with pytest.raises((urllib.error.URLError, ssl.SSLError, OSError)):
            scraped(url, ssl.create_default_context(cafile=authority.file))
        before = ssl.get_server_certificate(("127.0.0.1", port))
        for new, old in zip(authority.sign("next"), pair, strict=True):
            shutil.move(new, old)
        scraped(url, mine)
        assert ssl.get_server_certificate(("127.0.0.1", port)) != before
