"""Which tokens are believed, whom they name, and that no message or log quotes one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from nestvec.core.errors import ConfigError, Unauthenticated
from nestvec.security.settings import TokensSection
from nestvec.security.tokens import TokenVerifier
from tests.support.tokens import AUDIENCE, Issuer

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("tokens"))


def now() -> int:
    """Seconds since 1970, when the test runs: it may be collected long before."""
    return int(time.time())


def verifier(*files: Path, clock: Callable[[], float] = time.time, **more: Any) -> TokenVerifier:
    section = {"key_files": files, "audience": AUDIENCE, "leeway_s": 0.0, **more}
    return TokenVerifier(TokensSection.model_validate(section), clock)


def test_a_token_names_its_subject_and_its_claims(issuer: Issuer) -> None:
    token = issuer.token("alice", groups=["a", "b", 3], team="search", scope="read write", n=1)
    found = verifier(issuer.key_file).identity(token)
    assert found.names == ("alice",)
    assert found.name == "token:alice"
    assert found.claims["groups"] == {"a", "b"}
    assert found.claims["team"] == {"search"}
    assert found.claims["scope"] == {"read", "write"}
    assert found.claims["n"] == frozenset()


BAD: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "expired": (lambda one: one.token(exp=now() - 10), "expired"),
    "not yet": (lambda one: one.token(nbf=now() + 1000), "does not hold yet"),
    "issued later": (lambda one: one.token(iat=now() + 1000), "does not hold yet"),
    "wrong audience": (lambda one: one.token(aud="else"), "another audience"),
    "no audience": (lambda one: one.token(aud=None), "no aud"),
    "wrong issuer": (lambda one: one.token(iss="else"), "another issuer"),
    "no expiry": (lambda one: one.token(exp=None), "no exp"),
    "no subject": (lambda one: one.token(sub=None), "no sub"),
    "empty subject": (lambda one: one.token(""), "sub"),
    "long subject": (lambda one: one.token("x" * 300), "sub"),
    "odd subject": (lambda one: one.token("a\nb"), "control characters"),
    "alg none": (lambda one: one.unsigned(), "accepted here"),
    "public key as secret": (lambda one: one.by_public_key(), "accepted here"),
    "damaged signature": (lambda one: one.token()[:-6] + "AAAAAA", "none of the keys"),
    "damaged claims": (lambda one: one.token().replace(".", ".e", 1), "none of the keys"),
    "no token": (lambda _: "hello", "no signed token"),
    "nothing": (lambda _: "", "no signed token"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_believed(issuer: Issuer, kind: str) -> None:
    make, message = BAD[kind]
    token = make(issuer)
    with pytest.raises(Unauthenticated, match=message) as refused:
        verifier(issuer.key_file, issuer="issuer").identity(token)
    for part in token.split("."):
        assert not part or part not in str(refused.value), "a message never quotes a token"


def test_another_issuers_token_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated, match="none of the keys"):
        verifier(issuer.key_file).identity(Issuer(tmp_path, "stranger").token())


def test_a_verified_token_is_kept_until_it_expires(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [time.time()]
    tokens = verifier(issuer.key_file, clock=lambda: now_s[0])
    token = issuer.token(exp=now() + 500)
    first = tokens.identity(token)
    monkeypatch.setattr(jwt, "decode", lambda *_: pytest.fail("verified a second time"))
    assert tokens.identity(token) is first
    now_s[0] += 501.0
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.identity(token)


def test_keys_are_replaced_and_the_ones_before_are_not_believed(tmp_path: Path) -> None:
    before, after = Issuer(tmp_path, "before"), Issuer(tmp_path, "after")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [before.entry("1")]}))
    tokens = verifier(file)
    old = before.token(kid="1")
    assert tokens.identity(old).names == ("alice",)
    file.write_text(json.dumps({"keys": [before.entry("1"), after.entry("2")]}))
    tokens._keys.refresh()
    assert tokens.identity(old).names == ("alice",)
    assert tokens.identity(after.token(kid="2")).names == ("alice",)
    file.write_text(json.dumps({"keys": [after.entry("2")]}))
    tokens._keys.refresh()
    with pytest.raises(Unauthenticated, match="none of the keys"):
        tokens.identity(old)


def test_a_key_sets_other_entries_are_passed_over(issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    others = [{**issuer.entry("enc"), "use": "enc"}, {"kty": "new", "kid": "x"}]
    file.write_text(json.dumps({"keys": [*others, issuer.entry("sig")]}))
    assert verifier(file).identity(issuer.token(kid="sig")).names == ("alice",)
    with pytest.raises(Unauthenticated):
        verifier(file).identity(issuer.token(kid="enc"))


def test_other_algorithms(tmp_path: Path) -> None:
    claims = {"sub": "bob", "aud": AUDIENCE, "exp": now() + 900}
    for name, key in (
        ("RS256", rsa.generate_private_key(65537, 2048)),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ):
        file = tmp_path / f"{name}.pub"
        file.write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        assert verifier(file).identity(jwt.encode(claims, key, name)).names == ("bob",)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    by_secret = verifier(secret, algorithms=["HS256"])
    assert by_secret.identity(jwt.encode(claims, SECRET, "HS256")).names == ("bob",)
    with pytest.raises(Unauthenticated) as refused:
        by_secret.identity(jwt.encode(claims, SECRET + "!", "HS256"))
    assert SECRET not in str(refused.value) + repr(by_secret._keys.value)


def private_pem() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "algorithms", "message"),
    [
        (b"short", ["HS256"], "at least 32 bytes"),
        (SECRET.encode(), ["HS512"], "no key for HS512"),
        (private_pem(), ["EdDSA"], "private key"),
        (b"hello", ["RS256"], "no public key"),
        (b'{"keys": 7}', ["RS256"], "no key set"),
        (b'{"keys": [{"kty": "EC", "d": "AAAA"}]}', ["ES256"], "private keys"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0"}]}', ["HS256"], "no key for HS256"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_without_being_quoted(
    tmp_path: Path, content: bytes, algorithms: list[str], message: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        verifier(file, algorithms=algorithms)
    for word in content.decode().replace('"', " ").split():
        assert len(word) < 8 or word not in str(refused.value)


def test_public_keys_and_secrets_are_not_mixed(issuer: Issuer) -> None:
    with pytest.raises(ValueError, match="mixes shared secrets"):
        verifier(issuer.key_file, algorithms=["ES256", "HS256"])
    with pytest.raises(ValueError, match="algorithms"):
        verifier(issuer.key_file, algorithms=["none"])
