"""nestvec acl prints lines that a server takes."""

from __future__ import annotations

from pathlib import Path

from nestvec.adapters.redis_acl import StoreRole, rules
from tests.support.cli import run_cli


def test_a_line_for_each_role_or_for_those_that_are_asked_for(tmp_path: Path) -> None:
    done = run_cli("acl", "--prefix", "other", "--user", "me")
    lines = done.out.splitlines()
    assert [line.split()[2] for line in lines] == [f"me-{role}" for role in StoreRole]
    for role, line in zip(StoreRole, lines, strict=True):
        assert line.split()[3:6] == ["reset", "on", ">PASSWORD"]
        assert line.split()[6:] == rules(role, "other")
    password = tmp_path / "password"
    password.write_text("secret\n")
    done = run_cli("acl", "--role", "query", "--acl-file", "--password-file", str(password))
    (line,) = done.out.splitlines()
    assert line.startswith("user nestvec-query on #2bb80d537b1da3e38bd30361aa855686bde0eacd")
    assert "secret" not in line


def test_what_cannot_be_printed_is_said(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"gr\xfc\xdfe\n")
    for told, arguments in (
        ("key prefix 'a*' cannot be used", ["--prefix", "a*"]),
        ("--acl-file needs --password-file", ["--acl-file"]),
        ("cannot be read", ["--password-file", str(tmp_path / "missing")]),
        # Its hash would be that of another password than the processes send.
        ("is not UTF-8", ["--password-file", str(foreign)]),
    ):
        done = run_cli("acl", *arguments)
        assert done.code == 1
        assert told in done.err
        assert not done.out
