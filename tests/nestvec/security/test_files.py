"""Files that change under a process: what is new is used, what is broken is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nestvec.core.errors import ConfigError
from nestvec.security import files as module
from nestvec.security.files import ReloadedFiles, TokenFile, read_secret
from tests.support.rooms import SpyLog


def text_of(contents: Sequence[bytes]) -> str:
    if b"broken" in contents[0]:
        raise ConfigError("it is broken")
    return b" ".join(contents).decode()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SpyLog:
    spy = SpyLog()
    monkeypatch.setattr(module, "_log", spy)
    return spy


def replace(path: Path, text: str) -> None:
    """As Kubernetes does: another file takes its place at once."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_a_changed_file_is_read_again_and_a_broken_one_is_not_used(
    tmp_path: Path, log: SpyLog
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    now_s = [0.0]
    files = ReloadedFiles("the pair", (one, two), text_of, lambda: now_s[0])
    assert (files.value, files.version) == ("a b", 1)
    replace(two, "c")
    assert files.value == "a b", "looked at once a second"
    now_s[0] += 1.0
    assert (files.value, files.version) == ("a c", 2)
    replace(one, "broken")
    for _ in range(3):
        now_s[0] += 1.0
        assert (files.value, files.version) == ("a c", 2)
    one.unlink()
    now_s[0] += 1.0
    assert files.value == "a c"
    one.write_text("d")
    now_s[0] += 1.0
    assert (files.value, files.version) == ("d c", 3)
    assert len(log.named("credentials.not_reloaded")) == 2, "once for each change"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("", "empty"), ("x" * (1 << 21), "bytes")]
)
def test_a_file_that_cannot_be_used_at_the_start_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as refused:
        ReloadedFiles("the key", (path,), text_of)
    assert str(path) in str(refused.value)


def test_a_token_file_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    token = TokenFile(path)
    assert token.header == "Bearer first"
    replace(path, "second")
    token._files.refresh()
    assert token.header == "Bearer second"


@pytest.mark.parametrize("content", ["two words", "öl", "a\nb"])
def test_what_is_no_token_is_refused_without_being_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ConfigError) as refused:
        TokenFile(path)
    assert content not in str(refused.value)


def test_a_secret_is_a_files_text_without_the_newline_that_editors_add(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for data, secret in ((b"open sesame\n", "open sesame"), (b" spaced \r\n", " spaced ")):
        file.write_bytes(data)
        assert read_secret(file, "the word") == secret
    for data, said in (
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"sesam\xe9", "is not UTF-8"),
        (b"a" * (1 << 20) + b"\n", "has more than 1,048,576 bytes"),
    ):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=f"the word: {file} {said}") as caught:
            read_secret(file, "the word")
        assert "sesam" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "none", "the word")
