"""A certificate that was revoked lets nobody in, while the list says so and when it has ended."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nestvec.core.errors import ConfigError, Unauthenticated
from nestvec.security import revocation as module
from nestvec.security.certificates import CallerCertificates, Material, reloaded_material
from nestvec.security.files import ReloadedFiles
from nestvec.security.opening import open_security
from nestvec.security.revocation import Revoked, reloaded_revocations, require_lists
from nestvec.security.settings import PortTlsSection, SecuritySection
from tests.support.certificates import Authority, fingerprint
from tests.support.rooms import SpyLog


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SpyLog:
    spy = SpyLog()
    monkeypatch.setattr(module, "_log", spy)
    return spy


class Desk:
    """A server's look at callers, with files that a test changes."""

    def __init__(
        self,
        authority: Authority,
        crl: Path | None,
        denied: Path | None = None,
        *,
        strict: bool = False,
    ) -> None:
        certificate, key = authority.sign("server")
        self.now_s = time.time()
        self.tls: ReloadedFiles[Material] = reloaded_material(
            PortTlsSection(cert_file=certificate, key_file=key, client_ca_file=authority.file)
        )
        self.files = reloaded_revocations(crl, denied)
        self._callers = CallerCertificates(
            self.tls,
            lambda: self.now_s,
            Revoked(self.files, strict, lambda: self.now_s),
        )

    def refusal(self, pair: tuple[Path, Path]) -> str:
        """Empty for who is let in. What a chain has behind the certificate comes along."""
        data = pair[0].read_bytes()
        leaf, end, _ = data.partition(b"-----END CERTIFICATE-----\n")
        try:
            self._callers.identity(leaf + end, data)
        except Unauthenticated as error:
            return str(error)
        return ""


def test_who_stands_in_a_list_is_refused_from_the_next_look_on(
    authority: Authority, tmp_path: Path
) -> None:
    crl = authority.revoke()
    desk = Desk(authority, crl)
    kept, lost = authority.sign("kept", "DNS:kept"), authority.sign("lost", "DNS:lost")
    assert (desk.refusal(kept), desk.refusal(lost)) == ("", "")
    authority.revoke(lost[0])
    desk.files.refresh()
    assert desk.refusal(kept) == ""
    assert "certificate:lost is revoked" in desk.refusal(lost)
    # Not half a list, and not another authority's: what stood before goes on.
    for broken in (crl.read_bytes()[:200], b"junk"):
        crl.write_bytes(broken)
        desk.files.refresh()
        assert "revoked" in desk.refusal(lost)
    authority.revoke()
    desk.files.refresh()
    assert desk.refusal(lost) == ""


def test_a_list_of_somebody_else_says_nothing(authority: Authority, tmp_path: Path) -> None:
    """One that bears the authority's name, and another's signature, least of all."""
    client = authority.sign("client", "DNS:client")
    strangers = [Authority(tmp_path / name, name) for name in ("other", "authority")]
    crl, desk = Path(), None
    for stranger in strangers:
        crl = stranger.revoke(client[0])
        desk = Desk(authority, crl)
        assert "there is no revocation list of its issuer" in desk.refusal(client)
        with pytest.raises(
            ConfigError, match=r"has no revocation list that .*authority has signed"
        ):
            require_lists(desk.files.value, desk.tls.value.authorities, crl)
    assert desk is not None
    crl.write_bytes(crl.read_bytes() + authority.revoke().read_bytes())
    desk.files.refresh()
    assert desk.refusal(client) == ""


def test_an_intermediate_may_be_revoked_and_may_revoke(
    authority: Authority, tmp_path: Path
) -> None:
    below = Authority(tmp_path, "below", above=authority)
    client, other = below.sign("client", "DNS:client"), below.sign("other", "DNS:other")
    lists = tmp_path / "both.crl"

    def look(above: Path, own: Path | None) -> tuple[str, str]:
        lists.write_bytes(above.read_bytes() + (own.read_bytes() if own else b""))
        desk = Desk(authority, lists)
        return desk.refusal(client), desk.refusal(other)

    assert look(authority.revoke(), below.revoke()) == ("", "")
    told = look(authority.revoke(), below.revoke(client[0]))
    assert "is revoked" in told[0]
    assert told[1] == ""
    assert all("is revoked" in one for one in look(authority.revoke(below.file), below.revoke()))
    assert all("no revocation list" in one for one in look(authority.revoke(), None))


def test_a_list_that_has_ended_goes_on_to_be_used_and_is_told_of(
    authority: Authority, log: SpyLog
) -> None:
    kept, lost = authority.sign("kept", "DNS:kept"), authority.sign("lost", "DNS:lost")
    desk = Desk(authority, authority.revoke(lost[0], to_hours=1.0))
    assert not log.named("credentials.revocations_ended")
    assert desk.refusal(kept) == ""
    desk.now_s += 7200.0
    for _ in range(3):
        assert desk.refusal(kept) == ""
        assert "is revoked" in desk.refusal(lost)
    assert len(log.named("credentials.revocations_ended")) == 1


def a_list(name: str, key: ec.EllipticCurvePrivateKey, hours: float) -> bytes:
    """Of an authority of that name, signed with one of its keys; ends so many hours from now."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .last_update(now - datetime.timedelta(days=1))
        .next_update(now + datetime.timedelta(hours=hours))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_a_list_that_ends_beside_a_newer_one_of_its_authority_is_no_alarm(
    tmp_path: Path, log: SpyLog
) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    file = tmp_path / "lists.crl"
    now_s = time.time()

    def alarms(after_hours: float, *lists: bytes) -> int:
        file.write_bytes(b"".join(lists))
        log.lines.clear()
        revoked = Revoked(
            reloaded_revocations(file, None), clock=lambda: now_s + 3600 * after_hours
        )
        assert revoked.version == revoked.version == 1
        return len(log.named("credentials.revocations_ended"))

    old, new = a_list("one", keys[0], 1.0), a_list("one", keys[0], 9.0)
    for both in ((old, new), (new, old)):
        assert alarms(2.0, *both) == 0
        assert alarms(10.0, *both) == 1
    # Another one's, also another key's of the same name, makes nothing good.
    assert alarms(2.0, old, a_list("two", keys[1], 9.0)) == 1
    assert alarms(2.0, old, a_list("one", keys[1], 9.0)) == 1


def test_a_strict_server_lets_nobody_in_by_a_list_that_has_ended(authority: Authority) -> None:
    kept = authority.sign("kept", "DNS:kept")
    desk = Desk(authority, authority.revoke(to_hours=1.0), strict=True)
    assert desk.refusal(kept) == ""
    desk.now_s += 7200.0
    assert "revocation list has" in desk.refusal(kept)
    assert "has ended" in desk.refusal(authority.sign("new", "DNS:new"))
    authority.revoke(to_hours=9.0)
    desk.files.refresh()
    assert desk.refusal(kept) == ""


def test_a_certificate_is_denied_by_its_fingerprint(authority: Authority, tmp_path: Path) -> None:
    kept, lost = authority.sign("kept", "DNS:kept"), authority.sign("lost", "DNS:lost")
    denied = tmp_path / "denied"
    denied.write_text("# nobody yet\n")
    desk = Desk(authority, None, denied)
    assert desk.refusal(lost) == ""
    hexadecimal = fingerprint(lost[0])
    for written in (hexadecimal, ":".join(hexadecimal[i : i + 2] for i in range(0, 64, 2)).upper()):
        denied.write_text(f"{written}  # left on a train\n\n")
        desk.files.refresh()
        assert "is revoked" in desk.refusal(lost)
        assert desk.refusal(kept) == ""
    denied.write_text("ab:cd\n")
    desk.files.refresh()
    assert "is revoked" in desk.refusal(lost), "a broken file is not used"
    with pytest.raises(ConfigError, match="line 1: expected the SHA-256"):
        reloaded_revocations(None, denied)


def test_what_is_no_whole_list_is_refused_at_the_start(
    authority: Authority, tmp_path: Path
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    with pytest.raises(ConfigError, match="no revocation list in PEM form"):
        reloaded_revocations(junk, None)
    with pytest.raises(ConfigError, match="only of changes"):
        reloaded_revocations(authority.revoke(delta=True), None)
    certificate, key = authority.sign("server")
    pair = {"cert_file": certificate, "key_file": key}
    with pytest.raises(ValueError, match="give client_ca_file"):
        PortTlsSection.model_validate({**pair, "denied_file": junk})
    with pytest.raises(ValueError, match="crl_strict is of crl_file"):
        PortTlsSection.model_validate(
            {**pair, "client_ca_file": authority.file, "crl_strict": True}
        )
    other = Authority(tmp_path / "other", "other")
    section = SecuritySection.model_validate(
        {
            "tls": {**pair, "client_ca_file": authority.file, "crl_file": other.revoke()},
            "grants": [{"certificates": ["a"], "verbs": ["search"], "collections": ["*"]}],
        }
    )
    with pytest.raises(ConfigError, match="client_ca_file names it"):
        open_security(section)
