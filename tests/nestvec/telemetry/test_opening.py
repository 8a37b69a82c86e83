"""From settings to a tracer, and what is refused on the way."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from nestvec.config import Settings, load_settings
from nestvec.core.errors import ConfigError
from nestvec.telemetry import tracing
from nestvec.telemetry.opening import headers_of, open_tracing
from nestvec.telemetry.settings import TracesSection

SECRET = "Bearer tell-nobody"


def section(**given: Any) -> TracesSection:
    return load_settings(None, {"telemetry.traces": given}).telemetry.traces


# --- settings -------------------------------------------------------------------------------------


def test_traces_are_off_unless_asked_for() -> None:
    assert Settings().telemetry.traces.endpoint is None


def test_a_port_that_is_not_given_is_otlps() -> None:
    assert section(endpoint="https://collector.example").endpoint == (
        "https://collector.example:4317"
    )
    assert section(endpoint="http://[::1]:99/").endpoint == "http://[::1]:99"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"endpoint": "collector:4317"}, "expected http://HOST:PORT"),
        ({"endpoint": "grpc://collector:4317"}, "expected http://HOST:PORT"),
        ({"endpoint": "http://collector:4317/v1/traces"}, "OTLP over gRPC has no path"),
        ({"endpoint": "http://collector:99999"}, "expected http://HOST:PORT"),
        ({"endpoint": "http://me:secret@collector"}, "no user or password belongs in it"),
        ({"endpoint": "http://c", "sample": 1.5}, "less than or equal to 1"),
        ({"endpoint": "http://c", "sampel": 0.5}, "did you mean 'sample'"),
        ({"endpoint": "http://c", "callers_per_s": -1}, "greater than or equal to 0"),
        ({"endpoint": "http://c", "tls": {}}, "tls is of https://"),
        ({"endpoint": "https://c", "tls": {"cert_file": "a"}}, "belong together"),
        ({"endpoint": "http://c", "headers_env": "HEADERS"}, "headers are secrets"),
        ({"headers_env": "HEADERS"}, "for an endpoint, which is not given"),
        ({"endpoint": "https://c", "headers_env": "A", "headers_file": "b"}, "give one of them"),
        ({"endpoint": "http://c", "attributes": {"service.name": "x"}}, "each process's own"),
        ({"endpoint": "http://c", "attributes": {"a b": "x"}}, "no name of an attribute"),
        ({"endpoint": "http://c", "attributes": {"a": "x" * 300}}, "expected 1 to 256"),
        ({"endpoint": "http://c", "queue_spans": 1}, "greater than or equal to 64"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        section(**given)
    assert said in str(raised.value)
    assert "telemetry.traces" in str(raised.value)


# --- headers --------------------------------------------------------------------------------------


def test_headers_come_from_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "headers"
    file.write_text(f"# of the collector\nAuthorization: {SECRET}\n\nx-team: a:b\n")
    given = {"endpoint": "https://collector"}
    from_file = section(**given, headers_file=str(file))
    assert headers_of(from_file).value == [("authorization", SECRET), ("x-team", "a:b")]
    monkeypatch.setenv("COLLECTOR", "Authorization=Bearer%20tell-nobody,x-team=a=b")
    from_variable = section(**given, headers_env="COLLECTOR")
    assert headers_of(from_variable).value == [("authorization", SECRET), ("x-team", "a=b")]
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=c")
    assert headers_of(section(**given)).value == [("x-team", "c")]
    with pytest.raises(ConfigError, match="headers are secrets"):
        headers_of(section(endpoint="http://collector"))
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS")
    assert headers_of(section(**given)).value == []


@pytest.mark.parametrize(
    "content", [SECRET, f"name {SECRET}", f"a b: {SECRET}", f"x-bin: {SECRET}", f"x: {SECRET}\x01"]
)
def test_headers_that_are_none_are_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    file = tmp_path / "headers"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"number 1 in .*headers is no name and value") as raised:
        headers_of(section(endpoint="https://collector", headers_file=str(file)))
    assert "tell-nobody" not in str(raised.value)


def test_headers_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the variable NOWHERE_SET is not set"):
        headers_of(section(endpoint="https://collector", headers_env="NOWHERE_SET"))
    with pytest.raises(ConfigError, match="nowhere cannot be read"):
        headers_of(section(endpoint="https://c", headers_file=str(tmp_path / "nowhere")))


def test_settings_that_are_shown_hold_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR", f"authorization={SECRET}")
    given = {"endpoint": "https://collector", "headers_env": "COLLECTOR"}
    shown = load_settings(None, {"telemetry.traces": given}).shown()
    assert "tell-nobody" not in repr(shown)


# --- opening --------------------------------------------------------------------------------------


async def test_without_the_extra_asking_for_traces_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "nestvec.telemetry.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"pip install 'nestvec\[tracing\]'"):
            open_tracing(section(endpoint="http://127.0.0.1:1"), stack)
    assert tracing.tracer is None


async def test_a_certificate_that_is_not_there_is_an_error_at_start(tmp_path: Path) -> None:
    tls = {"ca_file": str(tmp_path / "ca.crt")}
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"telemetry.traces.tls: .*ca\.crt cannot be read"):
            open_tracing(section(endpoint="https://127.0.0.1:1", tls=tls), stack)
    assert tracing.tracer is None


async def test_a_process_has_one_tracer_until_its_last_user_leaves() -> None:
    wanted = section(endpoint="http://127.0.0.1:1")
    async with AsyncExitStack() as first:
        open_tracing(wanted, first)
        tracer = tracing.tracer
        assert tracer is not None
        async with AsyncExitStack() as second:
            open_tracing(wanted, second)
            assert tracing.tracer is tracer
        assert tracing.tracer is tracer
    assert tracing.tracer is None


def test_where_traces_are_off_the_library_is_not_imported() -> None:
    """In a process of its own: this one has it."""
    code = (
        "import sys\n"
        "from contextlib import AsyncExitStack\n"
        "import nestvec.client, nestvec.config, nestvec.rpc.server\n"
        "from nestvec.client.traces import trace_headers\n"
        "from nestvec.telemetry.opening import open_tracing\n"
        "from nestvec.telemetry.settings import TracesSection\n"
        "open_tracing(TracesSection(), AsyncExitStack())\n"
        "assert trace_headers() == ()\n"
        "sys.exit(any(name.partition('.')[0] == 'opentelemetry' for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
