"""Who a call comes from, once its credentials hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

# What a region's certificate is named after it, as in eu.regions.nestvec.
REGION_SUFFIX = ".regions.nestvec"


class Source(StrEnum):
    """What the names of an identity stand in: grants tell the two apart, so that whoever hands out
    tokens cannot hand out the name of a certificate.
    """

    CERTIFICATE = "certificate"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Identity:
    """names: a certificate's URI and DNS names, or where it has none its common name; a token's
    subject. The first one stands in logs and has the quota. claims: of a token, each with all its
    values. expires_s: Unix time at which the credentials end.
    """

    source: Source
    names: tuple[str, ...]
    claims: Mapping[str, frozenset[str]] = field(default_factory=dict)
    expires_s: float = math.inf

    @property
    def name(self) -> str:
        """As logs and messages give it: which credentials, and whose."""
        return f"{self.source}:{self.names[0]}"

    def speaks_for(self, region: str) -> bool:
        """Whether it is a process of that region."""
        return region_host(region) in self.names


# Of the call that is being served; None where callers need no credentials.
current_identity: ContextVar[Identity | None] = ContextVar("current_identity", default=None)


def caller_identity() -> Identity | None:
    """Of the call that is being served; None where callers need no credentials."""
    return current_identity.get()


def region_host(region: str) -> str:
    """The DNS name that certificates of a region's front ends bear."""
    return f"{region}{REGION_SUFFIX}"
