"""What is logged goes to standard error, and no call fails where that is gone."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest
import structlog

from nestvec.security.identity import Identity, Source, current_identity
from nestvec.telemetry.logs import configure_logs, logger


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The session's own configuration comes back."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_line_goes_to_standard_error_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    configure_logs("info", "json")
    log = logger()
    log.info("one", coarse_dim=128)
    monkeypatch.setattr(sys, "stderr", second)
    log.info("two", coarse_dim=256)
    assert '"event": "one"' in first.getvalue()
    assert '"event": "two"' in second.getvalue()
    assert "two" not in first.getvalue()


class Unread(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("gone", ["closed", "unread", "none"])
def test_a_line_that_nobody_can_take_is_lost_and_nothing_fails(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Unread() if gone == "unread" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs("info", "json")
    log = logger()
    if gone == "closed":
        stream.close()
    if gone == "none":
        monkeypatch.setattr(sys, "stderr", None)
    log.info("lost", coarse_dim=128)
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    log.info("found")
    assert '"event": "found"' in later.getvalue()


def test_a_line_says_whose_call_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs("info", "json")
    log = logger()
    log.info("before")
    token = current_identity.set(Identity(Source.TOKEN, ("alice",), {"email": frozenset({"a@b"})}))
    try:
        log.info("within")
    finally:
        current_identity.reset(token)
    before, within = stream.getvalue().splitlines()
    assert "caller" not in before
    assert '"caller": "token:alice"' in within
    assert "a@b" not in within
