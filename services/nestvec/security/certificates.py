"""The certificate of this process, and who a caller's certificate says it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
from cachetools import LRUCache
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtensionOID, NameOID

from nestvec.core.errors import ConfigError, Unauthenticated
from nestvec.security.files import ReloadedFiles
from nestvec.security.identity import Identity, Source
from nestvec.security.revocation import Revoked
from nestvec.telemetry.metrics import CERTIFICATE_EXPIRES

if TYPE_CHECKING:
    from nestvec.security.settings import PortTlsSection

# Of callers' certificates, kept as they were read.
_MOST_REMEMBERED = 10_000
# What a caller may send between its certificate and the authority's.
_LONGEST_CHAIN = 8


@dataclass(frozen=True, slots=True)
class Material:
    """What TLS needs, all of it read at once. chain, key: PEM, of this process. ca: who may sign
    for servers; None for those the system trusts. client_ca: who may sign for callers.
    """

    chain: bytes | None
    key: bytes | None
    ca: bytes | None
    client_ca: bytes | None
    authorities: Sequence[x509.Certificate] = ()


def reloaded_material(section: PortTlsSection) -> ReloadedFiles[Material]:
    """Of the settings' files. Raises ConfigError for what cannot be served."""
    named = {
        "chain": section.cert_file,
        "key": section.key_file,
        "ca": section.ca_file,
        "client_ca": section.client_ca_file,
    }
    return _reloaded({name: path for name, path in named.items() if path is not None})


def client_material(**named: Any) -> ReloadedFiles[Material]:
    """For a client: the paths of any of chain, key and ca. Raises ConfigError."""
    return _reloaded({name: path for name, path in named.items() if path is not None})


def _reloaded(named: dict[str, Any]) -> ReloadedFiles[Material]:
    def read(contents: Sequence[bytes]) -> Material:
        found = dict(zip(named, contents, strict=True))
        if "chain" in found:
            expires_s = _check_pair(found["chain"], found["key"], named)
            CERTIFICATE_EXPIRES.set(expires_s)
        authorities = {
            name: _certificates(found[name], named[name])
            for name in ("ca", "client_ca")
            if name in found
        }
        return Material(
            found.get("chain"),
            found.get("key"),
            found.get("ca"),
            found.get("client_ca"),
            authorities.get("client_ca", ()),
        )

    return ReloadedFiles("the TLS certificates", tuple(named.values()), read)


def _certificates(data: bytes, path: object) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ConfigError(f"{path} holds no certificate in PEM form") from None


def _check_pair(chain: bytes, key: bytes, named: dict[str, Any]) -> float:
    """That they belong together and hold now. Returns when the certificate ends."""
    own = _certificates(chain, named["chain"])[0]
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise ConfigError(
            f"{named['key']} holds no private key in PEM form without a passphrase"
        ) from None
    if private.public_key() != own.public_key():
        raise ConfigError(f"{named['key']} is not the key of the certificate in {named['chain']}")
    begins_s, expires_s = own.not_valid_before_utc, own.not_valid_after_utc
    if not begins_s.timestamp() <= time.time() < expires_s.timestamp():
        raise ConfigError(
            f"the certificate in {named['chain']} holds from {begins_s:%Y-%m-%d %H:%M} to "
            f"{expires_s:%Y-%m-%d %H:%M} UTC, and not now; have a new one made"
        )
    return expires_s.timestamp()


# --- for gRPC -----------------------------------------------------------------------------------


def server_credentials(files: ReloadedFiles[Material]) -> grpc.ServerCredentials:
    """Of a port. Files that have changed are used from the next connection on."""
    last = files.version

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before each handshake, on a thread of its own."""
        nonlocal last
        material, version = files.value, files.version
        if version == last:
            return None
        last = version
        return _configuration(material)

    material = files.value
    # The stubs do not know that None stands for no change.
    fetch: Any = changed
    return grpc.dynamic_ssl_server_credentials(
        _configuration(material), fetch, material.client_ca is not None
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    assert material.key is not None
    assert material.chain is not None
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], material.client_ca
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Of a channel, as the files are now."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.chain)


# --- callers ------------------------------------------------------------------------------------


class CallerCertificates:
    """Identities by certificate, each read once.

    gRPC has verified it as the connection was made. A connection may outlive that: a certificate
    that has ended since, that was revoked, or whose authority was taken out of the file, is refused
    at the next call. revoked: None where nobody keeps lists.
    """

    def __init__(
        self,
        files: ReloadedFiles[Material],
        clock: Callable[[], float] = time.time,
        revoked: Revoked | None = None,
    ) -> None:
        self._files = files
        self._clock = clock
        self._revoked = revoked
        self._known: LRUCache[bytes, tuple[tuple[int, int], Identity]] = LRUCache(_MOST_REMEMBERED)

    @property
    def version(self) -> tuple[int, int]:
        """Another one when the files have changed that say whom to trust."""
        self._files.refresh_if_due()
        return self._files.version, 0 if self._revoked is None else self._revoked.version

    def identity(self, leaf: bytes, chain: bytes) -> Identity:
        """leaf, chain: PEM, as gRPC's auth context has them. Raises Unauthenticated."""
        version = self.version
        known = self._known.get(leaf)
        if known is None or known[0] != version:
            authorities = self._files.value.authorities
            known = self._known[leaf] = version, _read(leaf, chain, authorities, self._revoked)
        identity = known[1]
        if self._clock() >= identity.expires_s:
            raise Unauthenticated(
                f"the certificate of {identity.name} has expired, or its authority's revocation "
                f"list has; connect with a new one"
            )
        return identity


def _read(
    leaf: bytes,
    chain: bytes,
    authorities: Sequence[x509.Certificate],
    revoked: Revoked | None,
) -> Identity:
    try:
        certificate = x509.load_pem_x509_certificate(leaf)
        between = x509.load_pem_x509_certificates(chain)[:_LONGEST_CHAIN] if chain else []
        names = _names(certificate)
    except ValueError:
        raise Unauthenticated(
            "the caller's certificate cannot be read; have it made anew"
        ) from None
    if not names:
        raise Unauthenticated(
            "the caller's certificate names nobody; it needs a URI or DNS name (subjectAltName) or "
            "a common name"
        )
    identity = Identity(
        Source.CERTIFICATE, names, expires_s=certificate.not_valid_after_utc.timestamp()
    )
    path = _path(certificate, between, authorities)
    if not path:
        raise Unauthenticated(
            f"the certificate of {identity.name} is not trusted here any more; connect with one of "
            f"an authority that is"
        )
    if revoked is None:
        return identity
    until_s = revoked.require(identity.name, path)
    return replace(identity, expires_s=min(identity.expires_s, until_s))


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """URIs and DNS names; a common name counts only where there are none of these."""
    found: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
    except x509.ExtensionNotFound:
        pass
    else:
        names: Any = extension.value
        found += names.get_values_for_type(x509.UniformResourceIdentifier)
        found += names.get_values_for_type(x509.DNSName)
    if not found:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        found += [one.value for one in common if isinstance(one.value, str)]
    return tuple(name for name in found if name)


def _path(
    certificate: x509.Certificate,
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
) -> list[x509.Certificate]:
    """The signatures' way from a certificate to an authority of today, both included; empty where
    there is none. The rest was checked as the connection was made.
    """
    path, left = [certificate], list(between)
    while True:
        current = path[-1]
        if current in authorities:
            return path
        above = next((one for one in authorities if _signed(current, one)), None)
        if above is not None:
            return [*path, above]
        issuer = next((one for one in left if one != current and _signed(current, one)), None)
        if issuer is None:
            return []
        left.remove(issuer)
        path.append(issuer)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
