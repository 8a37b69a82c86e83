"""Encrypted connections to a real Redis: who may be trusted, and what is said when nobody is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nestvec.adapters.redis_settings import RedisSettings, TlsSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.errors import ConfigError, StoreUnavailable
from tests.support.certificates import Authority
from tests.support.redis_servers import SERVICE, Server, Watched
from tests.support.stores import a_collection, free_port, ids_of, redis_binary, some_records

Opener = Callable[[RedisSettings], RedisStore]
NAMES = [f"document {i}" for i in range(20)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def tls_options(authority: Authority, name: str, subject: str, clients: str) -> dict[str, str]:
    certificate, key = authority.sign(name, subject)
    return {
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.file),
        "tls-auth-clients": clients,
    }


def start(options: dict[str, str], binary: Path) -> tuple[Server, int]:
    """A Redis with a plain port and one for TLS."""
    port = free_port()
    return Server({"tls-port": str(port), **options}, binary=binary), port


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[tuple[Server, int]]:
    """It asks for no certificate of clients, and names its address in its own."""
    options = tls_options(authority, "server", "IP:127.0.0.1,DNS:localhost", "no")
    running, port = start(options, redis_binary())
    yield running, port
    running.stop()


def at(url: str, tls: TlsSettings | None = None) -> RedisSettings:
    """A handshake takes its time where the machine is busy with everything else."""
    return RedisSettings(url, tls=tls, connect_timeout_s=10.0, command_timeout_s=20.0)


async def works(store: RedisStore) -> None:
    docs = await store.create_collection(a_collection(), {})
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    assert None not in await store.vectors(docs, placed)
    await store.drop_collection(docs)


async def test_a_server_of_a_trusted_authority_is_used(
    server: tuple[Server, int], authority: Authority, open_store: Opener
) -> None:
    tls = TlsSettings(ca_file=authority.file)
    await works(open_store(at(f"rediss://127.0.0.1:{server[1]}", tls=tls)))


async def test_a_server_of_an_unknown_authority_is_refused(
    server: tuple[Server, int], tmp_path: Path, open_store: Opener
) -> None:
    url = f"rediss://127.0.0.1:{server[1]}"
    for tls in (TlsSettings(ca_file=Authority(tmp_path, "stranger").file), None):
        with pytest.raises(StoreUnavailable, match=r"not signed by .* store\.tls\.ca_file"):
            await open_store(at(url, tls=tls)).collections()


async def test_a_certificate_of_another_host_is_refused_unless_told_otherwise(
    authority: Authority, open_store: Opener
) -> None:
    options = tls_options(authority, "elsewhere", "DNS:elsewhere.example", "no")
    running, port = start(options, redis_binary())
    try:
        for host in ("127.0.0.1", "localhost"):
            tls = TlsSettings(ca_file=authority.file)
            with pytest.raises(StoreUnavailable, match=r"store\.tls\.check_hostname"):
                await open_store(at(f"rediss://{host}:{port}", tls=tls)).collections()
        tls = TlsSettings(ca_file=authority.file, check_hostname=False)
        await works(open_store(at(f"rediss://127.0.0.1:{port}", tls=tls)))
    finally:
        running.stop()


async def test_a_server_that_asks_for_a_certificate_gets_ours(
    authority: Authority, open_store: Opener
) -> None:
    running, port = start(tls_options(authority, "strict", "IP:127.0.0.1", "yes"), redis_binary())
    certificate, key = authority.sign("client", "DNS:client")
    url = f"rediss://127.0.0.1:{port}"
    try:
        tls = TlsSettings(ca_file=authority.file)
        # The server may be gone before what it said of the reason is read.
        with pytest.raises(StoreUnavailable, match=r"store\.tls\.cert_file|reset|closed|lost"):
            await open_store(at(url, tls=tls)).collections()
        tls = TlsSettings(ca_file=authority.file, cert_file=certificate, key_file=key)
        await works(open_store(at(url, tls=tls)))
    finally:
        running.stop()


async def test_the_wrong_kind_of_port_is_named_as_such(
    server: tuple[Server, int], authority: Authority, open_store: Opener
) -> None:
    tls = TlsSettings(ca_file=authority.file)
    with pytest.raises(StoreUnavailable, match="does not speak TLS"):
        # It waits for an answer until its time is over.
        await open_store(RedisSettings(f"rediss://{server[0].address}", tls=tls)).collections()
    with pytest.raises(StoreUnavailable):
        await open_store(RedisSettings(f"redis://127.0.0.1:{server[1]}")).collections()


async def test_sentinels_and_the_primary_behind_them_are_reached_by_tls(
    authority: Authority, tmp_path: Path, open_store: Opener
) -> None:
    options = tls_options(authority, "watched", "IP:127.0.0.1", "no")
    lines = "".join(f"{name} {value}\n" for name, value in options.items())
    with Watched(
        tmp_path, replicas=0, options=options, binary=redis_binary(), more=lines, tls=authority.file
    ) as watched:
        url = f"rediss+sentinel://{watched.hosts}/{SERVICE}"
        await works(open_store(at(url, tls=TlsSettings(ca_file=authority.file))))
        with pytest.raises(StoreUnavailable, match="not signed by"):
            await open_store(at(url)).collections()


def test_settings_of_tls_that_cannot_work_are_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        TlsSettings(cert_file=authority.file)
    missing = TlsSettings(ca_file=tmp_path / "missing.crt")
    with pytest.raises(ConfigError, match=r"store\.tls\.ca_file: .*missing\.crt is not a file"):
        RedisStore(RedisSettings("rediss://x", tls=missing))
    with pytest.raises(ConfigError, match="begin it with rediss"):
        RedisStore(RedisSettings("redis://x", tls=TlsSettings()))
