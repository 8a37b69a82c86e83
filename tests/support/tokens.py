"""Signed tokens for tests, and the files that tell a server whom to believe."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE = "nestvec"


class Issuer:
    """Signs by ES256. key_file: its public key, in PEM form."""

    def __init__(self, folder: Path, name: str = "issuer") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.key_file = folder / f"{name}.pub"
        self.key_file.write_bytes(
            self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )

    def token(self, subject: str = "alice", *, kid: str | None = None, **claims: Any) -> str:
        """One for an hour; a claim that is None is left out."""
        headers = None if kid is None else {"kid": kid}
        return jwt.encode(self._claims(subject, claims), self._key, "ES256", headers=headers)

    def unsigned(self, subject: str = "alice", **claims: Any) -> str:
        """The same with `alg: none`, which must never be believed."""
        return f"{_encoded({'alg': 'none'})}.{_encoded(self._claims(subject, claims))}."

    def by_public_key(self, subject: str = "alice", **claims: Any) -> str:
        """Signed by HS256 with the public key as the secret: the classic confusion."""
        header = _encoded({"alg": "HS256", "typ": "JWT"})
        signed = f"{header}.{_encoded(self._claims(subject, claims))}"
        digest = hmac.new(self.key_file.read_bytes(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{jwt.utils.base64url_encode(digest).decode()}"

    def entry(self, kid: str) -> dict[str, Any]:
        """Of a key set."""
        found = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {**found, "kid": kid, "alg": "ES256", "use": "sig"}

    def _claims(self, subject: str, more: dict[str, Any]) -> dict[str, Any]:
        now = int(time.time())
        usual = {"sub": subject, "aud": AUDIENCE, "iss": self._name, "iat": now, "exp": now + 3600}
        return {name: value for name, value in (usual | more).items() if value is not None}


def _encoded(data: dict[str, Any]) -> str:
    return jwt.utils.base64url_encode(json.dumps(data).encode()).decode()
