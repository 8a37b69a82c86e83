"""What a client may be given, and where a token may travel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nestvec.client import Credentials, NestvecClient
from nestvec.core.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cert_file": "a.crt"}, "belong together"),
        ({"key_file": "a.key"}, "belong together"),
        ({"token": "a", "token_file": "b"}, "two tokens"),
        ({"server_name": "a.example", "token": "a"}, "of a certificate"),
    ],
)
def test_what_does_not_fit_together_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Credentials(**given)


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("127.0.0.1:7700", True),
        ("localhost:7700", True),
        ("[::1]:7700", True),
        ("ipv4:127.0.0.1:7700", True),
        ("dns:///localhost:7700", True),
        ("unix:/run/nestvec.sock", True),
        ("10.0.0.1:7700", False),
        ("search.example:7700", False),
        ("dns:///search.example:7700", False),
        ("127.0.0.1:7700,search.example:7700", False),
    ],
)
def test_a_token_does_not_travel_in_the_clear(address: str, safe: bool) -> None:
    token = Credentials(token="eyJ")
    if safe:
        with NestvecClient(address, credentials=token) as client:
            assert client.address == address
        return
    with pytest.raises(ConfigError, match="others can read it"):
        NestvecClient(address, credentials=token)
    NestvecClient(address, credentials=Credentials(tls=True, token="eyJ")).close()


def test_a_token_is_not_printed() -> None:
    assert "eyJ" not in repr(Credentials(tls=True, token="eyJ-secret"))


def test_files_that_are_not_there_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.crt cannot be read"):
        NestvecClient("127.0.0.1:1", credentials=Credentials(ca_file=tmp_path / "missing.crt"))
