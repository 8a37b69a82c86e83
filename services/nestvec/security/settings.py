"""The section `security` of nestvec.yaml. Secrets are never in it: it names files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nestvec.core.errors import ConfigError
from nestvec.security.grants import Verb
from nestvec.security.hosts import is_loopback

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip


class _Section(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PortTlsSection(_Section):
    """The certificate of this process: for its port, and for the processes that it calls. All files
    are read again when they change.
    """

    cert_file: Path = Field(description="PEM: the certificate, then those between it and its CA.")
    key_file: Path = Field(description="PEM, without a passphrase.")
    ca_file: Path | None = Field(
        None,
        description="Who may sign certificates of processes that are called. Unset: those the "
        "system trusts.",
    )
    client_ca_file: Path | None = Field(
        None,
        description="Who may sign certificates of callers. Set: each must bring one. Unset: none "
        "is asked for.",
    )
    crl_file: Path | None = Field(
        None,
        description="Revocation lists (PEM), one of each authority that signs for callers: whoever "
        "stands in one is refused.",
    )
    crl_strict: bool = Field(
        False,
        description="A list that has ended lets nobody in. Else it goes on to be used, and that is "
        "logged and counted.",
    )
    denied_file: Path | None = Field(
        None,
        description="SHA-256 fingerprints of certificates that are refused, a line each.",
    )
    server_name: str | None = Field(
        None,
        description="The name that certificates of this deployment's processes bear. Unset: that "
        "of the host which is called.",
    )

    @model_validator(mode="after")
    def _revoked_of_callers(self) -> Self:
        if self.client_ca_file is None and (self.crl_file or self.denied_file):
            raise ValueError(
                "crl_file and denied_file are for callers' certificates, and none is asked for; "
                "give client_ca_file"
            )
        if self.crl_strict and self.crl_file is None:
            raise ValueError("crl_strict is of crl_file, which is not given")
        return self


class TokensSection(_Section):
    """Signed tokens (JWT) in the metadata `authorization: Bearer`."""

    key_files: tuple[Path, ...] = Field(
        min_length=1,
        max_length=16,
        description="Public keys (PEM), key sets (JWKS, .json), or with HS256 and its like a "
        "secret. Read again when they change.",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "ES256", "EdDSA"), min_length=1, description="Any other is refused, and `none`."
    )
    audience: str = Field(min_length=1, description="What `aud` must have.")
    issuer: str | None = Field(None, min_length=1, description="What `iss` must be.")
    leeway_s: float = Field(
        30.0, ge=0, le=300, description="By which clocks may differ, for exp, nbf and iat."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = {name.startswith("HS") for name in self.algorithms}
        if len(kinds) > 1:
            raise ValueError(
                "algorithms mixes shared secrets (HS256 and its like) with public keys: a public "
                "key could then be used as a secret (RFC 8725, 2.1); take one kind"
            )
        return self


class WhoSection(_Section):
    """Whom a rule is about: any one of these is enough. Names are patterns, as in `team-*`."""

    certificates: tuple[str, ...] = Field((), description="Names in the caller's certificate.")
    subjects: tuple[str, ...] = Field((), description="A token's `sub`.")
    claims: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="A token's claim, a text or a list -> any of these."
    )

    @property
    def nobody(self) -> bool:
        """Whether it names no one."""
        return not (self.certificates or self.subjects or self.claims)


class GrantSection(WhoSection):
    """What some callers may do. What no grant allows is refused."""

    verbs: tuple[Verb, ...] = Field(min_length=1)
    collections: tuple[str, ...] = Field(
        min_length=1, description="Patterns of names; `*` for all, those to come too."
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.nobody:
            raise ValueError("the grant is for nobody; give certificates, subjects or claims")
        if Verb.INTERNAL in self.verbs and "*" not in self.collections:
            raise ValueError(
                "the verb internal is for nestvec's own processes, which serve all collections; "
                "give it with collections: ['*'], and others in a grant of their own"
            )
        return self


class QuotaSection(WhoSection):
    """The most of each single caller, in each process. The first one that fits a caller holds."""

    calls_per_s: float | None = Field(None, gt=0, description="A batch, or a stream, counts once.")
    burst: int | None = Field(
        None, ge=1, description="Calls at once after a pause. Unset: as many as in a second."
    )
    concurrent: int | None = Field(None, ge=1, description="Calls under way; streams too.")

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.calls_per_s is None and self.concurrent is None:
            raise ValueError("the quota bounds nothing; give calls_per_s or concurrent")
        if self.burst is not None and self.calls_per_s is None:
            raise ValueError("burst is of calls_per_s, which is not given")
        return self


class RulesSection(_Section):
    """Who may do what, and how often: a file of its own, as `grants_file` names it."""

    grants: tuple[GrantSection, ...] = Field((), max_length=1024)
    quotas: tuple[QuotaSection, ...] = Field((), max_length=256)


class SecuritySection(_Section):
    """Certificates, tokens, and who may do what. Without any: callers on this machine are let in,
    and nobody else can call.
    """

    tls: PortTlsSection | None = None
    tokens: TokensSection | None = None
    token_file: Path | None = Field(
        None, description="A token that this process shows to other processes of nestvec."
    )
    grants: tuple[GrantSection, ...] = Field((), max_length=1024)
    quotas: tuple[QuotaSection, ...] = Field((), max_length=256)
    grants_file: Path | None = Field(
        None,
        description="YAML with more `grants` and `quotas`, which stand behind those here. Read "
        "again when it changes.",
    )

    @property
    def authenticates(self) -> bool:
        """Whether callers need credentials."""
        return self.tokens is not None or (
            self.tls is not None and self.tls.client_ca_file is not None
        )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.authenticates and not self.grants and self.grants_file is None:
            raise ValueError("callers need credentials and no one is granted anything; add grants")
        if not self.authenticates and (self.grants or self.quotas or self.grants_file):
            raise ValueError(
                "grants and quotas need to know who calls; give tokens, or tls.client_ca_file"
            )
        return self


def require_guarded(
    host: str,
    key: str,
    security: SecuritySection,
    insecure: bool,
    words: str = "server.insecure: true (--insecure)",
) -> None:
    """Raise ConfigError for a port beyond this machine without TLS and authentication, unless that
    was asked for in so many words. key: of the host, for the message.
    """
    if insecure or is_loopback(host) or (security.tls is not None and security.authenticates):
        return
    missing = []
    if security.tls is None:
        missing.append("security.tls, so that nobody reads along")
    if not security.authenticates:
        missing.append("security.tokens or security.tls.client_ca_file, so that callers are known")
    raise ConfigError(
        f"{key} is {host or 'every address'}, which is beyond this machine: give "
        f"{' and '.join(missing)}; or listen on 127.0.0.1; or, where a network that nobody else is "
        f"on keeps it, say {words}"
    )
