"""From the settings to what a process needs; what is wrong is said before it listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestvec.security.certificates import CallerCertificates, Material, reloaded_material
from nestvec.security.files import ReloadedFiles
from nestvec.security.grants import Access, Grant, Verb, Who
from nestvec.security.guard import Guard
from nestvec.security.identity import region_host
from nestvec.security.quotas import Quota, Quotas
from nestvec.security.settings import QuotaSection, SecuritySection, WhoSection
from nestvec.security.tokens import TokenVerifier


@dataclass(frozen=True, slots=True)
class Secured:
    """tls: of the port; None for a plain one. guard: None where everybody may call."""

    tls: ReloadedFiles[Material] | None = None
    guard: Guard | None = None


def open_security(
    section: SecuritySection, others: Sequence[str] = (), shared: Sequence[str] = ()
) -> Secured:
    """Read every file. others: regions of the map but this one, whose certificates may ask for the
    collections `shared` without any further grant. Raises ConfigError.
    """
    tls = None if section.tls is None else reloaded_material(section.tls)
    return Secured(
        tls,
        _guard(section, tls, others, shared) if section.authenticates else None,
    )


def _guard(
    section: SecuritySection,
    tls: ReloadedFiles[Material] | None,
    others: Sequence[str],
    shared: Sequence[str],
) -> Guard:
    grants = [Grant(_who(one), frozenset(one.verbs), one.collections) for one in section.grants]
    if shared:
        grants += [
            Grant(Who(certificates=(region_host(name),)), frozenset({Verb.REGION}), shared)
            for name in others
        ]
    certificates = None
    if tls is not None and section.tls is not None and section.tls.client_ca_file is not None:
        certificates = CallerCertificates(tls)
    return Guard(
        Access(grants),
        None if section.tokens is None else TokenVerifier(section.tokens),
        certificates,
        Quotas([(None if one.nobody else _who(one), _quota(one)) for one in section.quotas]),
    )


def _who(section: WhoSection) -> Who:
    claims: Mapping[str, Sequence[str]] = section.claims
    return Who(section.certificates, section.subjects, claims)


def _quota(section: QuotaSection) -> Quota:
    burst = section.burst or max(1, round(section.calls_per_s or 1.0))
    return Quota(section.calls_per_s, burst, section.concurrent)
