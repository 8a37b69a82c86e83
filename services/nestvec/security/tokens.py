"""Signed tokens (JWT, RFC 7519): what is accepted, and whom it names."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cachetools import LRUCache
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from nestvec.core.errors import ConfigError, Unauthenticated
from nestvec.security.files import ReloadedFiles
from nestvec.security.identity import Identity, Source
from nestvec.security.settings import TokensSection

_MOST_REMEMBERED = 10_000
_MOST_KEYS = 64
_LONGEST_NAME = 256
# A secret is at least as long as the hash it is used with (RFC 7518, 3.2).
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_FAMILIES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (RSAPublicKey, ("RS", "PS")),
    (EllipticCurvePublicKey, ("ES",)),
    (Ed25519PublicKey, ("EdDSA",)),
    (bytes, ("HS",)),
)


@dataclass(frozen=True, slots=True)
class _Key:
    """value: a public key, or a secret's bytes. kid: as a key set names it."""

    value: Any
    kid: str | None = None

    def __repr__(self) -> str:
        # One that is a secret must not get into a log by being printed.
        return f"_Key(kid={self.kid!r})"

    def fits(self, algorithm: str) -> bool:
        """Whether a signature by that algorithm can be checked with it."""
        if isinstance(self.value, bytes) and len(self.value) < _SECRET_BYTES.get(algorithm, 0):
            return False
        return any(
            isinstance(self.value, kind) and algorithm.startswith(names)
            for kind, names in _FAMILIES
        )


class TokenVerifier:
    """Verified tokens are kept, by their hash, until they expire or a key changes."""

    def __init__(self, section: TokensSection, clock: Callable[[], float] = time.time) -> None:
        self._section = section
        self._clock = clock
        secret = section.algorithms[0].startswith("HS")
        self._keys = ReloadedFiles(
            "security.tokens.key_files",
            section.key_files,
            lambda contents: _read_all(contents, section.key_files, secret, section.algorithms),
        )
        self._known: LRUCache[bytes, tuple[int, Identity]] = LRUCache(_MOST_REMEMBERED)

    @property
    def version(self) -> int:
        """Another one when the keys have changed."""
        self._keys.refresh_if_due()
        return self._keys.version

    def identity(self, token: str) -> Identity:
        """Whom a token names. Raises Unauthenticated, which never quotes it."""
        keys, version = self._keys.value, self._keys.version
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._known.get(digest)
        if known is None or known[0] != version:
            identity = self._verified(token, keys)
            self._known[digest] = version, identity
            return identity
        if self._clock() >= known[1].expires_s:
            raise Unauthenticated(_EXPIRED)
        return known[1]

    def _verified(self, token: str, keys: Sequence[_Key]) -> Identity:
        algorithm, kid = self._header(token)
        fitting = [key for key in keys if key.fits(algorithm)]
        named = [key for key in fitting if kid is not None and key.kid == kid]
        # A key from a PEM file has no id: it is tried for any.
        for key in named or [key for key in fitting if kid is None or key.kid is None]:
            try:
                return self._read(self._decoded(token, key, algorithm))
            except jwt.InvalidSignatureError:
                continue
        raise Unauthenticated(
            "the token's signature fits none of the keys that are known here; get one from the "
            "issuer that this server trusts"
        )

    def _header(self, token: str) -> tuple[str, str | None]:
        try:
            header: Mapping[str, Any] = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Unauthenticated(
                "the credentials are no signed token (JWT); send `authorization: Bearer TOKEN`"
            ) from None
        algorithm = header.get("alg")
        if algorithm not in self._section.algorithms:
            raise Unauthenticated(
                f"the token is signed by {str(algorithm)[:16]!r}; accepted here: "
                f"{', '.join(self._section.algorithms)}"
            )
        return str(algorithm), header.get("kid")

    def _decoded(self, token: str, key: _Key, algorithm: str) -> dict[str, Any]:
        section = self._section
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.value,
                algorithms=[algorithm],
                audience=section.audience,
                issuer=section.issuer,
                leeway=section.leeway_s,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(_EXPIRED) from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated(
                "the token does not hold yet (nbf, iat); use it later, or set the clocks right"
            ) from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated(
                f"the token is for another audience (aud); expected {section.audience!r}"
            ) from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated(
                f"the token is from another issuer (iss); expected {section.issuer!r}"
            ) from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token has no {error.claim}; one must have it") from None
        except jwt.PyJWTError as error:
            # Of the kind alone: the text may quote what was sent.
            raise Unauthenticated(
                f"the token cannot be used ({type(error).__name__}); have it made anew"
            ) from None
        return claims

    def _read(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_NAME:
            raise Unauthenticated(
                f"the token's sub is no text of 1 to {_LONGEST_NAME} characters; have it made anew"
            )
        if not subject.isprintable():
            raise Unauthenticated("the token's sub has control characters; have it made anew")
        expires_s = float(claims["exp"]) + self._section.leeway_s
        return Identity(
            Source.TOKEN,
            (subject,),
            {name: _values(name, value) for name, value in claims.items()},
            expires_s,
        )


_EXPIRED = "the token has expired (exp); get a new one"


def _values(name: str, value: Any) -> frozenset[str]:
    """What patterns of a grant are held against: texts, and nothing that looks like one."""
    if isinstance(value, str):
        # The only standard claim that is a list in one text (RFC 8693, 4.2).
        return frozenset(value.split()) if name == "scope" else frozenset((value,))
    if isinstance(value, list):
        return frozenset(one for one in value if isinstance(one, str))
    return frozenset()


# --- keys ---------------------------------------------------------------------------------------


def _read_all(
    contents: Sequence[bytes], paths: Sequence[Path], secret: bool, algorithms: Sequence[str]
) -> list[_Key]:
    keys = [
        key
        for data, path in zip(contents, paths, strict=True)
        for key in _keys_in(data, path, secret)
    ]
    usable = [key for key in keys if any(key.fits(one) for one in algorithms)]
    if not usable:
        least = min(_SECRET_BYTES.values())
        hint = f"a secret has at least {least} bytes" if secret else "look at `algorithms`"
        raise ConfigError(
            f"security.tokens.key_files has no key for {', '.join(algorithms)}; {hint}"
        )
    if len(usable) > _MOST_KEYS:
        raise ConfigError(
            f"security.tokens.key_files has {len(usable)} keys, expected at most {_MOST_KEYS}"
        )
    return usable


def _keys_in(data: bytes, path: Path, secret: bool) -> Iterator[_Key]:
    if data.lstrip().startswith(b"{"):
        yield from _key_set(data, path)
    elif secret:
        yield _Key(data.strip())
    else:
        yield _Key(_public_key(data, path))


def _public_key(data: bytes, path: Path) -> Any:
    """From a key, or from a certificate."""
    if b"PRIVATE KEY" in data:
        raise ConfigError(
            f"{path} holds a private key; a server needs the public one alone: keep the other "
            f"where tokens are made"
        )
    try:
        if b"BEGIN CERTIFICATE" in data:
            return x509.load_pem_x509_certificate(data).public_key()
        return load_pem_public_key(data)
    except ValueError:
        raise ConfigError(f"{path} holds no public key in PEM form, and no key set") from None


def _key_set(data: bytes, path: Path) -> Iterator[_Key]:
    """Keys for signatures; one of a kind that is not known here is passed over (RFC 7517, 5)."""
    try:
        listed = json.loads(data)["keys"]
        entries = [dict(one) for one in listed]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is no key set: expected JSON with a list `keys`") from None
    for entry in entries:
        if entry.get("use", "sig") != "sig":
            continue
        if "d" in entry:
            raise ConfigError(f"{path} holds private keys; publish the public parts alone")
        try:
            # Its errors quote the entry, which may be a secret.
            found = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
        yield _Key(found.key, entry.get("kid"))
