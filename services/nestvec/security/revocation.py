"""Certificates that hold no more before they end: revocation lists, and a list by fingerprint.

gRPC's C core knows revocation lists; its API for Python does not reach them (gRFC A69 is there for
C++ and Go). So a caller's certificate is held against them at each call, as the rest of it is.
Source: RFC 5280, 5 and 6.3.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256

from nestvec.core.errors import ConfigError, Unauthenticated
from nestvec.security.files import ReloadedFiles
from nestvec.telemetry.logs import logger
from nestvec.telemetry.metrics import CREDENTIAL_FAILURES

_PEM = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_log = logger()


@dataclass(frozen=True, slots=True)
class Revocations:
    """lists: of one authority each; None where the settings name no file of them. denied: SHA-256
    of certificates.
    """

    lists: Sequence[x509.CertificateRevocationList] | None = None
    denied: frozenset[bytes] = frozenset()


class Revoked:
    """Says no to certificates. strict: a list that has ended lets nobody in whose certificate it is
    about; else it goes on to be used, and its end is logged and counted. clock: Unix time.
    """

    def __init__(
        self,
        files: ReloadedFiles[Revocations],
        strict: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._strict = strict
        self._clock = clock
        # Of which version, when its first list ends: infinite once that was told.
        self._seen, self._ends_s = 0, math.inf

    @property
    def version(self) -> int:
        """Another one when the files have changed."""
        value, version = self._files.value, self._files.version
        if version != self._seen:
            self._seen, self._ends_s = version, _first_end_s(value.lists or ())
        if self._clock() >= self._ends_s:
            self._ends_s = math.inf
            CREDENTIAL_FAILURES.inc()
            _log.error(
                "credentials.revocations_ended",
                hint="have a new list made; see security.tls.crl_file",
                used=not self._strict,
            )
        return version

    def require(self, name: str, path: Sequence[x509.Certificate]) -> float:
        """Until when a certificate may be taken as not revoked, Unix time. path: the certificate,
        whoever signed it, and so on to an authority. name: for messages. Raises Unauthenticated.
        """
        value = self._files.value
        if any(one.fingerprint(SHA256()) in value.denied for one in path):
            raise _revoked(name)
        ends_s = math.inf
        if value.lists is None:
            return ends_s
        for certificate, issuer in pairwise(path):
            found = [one for one in value.lists if _is_of(one, issuer)]
            if not found:
                raise Unauthenticated(
                    f"the certificate of {name} cannot be checked: there is no revocation list of "
                    f"its issuer here; whoever runs this server must add it"
                )
            for one in found:
                if one.get_revoked_certificate_by_serial_number(certificate.serial_number):
                    raise _revoked(name)
            if self._strict:
                # Of several of one authority the newest says how long.
                ends_s = min(ends_s, max(map(_end_s, found)))
        if self._clock() >= ends_s:
            raise Unauthenticated(
                f"the certificate of {name} cannot be checked: the revocation list of its issuer "
                f"has ended; whoever runs this server must replace it"
            )
        return ends_s


def reloaded_revocations(crl: Path | None, denied: Path | None) -> ReloadedFiles[Revocations]:
    """Of the settings' files. Raises ConfigError."""
    paths = [path for path in (crl, denied) if path is not None]

    def read(contents: Sequence[bytes]) -> Revocations:
        found = dict(zip(paths, contents, strict=True))
        return Revocations(
            None if crl is None else _lists_in(found[crl], crl),
            frozenset() if denied is None else _fingerprints_in(found[denied], denied),
        )

    return ReloadedFiles("the revoked certificates", paths, read)


def require_lists(
    revocations: Revocations, authorities: Sequence[x509.Certificate], crl: Path | None
) -> None:
    """Raise ConfigError where an authority that may sign for callers has no list: it would let
    nobody in.
    """
    if revocations.lists is None:
        return
    for one in authorities:
        if not any(_is_of(found, one) for found in revocations.lists):
            raise ConfigError(
                f"{crl} has no revocation list that {one.subject.rfc4514_string()} has signed, and "
                f"security.tls.client_ca_file names it: nobody whom it signs could call; add its "
                f"list, an empty one too"
            )


def _lists_in(data: bytes, path: Path) -> list[x509.CertificateRevocationList]:
    try:
        lists = [x509.load_pem_x509_crl(one) for one in _PEM.findall(data)]
        partial = [one for one in lists if any(each.critical for each in one.extensions)]
    except (ValueError, x509.DuplicateExtension):
        lists, partial = [], []
    if not lists:
        raise ConfigError(f"{path} holds no revocation list in PEM form (BEGIN X509 CRL)")
    for one in partial:
        raise ConfigError(
            f"{path}: the list of {one.issuer.rfc4514_string()} is a part, or only of changes; "
            f"give the whole one"
        )
    return lists


def _fingerprints_in(data: bytes, path: Path) -> frozenset[bytes]:
    """A line each; colons as openssl writes them; what follows a # is for people."""
    found = set()
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        text = line.partition("#")[0].strip().replace(":", "").lower()
        if not text:
            continue
        if not _FINGERPRINT.fullmatch(text):
            raise ConfigError(
                f"{path}, line {number}: expected the SHA-256 of a certificate in 64 hexadecimal "
                f"digits, as `openssl x509 -noout -fingerprint -sha256 -in FILE` gives it"
            )
        found.add(bytes.fromhex(text))
    return frozenset(found)


def _is_of(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if found.issuer != issuer.subject:
        return False
    try:
        # A public key of a kind that signs nothing is a TypeError.
        return found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _first_end_s(lists: Sequence[x509.CertificateRevocationList]) -> float:
    """When the first authority is without a list that has not ended."""
    ends: dict[tuple[x509.Name, bytes | None], float] = {}
    for one in lists:
        authority = one.issuer, _key_of(one)
        ends[authority] = max(_end_s(one), ends.get(authority, -math.inf))
    return min(ends.values(), default=math.inf)


def _key_of(one: x509.CertificateRevocationList) -> bytes | None:
    """Which key of its authority has signed a list, where it says so: authorities keep their names
    when they change keys. Source: RFC 5280, 5.2.1.
    """
    try:
        found = one.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return found.value.key_identifier


def _end_s(one: x509.CertificateRevocationList) -> float:
    """One that does not say when it ends lasts until it is replaced."""
    end = one.next_update_utc
    return math.inf if end is None else end.timestamp()


def _revoked(name: str) -> Unauthenticated:
    return Unauthenticated(f"the certificate of {name} is revoked; have a new one made")
