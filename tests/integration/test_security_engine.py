"""A whole engine behind TLS: the SDK, the command line and a front end that passes calls on."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nestvec import NestvecClient
from nestvec.client import AsyncNestvecClient, Credentials, IngestDocument
from nestvec.config import load_settings
from nestvec.core.errors import Forbidden, NotFound, Unauthenticated, WorkerUnavailable
from nestvec.rpc.channels import ChannelSecurity, open_channel, token_header
from nestvec.rpc.forwarding import forwarded
from nestvec.security.certificates import client_material
from nestvec.security.files import TokenFile
from nestvec.v1 import admin_pb2, ingest_pb2, query_pb2
from nestvec_cluster.background import background_engine
from tests.support.certificates import Authority
from tests.support.cli import run_cli
from tests.support.secured import secured_server
from tests.support.tokens import AUDIENCE, Issuer

pytestmark = pytest.mark.usefixtures("no_credentials_left")


@dataclass(frozen=True, slots=True)
class Walled:
    """An engine that wants a certificate of every caller, and a token of those that are people."""

    address: str
    folder: Path
    authority: Authority
    issuer: Issuer
    client: tuple[Path, Path]
    process: tuple[Path, Path]
    config: Path

    def credentials(self, subject: str | None = None, **claims: Any) -> Credentials:
        token = None if subject is None else self.issuer.token(subject, **claims)
        certificate, key = self.client
        return Credentials(
            ca_file=self.authority.file, cert_file=certificate, key_file=key, token=token
        )


@pytest.fixture
def no_credentials_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one command was given is not the next one's."""
    yield
    from nestvec_cluster.cli_credentials import use_credentials

    use_credentials()


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walled]:
    folder = tmp_path_factory.mktemp("walled")
    authority, issuer = Authority(folder), Issuer(folder)
    certificate, key = authority.sign("server")
    section = {
        "tls": {
            "cert_file": str(certificate),
            "key_file": str(key),
            "client_ca_file": str(authority.file),
            "ca_file": str(authority.file),
        },
        "tokens": {"key_files": [str(issuer.key_file)], "audience": AUDIENCE},
        "grants": grants(),
    }
    config = folder / "nestvec.yaml"
    config.write_text(json.dumps({"security": section, "server": {"port": 0}}))
    with background_engine(load_settings(config)) as address:
        yield Walled(
            address,
            folder,
            authority,
            issuer,
            authority.sign("client", "DNS:client"),
            authority.sign("process", "DNS:process"),
            config,
        )


def grants() -> list[dict[str, Any]]:
    return [
        {"certificates": ["process"], "verbs": ["internal"], "collections": ["*"]},
        {"subjects": ["owner"], "verbs": ["admin"], "collections": ["docs-*"]},
        {"subjects": ["guest"], "verbs": ["search"], "collections": ["empty"]},
        {
            "claims": {"groups": ["staff"]},
            "verbs": ["search", "ingest"],
            "collections": ["docs-*"],
        },
    ]


def test_the_sdk_works_behind_tls_as_far_as_it_is_granted(walled: Walled) -> None:
    with NestvecClient(walled.address, credentials=walled.credentials("owner")) as owner:
        owner.create_collection("docs-sdk")
        with pytest.raises(Forbidden, match="'secret'"):
            owner.create_collection("secret")
        with pytest.raises(Forbidden, match="search"):
            owner.search("docs-sdk", "cats")
    staff = walled.credentials("ann", groups=["staff"])
    with NestvecClient(walled.address, credentials=staff) as client:
        report = client.index("docs-sdk", [IngestDocument("a", "a cat"), IngestDocument("b", "b")])
        assert report.indexed == 2
        assert client.search("docs-sdk", "cat", k=1).hits[0].id == "a"
        assert [one.name for one in client.collections()] == ["docs-sdk"]
        with pytest.raises(Forbidden):
            client.drop_collection("docs-sdk")
        # One that may not be known of is refused, whether it is there or not.
        with pytest.raises(Forbidden):
            client.describe("nowhere")
        with pytest.raises(NotFound):
            client.describe("docs-nowhere")
    with (
        NestvecClient(walled.address, credentials=walled.credentials()) as nobody,
        pytest.raises(Forbidden, match="certificate:client"),
    ):
        nobody.collections()
    with NestvecClient(walled.address, timeout_s=1.0) as plain, pytest.raises(WorkerUnavailable):
        plain.collections()


@pytest.fixture
async def front_end(walled: Walled) -> AsyncIterator[str]:
    """host:port of one that asks for tokens, and speaks to the engine as `process`."""
    certificate, key = walled.process
    own = ChannelSecurity(client_material(chain=certificate, key=key, ca=walled.authority.file))
    async for address in passing_on(walled, own):
        yield address


async def passing_on(walled: Walled, own: ChannelSecurity) -> AsyncIterator[str]:
    channel = open_channel(walled.address, [], own)
    services = (
        (ingest_pb2.DESCRIPTOR, "IngestService"),
        (admin_pb2.DESCRIPTOR, "AdminService"),
        (query_pb2.DESCRIPTOR, "QueryService"),
    )
    mounted = [forwarded(file, service, lambda: channel) for file, service in services]
    certificate, key = walled.authority.sign("front-end")
    section = {
        "tls": {"cert_file": certificate, "key_file": key},
        "tokens": {"key_files": [walled.issuer.key_file], "audience": AUDIENCE},
        "grants": grants(),
    }
    async with secured_server(section, mounted) as address:
        yield address
    await channel.close()


def of_a_person(walled: Walled, subject: str, **claims: Any) -> Credentials:
    return Credentials(ca_file=walled.authority.file, token=walled.issuer.token(subject, **claims))


async def test_a_front_end_passes_on_what_its_callers_may(walled: Walled, front_end: str) -> None:
    owner = of_a_person(walled, "owner")
    async with AsyncNestvecClient(front_end, credentials=owner) as client:
        await client.create_collection("docs-passed")
        with pytest.raises(Forbidden):
            await client.create_collection("secret")
    staff = of_a_person(walled, "ann", groups="staff")
    async with AsyncNestvecClient(front_end, credentials=staff) as client:
        documents = [IngestDocument(f"d{n}", f"text {n}") for n in range(20)]
        assert (await client.index("docs-passed", documents, batch_size=5)).indexed == 20
        assert (await client.search("docs-passed", "text 7")).hits
        assert "docs-passed" in [one.name for one in await client.collections()]
        with pytest.raises(Forbidden):
            await client.delete("secret", ["d1"])
        with pytest.raises(Forbidden):
            await client.index("secret", documents, fingerprint="x")
    async with AsyncNestvecClient(front_end, credentials=of_a_person(walled, "guest")) as client:
        assert await client.collections() == [], "not even their names"
    nobody = Credentials(ca_file=walled.authority.file)
    async with AsyncNestvecClient(front_end, credentials=nobody) as client:
        with pytest.raises(Unauthenticated, match="brings no token"):
            await client.collections()


async def test_a_front_end_with_a_token_of_its_own_shows_that_one(
    walled: Walled, tmp_path: Path
) -> None:
    """The engine then sees the front end, which has checked who asked."""
    file = tmp_path / "token"
    file.write_text(walled.issuer.token("front", groups=["staff"]))
    certificate, key = walled.client
    material = client_material(chain=certificate, key=key, ca=walled.authority.file)
    own = ChannelSecurity(material, token_header(TokenFile(file)))
    async for address in passing_on(walled, own):
        owner = of_a_person(walled, "owner")
        async with AsyncNestvecClient(address, credentials=owner) as client:
            with pytest.raises(Forbidden, match="token:front is not granted admin"):
                await client.create_collection("docs-own")
        guest = of_a_person(walled, "guest")
        async with AsyncNestvecClient(address, credentials=guest) as client:
            assert await client.collections() == [], "the front end leaves them out itself"


# --- the command line -----------------------------------------------------------------------------


def test_commands_take_their_credentials_from_options_or_the_environment(
    walled: Walled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = walled.client
    token = tmp_path / "token"
    token.write_text(walled.issuer.token("owner"))
    options = (
        *("--tls-ca", walled.authority.file, "--tls-cert", certificate, "--tls-key", key),
        *("--token-file", token),
    )
    made = run_cli(*options, "create", "docs-cli", "-a", walled.address)
    assert made.code == 0, made.err
    refused = run_cli(*options, "create", "secret", "-a", walled.address)
    assert refused.code == 1
    assert "token:owner is not granted admin on collection 'secret'" in refused.err
    monkeypatch.setenv("NESTVEC_TLS_CA", str(walled.authority.file))
    monkeypatch.setenv("NESTVEC_TLS_CERT", str(certificate))
    monkeypatch.setenv("NESTVEC_TLS_KEY", str(key))
    monkeypatch.setenv("NESTVEC_TOKEN_FILE", str(token))
    listed = run_cli("collections", "-a", walled.address, "--json")
    assert listed.code == 0, listed.err
    assert "docs-cli" in listed.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token-file", "TOKEN"], "where others can read it"),
        (["--tls-cert", "TOKEN"], "belong together"),
        (["--tls-ca", "TOKEN"], "no certificate"),
        (["--tls-ca", "MISSING"], "cannot be read"),
    ],
)
def test_credentials_that_cannot_be_used_are_one_clear_line(
    tmp_path: Path, options: list[str], message: str
) -> None:
    token = tmp_path / "token"
    token.write_text("eyJ-secret-token")
    named = {"TOKEN": token, "MISSING": tmp_path / "missing"}
    arguments = [named.get(one, one) for one in options]
    ran = run_cli(*arguments, "collections", "-a", "search.example:7700")
    assert ran.code == 1
    assert message in ran.err
    assert "secret-token" not in ran.err + ran.out


def test_a_server_does_not_listen_beyond_this_machine_unprotected(
    walled: Walled, tmp_path: Path
) -> None:
    ran = run_cli("serve", "--host", "0.0.0.0", "--port", "0")
    assert ran.code == 1
    assert "beyond this machine" in ran.err
    assert "--insecure" in ran.err
    config = tmp_path / "open.yaml"
    config.write_text("server: {host: 0.0.0.0}")
    checked = run_cli("config", "check", config)
    assert checked.code == 1
    assert "security.tls" in checked.err
    config.write_text("server: {host: 0.0.0.0, insecure: true}")
    assert run_cli("config", "check", config).code == 0
    assert run_cli("config", "check", walled.config).code == 0


# --- secrets --------------------------------------------------------------------------------------


def test_no_secret_is_in_what_is_logged_described_or_answered(
    walled: Walled, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    staff = walled.issuer.token("ann", groups=["staff"])
    wrong = Issuer(tmp_path).token("ann")
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery staple, forty bytes!")
    section = json.loads(walled.config.read_text())
    section["store"] = {"url": "redis://nestvec:hunter2hunter2@127.0.0.1:6379/1"}
    section["security"]["tokens"] |= {"key_files": [str(secret)], "algorithms": ["HS256"]}
    config = tmp_path / "nestvec.yaml"
    config.write_text(json.dumps(section))
    said = [run_cli("config", "check", config).out, repr(load_settings(config))]
    certificate, key = walled.client
    for token in (staff, wrong):
        credentials = Credentials(
            ca_file=walled.authority.file, cert_file=certificate, key_file=key, token=token
        )
        said.append(repr(credentials))
        with NestvecClient(walled.address, credentials=credentials) as client:
            try:
                said += [repr(client.server()), repr(client.collections())]
            except Unauthenticated as error:
                said.append(f"{error} {error.__notes__}")
    logging.shutdown()
    captured = capfd.readouterr()
    everything = "\n".join([*said, captured.out, captured.err])
    assert "Unauthenticated" in everything or "none of the keys" in everything
    for token in (staff, wrong):
        for part in token.split("."):
            assert part not in everything
    assert "redis://***@127.0.0.1:6379/1" in said[0]
    assert "battery staple" not in everything
    assert "hunter2" not in everything
    for line in key.read_text().splitlines()[1:-1]:
        assert line not in everything
