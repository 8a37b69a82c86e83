"""The pair that a process shows, and whom a caller's certificate names, now and later."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from nestvec.core.errors import ConfigError, Unauthenticated
from nestvec.security.certificates import CallerCertificates, client_material, reloaded_material
from nestvec.security.settings import PortTlsSection
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def section(authority: Authority, pair: tuple[Path, Path], **more: Path) -> PortTlsSection:
    return PortTlsSection(
        cert_file=pair[0], key_file=pair[1], client_ca_file=more.get("client_ca", authority.file)
    )


def callers(authority: Authority, clock: float | None = None) -> CallerCertificates:
    files = reloaded_material(section(authority, authority.sign("server")))
    return CallerCertificates(files, time.time if clock is None else lambda: clock)


# --- one's own ------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_said_at_the_start(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.sign("good"), authority.sign("other")
    junk = tmp_path / "junk"
    junk.write_text("junk")
    refused = [
        ((good[0], other[1]), {}, "is not the key of"),
        ((junk, good[1]), {}, "no certificate"),
        ((good[0], junk), {}, "no private key"),
        (authority.sign("late", from_hours=1.0), {}, "and not now"),
        (authority.sign("gone", to_hours=-0.5), {}, "and not now"),
        (good, {"client_ca": junk}, "no certificate"),
        ((tmp_path / "missing", good[1]), {}, "cannot be read"),
    ]
    for pair, more, message in refused:
        with pytest.raises(ConfigError, match=message):
            reloaded_material(section(authority, pair, **more))


def test_a_half_replaced_pair_is_not_used_until_it_is_whole(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    files = reloaded_material(section(authority, (certificate, key)))
    before = files.value.chain
    new_certificate, new_key = authority.sign("next")
    shutil.copy(new_certificate, certificate)
    files.refresh()
    assert files.value.chain == before
    shutil.copy(new_key, key)
    files.refresh()
    assert files.value.chain == new_certificate.read_bytes()
    assert files.version == 2


def test_a_client_may_have_an_authority_alone_or_nothing(authority: Authority) -> None:
    assert client_material(chain=None, key=None, ca=authority.file).value.ca is not None
    assert client_material(chain=None, key=None, ca=None).value.ca is None


# --- callers --------------------------------------------------------------------------------------


def test_names_are_uris_and_dns_names_and_a_common_name_without_them(authority: Authority) -> None:
    found = callers(authority)
    many, _ = authority.sign("many", "DNS:a.example", "URI:spiffe://x/y", "DNS:b.example")
    assert found.identity(many.read_bytes(), b"").names == (
        "spiffe://x/y",
        "a.example",
        "b.example",
    )
    plain, _ = authority.sign("plain", "IP:127.0.0.1")
    assert found.identity(plain.read_bytes(), b"").name == "certificate:plain"


def test_an_intermediate_leads_to_an_authority(authority: Authority, tmp_path: Path) -> None:
    below = Authority(tmp_path, "below", above=authority)
    chain = below.sign("client", "DNS:client")[0].read_bytes()
    leaf, _, between = chain.partition(b"-----END CERTIFICATE-----\n")
    leaf += b"-----END CERTIFICATE-----\n"
    assert callers(authority).identity(leaf, chain).names == ("client",)
    assert callers(authority).identity(leaf, between).names == ("client",)
    with pytest.raises(Unauthenticated, match="not trusted here any more"):
        callers(authority).identity(leaf, b"")


def test_a_certificate_ends_also_on_a_connection_that_stands(authority: Authority) -> None:
    pem = authority.sign("client", "DNS:client", to_hours=1.0)[0].read_bytes()
    assert callers(authority, time.time()).identity(pem, b"").names == ("client",)
    with pytest.raises(Unauthenticated, match="has expired"):
        callers(authority, time.time() + 7200.0).identity(pem, b"")


def test_an_authority_that_is_taken_out_takes_its_callers_along(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(authority.file.read_bytes() + other.file.read_bytes())
    files = reloaded_material(section(authority, authority.sign("server"), client_ca=bundle))
    found = CallerCertificates(files)
    kept = authority.sign("kept", "DNS:kept")[0].read_bytes()
    revoked = other.sign("revoked", "DNS:revoked")[0].read_bytes()
    assert found.identity(revoked, b"").names == ("revoked",)
    bundle.write_bytes(authority.file.read_bytes())
    files.refresh()
    with pytest.raises(Unauthenticated, match="not trusted here any more"):
        found.identity(revoked, b"")
    assert found.identity(kept, b"").names == ("kept",)


def test_what_is_no_certificate_is_refused(authority: Authority) -> None:
    with pytest.raises(Unauthenticated, match="cannot be read"):
        callers(authority).identity(b"junk", b"")
