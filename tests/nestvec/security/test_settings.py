"""The section `security`: what does not fit together, and which ports may listen."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from nestvec.core.errors import ConfigError
from nestvec.security.hosts import is_loopback
from nestvec.security.settings import SecuritySection, require_guarded

TLS = {"cert_file": "a.crt", "key_file": "a.key"}
TOKENS = {"key_files": ["a.pub"], "audience": "nestvec"}
GRANT = {"subjects": ["*"], "verbs": ["search"], "collections": ["*"]}


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_what_only_this_machine_can_call(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tls": TLS, "tokens": TOKENS}, "add grants"),
        ({"tls": TLS | {"client_ca_file": "ca.crt"}}, "add grants"),
        ({"grants": [GRANT]}, "need to know who calls"),
        ({"tls": TLS, "quotas": [{"concurrent": 1}]}, "need to know who calls"),
        ({"tokens": TOKENS, "grants": [{**GRANT, "subjects": []}]}, "for nobody"),
        ({"tokens": TOKENS, "grants": [{**GRANT, "verbs": ["read"]}]}, "verbs"),
        ({"tokens": TOKENS, "grants": [{**GRANT, "verbs": []}]}, "verbs"),
        ({"tokens": TOKENS, "grants": [{**GRANT, "collections": []}]}, "collections"),
        (
            {
                "tokens": TOKENS,
                "grants": [{**GRANT, "verbs": ["internal"], "collections": ["docs"]}],
            },
            "own processes",
        ),
        ({"tokens": TOKENS, "grants": [GRANT], "quotas": [{}]}, "bounds nothing"),
        ({"tokens": TOKENS, "grants": [GRANT], "quotas": [{"concurrent": 1, "burst": 2}]}, "burst"),
        ({"tls": {"cert_file": "a.crt"}}, "key_file"),
        ({"token": "x"}, "token"),
    ],
)
def test_what_does_not_fit_together_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SecuritySection.model_validate(section)


@pytest.mark.parametrize(
    ("section", "missing"),
    [
        ({}, "security.tls, so that.*security.tokens or security.tls.client_ca_file"),
        ({"tls": TLS}, "security.tokens or security.tls.client_ca_file"),
        ({"tokens": TOKENS, "grants": [GRANT]}, "security.tls, so that"),
    ],
)
def test_a_port_beyond_this_machine_needs_tls_and_authentication(
    section: dict[str, Any], missing: str
) -> None:
    security = SecuritySection.model_validate(section)
    with pytest.raises(ConfigError, match=missing) as refused:
        require_guarded("0.0.0.0", "server.host", security, insecure=False)
    assert "--insecure" in str(refused.value)
    require_guarded("0.0.0.0", "server.host", security, insecure=True)
    require_guarded("127.0.0.1", "server.host", security, insecure=False)


@pytest.mark.parametrize(
    "section",
    [
        {"tls": TLS, "tokens": TOKENS, "grants": [GRANT]},
        {"tls": TLS | {"client_ca_file": "ca.crt"}, "grants": [GRANT]},
    ],
)
def test_either_kind_of_credentials_is_enough(section: dict[str, Any]) -> None:
    security = SecuritySection.model_validate(section)
    require_guarded("10.0.0.1", "server.host", security, insecure=False)
