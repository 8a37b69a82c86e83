"""Spans reach a real collector; one that is away, or slow, costs no call and no memory."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import structlog

from nestvec.telemetry import metrics, otel, tracing
from nestvec.telemetry.logs import configure_logs, logger
from nestvec.telemetry.otel import CollectorTracer
from nestvec.telemetry.traceparent import Remote
from nestvec.telemetry.tracing import Kind, Span
from tests.support.certificates import Authority
from tests.support.collector import Collector, a_collector, traces_to, tracing_on
from tests.support.rooms import SpyLog
from tests.support.stores import free_port

REMOTE = Remote(0xABC, 0x123, sampled=True, state="vendor=1")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


def begun(tracer: CollectorTracer, name: str = "call", remote: Remote | None = None) -> Span:
    span = tracer.begin(name, Kind.SERVER, {"a": 1}, remote)
    assert span is not None
    return span


def counted(outcome: str) -> float:
    return float(metrics.TRACE_SPANS.labels(outcome)._value.get())


def test_spans_arrive_as_a_tree_with_what_the_process_is(collector: Collector) -> None:
    wanted = traces_to(collector.address, attributes={"team": "search"})
    with tracing_on(wanted) as tracer:
        span = begun(tracer, remote=REMOTE)
        with tracing.Entered(span), tracing.part("inner", {"b": "c"}) as inner:
            assert inner is not None
            inner.set({"d": True, "e": ["f", "g"]})
        tracer.flush()
    child, root = collector.spans()
    assert (root.name, child.name) == ("call", "inner")
    assert root.trace_id == child.trace_id == f"{REMOTE.trace_id:032x}"
    assert root.parent_id == f"{REMOTE.span_id:016x}"
    assert child.parent_id == root.span_id
    assert root.state == child.state == "vendor=1"
    assert child.attributes == {"b": "c", "d": True, "e": ["f", "g"]}
    assert root.resource["service.name"] == "nestvec-query"
    assert root.resource["team"] == "search"
    assert root.resource["service.version"]


def test_a_span_names_itself_for_the_next_process(collector: Collector) -> None:
    with tracing_on(traces_to(collector.address)) as tracer:
        span = begun(tracer, remote=REMOTE)
        headers = dict(tracing.headers(span))
        span.end()
        tracer.flush()
    (seen,) = collector.spans()
    assert headers["traceparent"].split("-")[1:3] == [seen.trace_id, seen.span_id]
    assert int(headers["traceparent"][-2:], 16) & 1
    assert headers["tracestate"] == "vendor=1"


def test_an_error_is_told_by_its_kind_and_never_by_what_it_says(collector: Collector) -> None:
    with tracing_on(traces_to(collector.address)) as tracer:
        with pytest.raises(ValueError, match="text"), tracing.Entered(begun(tracer)):
            raise ValueError("a query's text")
        with pytest.raises(asyncio.CancelledError), tracing.Entered(begun(tracer)):
            raise asyncio.CancelledError
        tracer.flush()
    failed, given_up = collector.spans()
    assert (failed.failed, failed.attributes["error.type"]) == (True, "ValueError")
    assert (given_up.failed, given_up.attributes["nestvec.cancelled"]) == (False, True)
    assert b"text" not in b"".join(one.SerializeToString() for one in collector.requests)


def test_what_outlives_a_call_is_no_part_of_it(collector: Collector) -> None:
    with tracing_on(traces_to(collector.address)) as tracer:
        span = begun(tracer)
        span.end()
        assert span.child("later", Kind.INTERNAL, {}) is None
        span.set({"late": True})
        span.fail("Late")
        span.end()
        tracer.flush()
    (seen,) = collector.spans()
    assert seen.attributes == {"a": 1}
    assert not seen.failed


def test_a_call_has_only_so_many_parts_and_says_how_many_it_lost(collector: Collector) -> None:
    with tracing_on(traces_to(collector.address)) as tracer:
        with tracing.Entered(begun(tracer)):
            for _ in range(1003):
                with tracing.part("batch"):
                    pass
        tracer.flush()
    spans = collector.spans()
    assert len(spans) == 1001
    assert spans[-1].attributes["nestvec.parts_left_out"] == 3


def test_headers_go_with_the_spans(collector: Collector, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer secret\n")
    with tracing_on(traces_to(collector.address, headers_file=str(file))) as tracer:
        begun(tracer).end()
        tracer.flush()
    assert collector.headers["authorization"] == "Bearer secret"


def test_with_tls_the_collector_is_checked_and_may_check_back(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    certificate, key = authority.sign("collector")
    own, own_key = authority.sign("process")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        authority.file.read_bytes(),
        require_client_auth=True,
    )
    pair = {"cert_file": str(own), "key_file": str(own_key)}
    with a_collector(credentials) as collector:
        for trusted, arrives in ((authority, True), (other, False)):
            tls = {"ca_file": str(trusted.file), **pair}
            endpoint = f"https://{collector.address}"
            wanted = traces_to("", endpoint=endpoint, tls=tls, timeout_s=0.5)
            with tracing_on(wanted) as tracer:
                begun(tracer, f"trusts-{arrives}").end()
                tracer.flush()
        assert [one.name for one in collector.spans()] == ["trusts-True"]


def test_files_that_change_are_used_from_the_next_sending_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    certificate, key = authority.sign("collector")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    ca, headers = tmp_path / "ca.crt", tmp_path / "headers"
    ca.write_bytes(other.file.read_bytes())
    headers.write_text("authorization: Bearer old\n")
    with a_collector(credentials) as collector:
        wanted = traces_to(
            "",
            endpoint=f"https://{collector.address}",
            tls={"ca_file": str(ca)},
            headers_file=str(headers),
            timeout_s=2.0,
        )
        with tracing_on(wanted) as tracer:

            def sent(name: str) -> str:
                begun(tracer, name).end()
                tracer.flush()
                return str(collector.headers.get("authorization"))

            assert sent("not trusted") == "None"
            ca.write_bytes(authority.file.read_bytes())
            assert sent("trusted") == "Bearer old"
            headers.write_text("authorization: Bearer new\n")
            assert sent("renewed") == "Bearer new"
            # What is no header is logged, and what stood before goes on.
            headers.write_text("half of a li")
            assert sent("as before") == "Bearer new"
        assert [one.name for one in collector.spans()] == ["trusted", "renewed", "as before"]


# --- a collector that is away, or slow ------------------------------------------------------------


def test_a_collector_that_is_away_costs_its_spans_and_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = SpyLog()
    monkeypatch.setattr(otel, "_log", log)
    lost = counted("lost")
    with tracing_on(traces_to(f"127.0.0.1:{free_port()}", timeout_s=0.1)) as tracer:
        capfd.readouterr()
        for _ in range(3):
            begun(tracer).end()
            tracer.flush()
        assert counted("lost") == lost + 3
        assert len(log.named("traces.not_sent")) == len(log.lines) == 1
    # The library's own words go nowhere.
    assert capfd.readouterr() == ("", "")


def test_it_is_told_when_spans_are_sent_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpyLog()
    monkeypatch.setattr(otel, "_log", log)
    collector.refuses = grpc.StatusCode.PERMISSION_DENIED
    with tracing_on(traces_to(collector.address)) as tracer:
        for _ in range(2):
            begun(tracer).end()
            tracer.flush()
        collector.refuses = None
        for _ in range(2):
            begun(tracer).end()
            tracer.flush()
    assert [line["event"] for line in log.lines] == ["traces.not_sent", "traces.sent_again"]


def test_spans_that_a_slow_collector_does_not_take_are_lost_and_the_queue_has_a_bound(
    collector: Collector,
) -> None:
    collector.held.clear()
    lost = counted("lost")
    wanted = traces_to(collector.address, queue_spans=64, timeout_s=30.0)
    with tracing_on(wanted) as tracer:
        for _ in range(64):
            begun(tracer).end()
        # The thread that sends them waits now, with all of them in its hands.
        collector.wait_for(1)
        for _ in range(1000):
            begun(tracer).end()
        assert counted("lost") == lost + 1000 - 64
        collector.held.set()
        tracer.flush()
    assert len(collector.spans()) == 128


def test_stopping_does_not_wait_for_a_collector_that_is_silent(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvec.telemetry.otel._AT_THE_END_S", 0.05)
    collector.held.clear()
    with tracing_on(traces_to(collector.address, timeout_s=60.0)) as tracer:
        begun(tracer).end()
    # It was asked, and has not answered yet.
    assert (collector.calls, collector.spans()) == (1, [])


def test_what_waits_is_sent_at_the_end(collector: Collector) -> None:
    with tracing_on(traces_to(collector.address)) as tracer:
        begun(tracer).end()
        assert collector.calls == 0
    assert len(collector.spans()) == 1


# --- logs -----------------------------------------------------------------------------------------


def test_lines_of_a_traced_call_name_its_trace(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = structlog.get_config()
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    try:
        configure_logs("info", "json")
        with tracing_on(traces_to(collector.address)) as tracer:
            with tracing.Entered(begun(tracer, remote=REMOTE)):
                logger().info("within")
            logger().info("outside")
    finally:
        structlog.configure(**before)
    within, outside = (
        next(line for line in lines.getvalue().splitlines() if f'"{event}"' in line)
        for event in ("within", "outside")
    )
    assert f'"trace_id": "{REMOTE.trace_id:032x}"' in within
    assert "trace_id" not in outside
