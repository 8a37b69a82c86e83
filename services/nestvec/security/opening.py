"""From the settings to what a process needs; what is wrong is said before it listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestvec.security.certificates import CallerCertificates, Material, reloaded_material
from nestvec.security.files import ReloadedFiles
from nestvec.security.grants import Grant, Verb, Who
from nestvec.security.guard import Guard
from nestvec.security.identity import region_host
from nestvec.security.revocation import Revoked, reloaded_revocations, require_lists
from nestvec.security.rules import open_rules
from nestvec.security.settings import PortTlsSection, SecuritySection
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
    regions = [
        Grant(Who(certificates=(region_host(name),)), frozenset({Verb.REGION}), shared)
        for name in (others if shared else ())
    ]
    certificates = None
    if tls is not None and section.tls is not None and section.tls.client_ca_file is not None:
        certificates = CallerCertificates(tls, revoked=_revoked(section.tls, tls))
    return Guard(
        open_rules(section, regions),
        None if section.tokens is None else TokenVerifier(section.tokens),
        certificates,
    )


def _revoked(section: PortTlsSection, tls: ReloadedFiles[Material]) -> Revoked | None:
    if section.crl_file is None and section.denied_file is None:
        return None
    files = reloaded_revocations(section.crl_file, section.denied_file)
    require_lists(files.value, tls.value.authorities, section.crl_file)
    return Revoked(files, section.crl_strict)
