"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

_HOUR = datetime.timedelta(hours=1)


class Authority:
    """Signs for `127.0.0.1`, or for other names that are asked for."""

    def __init__(
        self, folder: Path, name: str = "authority", above: Authority | None = None
    ) -> None:
        """above: who signs this one, as an intermediate; it signs itself without."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = _called(f"nestvec test {name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        builder = _builder(self._name, signer._name, self._key.public_key(), -1, 48).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file = folder / f"{name}.crt"
        signed = builder.sign(signer._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        self.file.write_bytes(signed)
        # What its own certificates are followed by.
        self._chain: bytes = b"" if above is None else signed + above._chain

    def sign(
        self,
        name: str,
        *subjects: str,
        from_hours: float = -1.0,
        to_hours: float = 48.0,
    ) -> tuple[Path, Path]:
        """(certificate, key) files. name: the common name. subjects: IP:, DNS: and URI: names,
        with commas between or each apart; `IP:127.0.0.1` where none are given. from_hours,
        to_hours: from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_called(name), self._name, key.public_key(), from_hours, to_hours)
        given = ",".join(subjects or ("IP:127.0.0.1",)).split(",")
        names = [_general(one) for one in given]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(signed.public_bytes(Encoding.PEM) + self._chain)
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def revoke(self, *certificates: Path, to_hours: float = 48.0, delta: bool = False) -> Path:
        """The file of this authority's revocation list, which has these alone. delta: as one that
        tells changes only.
        """
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - 24 * _HOUR)
            .next_update(now + to_hours * _HOUR)
        )
        for path in certificates:
            revoked = (
                x509.RevokedCertificateBuilder()
                .serial_number(x509.load_pem_x509_certificate(path.read_bytes()).serial_number)
                .revocation_date(now - _HOUR)
                .build()
            )
            builder = builder.add_revoked_certificate(revoked)
        if delta:
            builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        file = self.file.with_suffix(".crl")
        # At once, as who replaces such a file does.
        new = file.with_suffix(".new")
        new.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        new.rename(file)
        return file


def fingerprint(certificate: Path) -> str:
    """SHA-256, in hexadecimal digits."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return found.fingerprint(hashes.SHA256()).hex()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    from_hours: float,
    to_hours: float,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + from_hours * _HOUR)
        .not_valid_after(now + to_hours * _HOUR)
    )


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(subject: str) -> x509.GeneralName:
    kind, _, value = subject.partition(":")
    if kind == "IP":
        return x509.IPAddress(ipaddress.ip_address(value))
    return {"DNS": x509.DNSName, "URI": x509.UniformResourceIdentifier}[kind](value)
