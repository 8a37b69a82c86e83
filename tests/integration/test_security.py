"""TLS, tokens and quotas over real sockets: who gets in, what is renewed, what leaks."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from nestvec.core.errors import Overloaded
from nestvec.rpc.channels import PLAIN, ChannelSecurity
from nestvec.rpc.forwarding import forwarded
from nestvec.rpc.status import error_from
from nestvec.telemetry.metrics import CREDENTIAL_FAILURES
from nestvec.v1 import admin_pb2, ingest_pb2, query_pb2
from tests.support.certificates import Authority
from tests.support.secured import (
    PATIENT_S,
    answers,
    call,
    connected,
    every_service,
    message,
    methods,
    secured_server,
    shown,
    stub_of,
    unchecked,
)
from tests.support.tokens import AUDIENCE, Issuer

METHODS = methods()
SEARCH = METHODS["/nestvec.v1.QueryService/Search"]
LIST = METHODS["/nestvec.v1.AdminService/ListCollections"]
INGEST = METHODS["/nestvec.v1.IngestService/IngestDocuments"]
DESCRIBE_REGION = METHODS["/nestvec.v1.RegionService/DescribeRegion"]
SEARCH_REGION = METHODS["/nestvec.v1.RegionService/SearchRegion"]
ASKED = message(SEARCH, collection="docs")
OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNKNOWN_CALLER, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def mutual(authority: Authority, *names: str, **more: Any) -> dict[str, Any]:
    """The section of a server that asks for certificates, and lets `client` search."""
    certificate, key = authority.sign("server", "IP:127.0.0.1", *names)
    return {
        "tls": {"cert_file": certificate, "key_file": key, "client_ca_file": authority.file},
        "grants": [{"certificates": ["client"], "verbs": ["search"], "collections": ["docs"]}],
        **more,
    }


def by_token(issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {
        "tokens": {"key_files": [issuer.key_file], "audience": AUDIENCE, "leeway_s": 0},
        "grants": [
            {
                "subjects": ["alice"],
                "verbs": ["search", "ingest"],
                "collections": ["docs", "docs-*"],
            }
        ],
        **more,
    }


async def asked(
    address: str, security: ChannelSecurity, method: Any = SEARCH, request: Any = ASKED
) -> tuple[grpc.StatusCode, str]:
    async with connected(address, security) as channel:
        return await call(channel, method, request)


# --- certificates ---------------------------------------------------------------------------------


async def test_a_certificate_lets_in_whom_it_names(authority: Authority) -> None:
    client = authority.sign("client", "DNS:client")
    other = authority.sign("other", "DNS:other")
    async with secured_server(mutual(authority)) as address:
        assert await asked(address, shown(authority.file, client)) == (OK, "")
        status, told = await asked(address, shown(authority.file, other))
        assert status is REFUSED
        assert "certificate:other is not granted search" in told


async def test_who_brings_no_good_certificate_gets_no_connection(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    pairs = {
        "none": None,
        "wrong authority": stranger.sign("client-s", "DNS:client"),
        "expired": authority.sign("client-e", "DNS:client", to_hours=-0.5),
        "not yet valid": authority.sign("client-n", "DNS:client", from_hours=1.0),
    }
    good = authority.sign("client", "DNS:client")
    async with secured_server(mutual(authority)) as address:
        for kind, pair in pairs.items():
            found = await asked(address, unchecked(authority.file, pair))
            assert found[0] is UNAVAILABLE, (kind, found)
        assert (await asked(address, PLAIN))[0] is UNAVAILABLE
        assert (await asked(address, unchecked(authority.file, good)))[0] is OK


async def test_a_client_refuses_a_server_of_another_authority_or_name(
    authority: Authority, tmp_path: Path
) -> None:
    client = authority.sign("client", "DNS:client")
    stranger = Authority(tmp_path, "stranger")
    async with secured_server(mutual(authority, "DNS:eu.regions.nestvec")) as address:
        assert (await asked(address, shown(stranger.file, client)))[0] is UNAVAILABLE
        wrong = shown(authority.file, client, "us.regions.nestvec")
        assert (await asked(address, wrong))[0] is UNAVAILABLE
        right = shown(authority.file, client, "eu.regions.nestvec")
        assert (await asked(address, right))[0] is OK


async def test_a_region_is_believed_by_its_certificate(authority: Authority) -> None:
    """Whoever is in the map may ask for what is shared, in its own name, without any grant."""
    us = authority.sign("us", "DNS:us.regions.nestvec")
    ap = authority.sign("ap", "DNS:ap.regions.nestvec")
    client = authority.sign("client", "DNS:client")
    # Quotas are for callers from outside.
    quotas = [{"calls_per_s": 0.001, "burst": 1}]
    security = mutual(authority, "DNS:eu.regions.nestvec", quotas=quotas)
    async with secured_server(security, others=["us"], shared=["docs"]) as address:
        for pair, caller, collection, expected in (
            (us, "us", "docs", OK),
            (us, "ap", "docs", REFUSED),
            (us, "us", "mine", REFUSED),
            (ap, "ap", "docs", REFUSED),
            (ap, "us", "docs", REFUSED),
            (client, "us", "docs", REFUSED),
        ):
            request = message(SEARCH_REGION, collection=collection, caller=caller)
            found = await asked(address, shown(authority.file, pair), SEARCH_REGION, request)
            assert found[0] is expected, (pair[0].name, caller, collection, found)
        described = message(DESCRIBE_REGION, caller="us")
        assert (await asked(address, shown(authority.file, us), DESCRIBE_REGION, described))[
            0
        ] is OK
        # Its certificate opens nothing else.
        assert (await asked(address, shown(authority.file, us)))[0] is REFUSED


# --- renewed without a restart --------------------------------------------------------------------


async def test_both_sides_go_on_with_new_certificates(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
    security = mutual(authority)
    client = authority.sign("client", "DNS:client")
    # One bundle that both sides trust, so that authorities can be moved.
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(authority.file.read_bytes())
    security["tls"]["client_ca_file"] = bundle
    following = Authority(tmp_path, "following")
    async with (
        secured_server(security) as address,
        connected(address, shown(bundle, client)) as channel,
    ):
        assert (await call(channel, SEARCH, ASKED))[0] is OK
        before = channel.current()  # type: ignore[attr-defined]
        bundle.write_bytes(authority.file.read_bytes() + following.file.read_bytes())
        _replace(
            following.sign("server-2"), (security["tls"]["cert_file"], tmp_path / "server.key")
        )
        _replace(following.sign("client-2", "DNS:client"), client)
        assert (await call(channel, SEARCH, ASKED))[0] is OK
        assert channel.current() is not before  # type: ignore[attr-defined]
        # The authority before is gone, and with it whoever has its certificate.
        bundle.write_bytes(following.file.read_bytes())
        assert (await call(channel, SEARCH, ASKED))[0] is OK
        late = authority.sign("late", "DNS:client")
        assert (await asked(address, shown(bundle, late)))[0] is UNAVAILABLE


def _replace(new: tuple[Path, Path], old: tuple[Path, Path]) -> None:
    for source, target in zip(new, old, strict=True):
        shutil.move(source, target)


async def test_a_caller_is_cut_off_on_its_connection_when_its_authority_goes(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
    other = Authority(tmp_path, "other")
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(authority.file.read_bytes() + other.file.read_bytes())
    security = mutual(authority)
    security["tls"]["client_ca_file"] = bundle
    revoked = shown(authority.file, other.sign("revoked", "DNS:client"))
    kept = shown(authority.file, authority.sign("kept", "DNS:client"))
    async with (
        secured_server(security) as address,
        connected(address, revoked) as out,
        connected(address, kept) as inside,
    ):
        assert (await call(out, SEARCH, ASKED))[0] is OK
        assert (await call(inside, SEARCH, ASKED))[0] is OK
        bundle.write_bytes(authority.file.read_bytes())
        status, told = await call(out, SEARCH, ASKED)
        assert status is UNKNOWN_CALLER
        assert "not trusted here any more" in told
        assert (await call(inside, SEARCH, ASKED))[0] is OK


async def test_a_stream_ends_when_its_certificate_is_revoked(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
    client = authority.sign("client", "DNS:client")
    security = mutual(authority)
    security["tls"]["crl_file"] = authority.revoke()
    security["grants"][0]["verbs"] = ["ingest"]
    async with (
        secured_server(security) as address,
        connected(address, shown(authority.file, client)) as channel,
    ):
        stream = stub_of(channel, INGEST)(timeout=PATIENT_S)
        await stream.write(ingest_pb2.IngestDocumentsRequest(collection="docs"))
        assert await stream.read() is not grpc.aio.EOF
        authority.revoke(client[0])
        await stream.write(ingest_pb2.IngestDocumentsRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="is revoked") as refused:
            await stream.read()
        assert refused.value.code() is UNKNOWN_CALLER


# --- grants in a file -----------------------------------------------------------------------------


class Granting:
    """What alice, who has a token, may do with `docs`: in a file, looked at for each call."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
        issuer, self.file = Issuer(folder), folder / "grants.yaml"
        self.grant()
        self.section = by_token(issuer, grants=[], grants_file=self.file)
        self.token = issuer.token()
        self.metadata = (("authorization", f"Bearer {self.token}"),)

    def grant(self, *verbs: str) -> None:
        """These and no others."""
        granted = {"subjects": ["alice"], "verbs": list(verbs), "collections": ["docs"]}
        self.file.write_text(yaml.safe_dump({"grants": [granted] if verbs else []}))


async def test_grants_in_a_file_hold_from_the_next_call_on_and_end_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granting = Granting(tmp_path, monkeypatch)
    granting.grant("search", "ingest")
    token, grant = granting.token, granting.grant
    failures = CREDENTIAL_FAILURES._value.get()
    async with secured_server(granting.section) as address, connected(address) as channel:
        assert (await call(channel, SEARCH, ASKED, token))[0] is OK
        stream = stub_of(channel, INGEST)(timeout=PATIENT_S, metadata=granting.metadata)
        await stream.write(ingest_pb2.IngestDocumentsRequest(collection="docs"))
        assert await stream.read() is not grpc.aio.EOF
        granting.file.write_text("grants: [{broken")
        assert (await call(channel, SEARCH, ASKED, token))[0] is OK
        assert CREDENTIAL_FAILURES._value.get() == failures + 1
        grant("search")
        await stream.write(ingest_pb2.IngestDocumentsRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="not granted ingest") as refused:
            await stream.read()
        assert refused.value.code() is REFUSED
        assert (await call(channel, SEARCH, ASKED, token))[0] is OK
        grant()
        assert (await call(channel, SEARCH, ASKED, token))[0] is REFUSED
        grant("search")
        assert (await call(channel, SEARCH, ASKED, token))[0] is OK


async def test_a_stream_that_is_passed_on_begins_with_what_its_caller_may_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller may take its time before the first message."""
    granting = Granting(tmp_path, monkeypatch)
    granting.grant("ingest")
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        passing = [forwarded(ingest_pb2.DESCRIPTOR, "IngestService", lambda: nobody)]
        async with (
            secured_server(granting.section, passing) as address,
            connected(address) as channel,
        ):
            stream = stub_of(channel, INGEST)(timeout=PATIENT_S, metadata=granting.metadata)
            # Sooner, and it would not even be let in.
            await asyncio.sleep(0.2)
            granting.grant()
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await stream.write(ingest_pb2.IngestDocumentsRequest(collection="docs"))
            with pytest.raises(grpc.aio.AioRpcError, match="not granted ingest") as refused:
                await stream.read()
            assert refused.value.code() is REFUSED


class Silent(grpc.GenericRpcHandler):
    """Takes a stream's messages and answers none."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.first, self.over = asyncio.Event(), asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            async for one in requests:
                self.taken.append(one)
                self.first.set()
            await asyncio.Event().wait()
            yield b""
        finally:
            self.over.set()


async def test_a_stream_that_is_passed_on_ends_at_the_next_message_whoever_sends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no answer comes, a caller that may no more could write on and on."""
    granting = Granting(tmp_path, monkeypatch)
    granting.grant("ingest")
    silent, behind = Silent(), grpc.aio.server()
    behind.add_generic_rpc_handlers((silent,))
    port = behind.add_insecure_port("127.0.0.1:0")
    await behind.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as there:
        passing = [forwarded(ingest_pb2.DESCRIPTOR, "IngestService", lambda: there)]
        async with (
            secured_server(granting.section, passing) as address,
            connected(address) as channel,
        ):
            stream = stub_of(channel, INGEST)(timeout=PATIENT_S, metadata=granting.metadata)
            await stream.write(ingest_pb2.IngestDocumentsRequest(collection="docs"))
            await asyncio.wait_for(silent.first.wait(), PATIENT_S)
            granting.grant()
            await stream.write(ingest_pb2.IngestDocumentsRequest())
            with pytest.raises(grpc.aio.AioRpcError, match="not granted ingest") as refused:
                await stream.read()
            assert refused.value.code() is REFUSED
            await asyncio.wait_for(silent.over.wait(), PATIENT_S)
    await behind.stop(None)
    assert len(silent.taken) == 1


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_token_is_bound_to_its_collections(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    token = issuer.token()
    async with secured_server(by_token(issuer)) as address, connected(address) as channel:
        assert (await call(channel, SEARCH, ASKED, token))[0] is OK
        status, told = await call(channel, SEARCH, message(SEARCH, collection="others"), token)
        assert status is REFUSED
        assert "'others'" in told
        metadata = (("authorization", "Basic YTpi"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub_of(channel, SEARCH)(ASKED, metadata=metadata, timeout=PATIENT_S)
        assert refused.value.code() is UNKNOWN_CALLER


async def test_a_list_has_what_its_reader_may_know_of(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    response = admin_pb2.ListCollectionsResponse(
        collections=[
            admin_pb2.CollectionDescription(name=name) for name in ("docs", "docs-2", "secret")
        ]
    )
    path = "/nestvec.v1.AdminService/ListCollections"
    mounted = every_service({path: answers(LIST, response)})
    async with secured_server(by_token(issuer), mounted) as address, connected(address) as channel:
        metadata = (("authorization", f"Bearer {issuer.token()}"),)
        found = await stub_of(channel, LIST)(message(LIST), metadata=metadata, timeout=PATIENT_S)
        assert [one.name for one in found.collections] == ["docs", "docs-2"]


async def test_a_stream_is_bound_to_its_collection_and_ends_with_its_token(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    first = ingest_pb2.IngestDocumentsRequest(collection="docs")
    # Tokens have whole seconds; the leeway makes up for the rest.
    expires_s = time.time() + 0.4
    section = by_token(issuer)
    section["tokens"]["leeway_s"] = expires_s - int(expires_s)
    async with secured_server(section) as address, connected(address) as channel:
        other = ingest_pb2.IngestDocumentsRequest(collection="other")
        assert (await call(channel, INGEST, other, issuer.token()))[0] is REFUSED
        metadata = (("authorization", f"Bearer {issuer.token(exp=int(expires_s))}"),)

        async def messages() -> AsyncIterator[Any]:
            yield first
            await asyncio.sleep(max(0.0, expires_s - time.time()))
            yield ingest_pb2.IngestDocumentsRequest()

        stream = stub_of(channel, INGEST)(messages(), metadata=metadata, timeout=PATIENT_S)
        assert await stream.read() is not grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError, match="ended during the call") as refused:
            await stream.read()
        assert refused.value.code() is UNKNOWN_CALLER


async def test_who_asks_too_much_is_told_when_to_come_back(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    quotas = [{"subjects": ["alice"], "calls_per_s": 0.01, "burst": 2}]
    section = by_token(issuer, quotas=quotas)
    section["grants"].append({"subjects": ["bob"], "verbs": ["search"], "collections": ["*"]})
    alice, bob = issuer.token("alice"), issuer.token("bob")
    async with secured_server(section) as address, connected(address) as channel:
        for _ in range(2):
            assert (await call(channel, SEARCH, ASKED, alice))[0] is OK
        metadata = (("authorization", f"Bearer {alice}"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub_of(channel, SEARCH)(ASKED, metadata=metadata, timeout=PATIENT_S)
        error = error_from(refused.value, "server")
        assert isinstance(error, Overloaded)
        assert 0.0 < error.retry_after_s <= 100.0
        assert (await call(channel, SEARCH, ASKED, bob))[0] is OK


async def test_calls_that_ended_leave_room_for_others(tmp_path: Path) -> None:
    """Whether they were answered, refused or given up."""
    issuer = Issuer(tmp_path)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        entered.set()
        await leave.wait()
        return query_pb2.SearchResponse()

    section = by_token(issuer, quotas=[{"concurrent": 1}])
    mounted = every_service({"/nestvec.v1.QueryService/Search": slow})
    token = issuer.token()
    metadata = (("authorization", f"Bearer {token}"),)
    refused = grpc.StatusCode.RESOURCE_EXHAUSTED
    async with secured_server(section, mounted) as address, connected(address) as channel:
        for _ in range(3):
            other = message(SEARCH, collection="others")
            assert (await call(channel, SEARCH, other, token))[0] is REFUSED
        first = stub_of(channel, SEARCH)(ASKED, metadata=metadata, timeout=PATIENT_S)
        under_way = asyncio.ensure_future(first)
        await entered.wait()
        assert (await call(channel, SEARCH, ASKED, token))[0] is refused
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)
        leave.set()
        for _ in range(200):
            if (await call(channel, SEARCH, ASKED, token))[0] is OK:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the call that was given up still counts")
