"""Every RPC, by every role, with right and with wrong credentials, on one real server.

What is expected stands here by hand, apart from the table that the server reads.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import Authority, fingerprint
from tests.support.secured import (
    call,
    connected,
    message,
    methods,
    secured_server,
    shown,
    unchecked,
)
from tests.support.tokens import AUDIENCE, Issuer

MINE, OTHERS = "docs-1", "secret"
# subject -> what it is granted
GRANTS = {
    "reader": (["search"], ["docs-*"]),
    "writer": (["ingest"], ["docs-*"]),
    "owner": (["admin"], ["docs-*"]),
    "operator": (["admin"], ["*"]),
    "process": (["internal"], ["*"]),
    "eu.regions.nestvec": (["region"], ["docs-*"]),
    "nobody": None,
}
REGION, PROCESS = "eu.regions.nestvec", "process"
READING = {"reader", PROCESS}
WRITING = {"writer", PROCESS}
MAKING = {"owner", "operator", PROCESS}
KNOWING = {"reader", "writer", "owner", "operator", PROCESS}

# service -> method -> who may, with MINE. `*` is for methods that are not named.
ALLOWED: dict[str, dict[str, set[str]]] = {
    "QueryService": {"*": READING},
    "QualityService": {"*": READING},
    "IngestService": {"*": WRITING},
    "AdminService": {
        "ListCollections": KNOWING,
        "DescribeCollection": KNOWING,
        "DescribeServer": KNOWING,
        "BackUpCollection": {"operator", PROCESS},
        "RestoreCollection": {"operator", PROCESS},
        "*": MAKING,
    },
    "MigrationService": {"*": MAKING},
    "RegionAdminService": {"DescribeRegions": {"operator", PROCESS}, "*": MAKING},
    "EncoderService": {"*": {"reader", "writer", PROCESS}},
    "CoarseService": {"*": {PROCESS}},
    "RerankService": {"*": {PROCESS}},
    "CrossEncoderService": {"*": {PROCESS}},
    # A process of this region is of no other one, whatever it may do here.
    "RegionService": {"*": {REGION}},
}
# Of these, what does not change with the collection that is named.
ANYWHERE = {"ListCollections", "DescribeServer", "Encode", "DescribeEncoder", "DescribeRegion"}
EVERYWHERE = {"operator", PROCESS}

WRONG: dict[str, Callable[[Issuer, Issuer], str | None]] = {
    "none at all": lambda _, __: None,
    "no token": lambda _, __: "junk",
    "expired": lambda issuer, _: issuer.token("process", exp=int(time.time()) - 3600),
    "not yet valid": lambda issuer, _: issuer.token("process", nbf=int(time.time()) + 3600),
    "wrong audience": lambda issuer, _: issuer.token("process", aud="else"),
    "wrong issuer": lambda issuer, _: issuer.token("process", iss="else"),
    "alg none": lambda issuer, _: issuer.unsigned("process"),
    "public key as secret": lambda issuer, _: issuer.by_public_key("process"),
    "unknown key": lambda _, stranger: stranger.token("process", iss="issuer"),
}


@pytest.fixture(scope="module")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Issuer, Issuer]:
    folder = tmp_path_factory.mktemp("issuers")
    return Issuer(folder), Issuer(folder, "stranger")


@pytest_asyncio.fixture
async def channel(issuers: tuple[Issuer, Issuer]) -> AsyncIterator[grpc.aio.Channel]:
    security = section(issuers[0].key_file)
    async with secured_server(security) as address, connected(address) as opened:
        yield opened


def section(key_file: Path) -> dict[str, Any]:
    return {
        "tokens": {"key_files": [key_file], "audience": AUDIENCE, "issuer": "issuer"},
        "grants": [
            {"subjects": [subject], "verbs": granted[0], "collections": granted[1]}
            for subject, granted in GRANTS.items()
            if granted is not None
        ],
    }


def allowed(method: Any, collection: str) -> set[str]:
    named = ALLOWED[method.containing_service.name]
    may = named.get(method.name, named["*"])
    if collection == MINE or method.name in ANYWHERE:
        return may
    return may & EVERYWHERE


async def test_every_rpc_by_every_role(
    channel: grpc.aio.Channel, issuers: tuple[Issuer, Issuer]
) -> None:
    wrong = []
    tokens = {role: issuers[0].token(role) for role in GRANTS}
    for path, method in methods().items():
        for collection in (MINE, OTHERS):
            request = message(method, collection=collection, name=collection, caller="eu")
            for role, token in tokens.items():
                status, told = await call(channel, method, request, token)
                may = role in allowed(method, collection)
                expected = grpc.StatusCode.OK if may else grpc.StatusCode.PERMISSION_DENIED
                if status is not expected:
                    wrong.append(f"{path} by {role} on {collection}: {status.name} {told}")
    assert not wrong, "\n".join(wrong)


async def test_every_rpc_with_wrong_credentials(
    channel: grpc.aio.Channel, issuers: tuple[Issuer, Issuer]
) -> None:
    wrong = []
    tokens = {kind: make(*issuers) for kind, make in WRONG.items()}
    for path, method in methods().items():
        request = message(method, collection=MINE, name=MINE, caller="eu")
        for kind, token in tokens.items():
            status, told = await call(channel, method, request, token)
            quoted = token is not None and any(
                len(part) > 8 and part in told for part in token.split(".")
            )
            if status is not grpc.StatusCode.UNAUTHENTICATED or not told or quoted:
                wrong.append(f"{path} with {kind}: {status.name} {told}")
    assert not wrong, "\n".join(wrong)


# --- the same by certificate ----------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def by_certificate(authority: Authority, **tls: Any) -> dict[str, Any]:
    certificate, key = authority.sign("server")
    files = {"cert_file": certificate, "key_file": key, "client_ca_file": authority.file, **tls}
    return {
        "tls": files,
        "grants": [
            {"certificates": [name], "verbs": granted[0], "collections": granted[1]}
            for name, granted in GRANTS.items()
            if granted is not None
        ],
    }


async def test_every_rpc_by_every_certificate(authority: Authority) -> None:
    """Query, ingest, administration, encoder, coarse, rerank and region alike."""
    wrong = []
    async with secured_server(by_certificate(authority)) as address, AsyncExitStack() as stack:
        for role in GRANTS:
            pair = authority.sign(role, f"DNS:{role}")
            channel = await stack.enter_async_context(
                connected(address, shown(authority.file, pair))
            )
            for path, method in methods().items():
                request = message(method, collection=MINE, name=MINE, caller="eu")
                status, told = await call(channel, method, request)
                may = role in allowed(method, MINE)
                expected = grpc.StatusCode.OK if may else grpc.StatusCode.PERMISSION_DENIED
                if status is not expected:
                    wrong.append(f"{path} by {role}: {status.name} {told}")
            assert await serving(channel), "whoever is let in may ask for health"
    assert not wrong, "\n".join(wrong)


async def test_no_service_answers_a_certificate_that_does_not_hold(
    authority: Authority, tmp_path: Path
) -> None:
    """Of a process, which might call everything."""
    stranger = Authority(tmp_path / "other", "other")
    name = f"DNS:{PROCESS}"
    pairs = {
        "none": None,
        "wrong authority": stranger.sign("strange", name),
        "expired": authority.sign("expired", name, to_hours=-0.5),
        "not yet valid": authority.sign("early", name, from_hours=1.0),
    }
    wrong = []
    async with secured_server(by_certificate(authority)) as address:
        for kind, pair in pairs.items():
            async with connected(address, unchecked(authority.file, pair)) as channel:
                for method in one_of_each_service():
                    request = message(method, collection=MINE, name=MINE, caller="eu")
                    status, told = await call(channel, method, request)
                    if status is not grpc.StatusCode.UNAVAILABLE:
                        wrong.append(f"{method.full_name} with {kind}: {status.name} {told}")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await serving(channel)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not wrong, "\n".join(wrong)


async def test_no_service_answers_a_certificate_that_was_revoked(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On connections that stand: by the authority's list, then by fingerprint."""
    monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
    denied = tmp_path / "denied"
    denied.write_text("# nobody\n")
    security = by_certificate(authority, crl_file=authority.revoke(), denied_file=denied)
    kinds = {PROCESS: f"DNS:{PROCESS}", "region": f"DNS:{REGION}"}
    pairs = {kind: authority.sign(kind, name) for kind, name in kinds.items()}
    kept = authority.sign("kept", f"DNS:{PROCESS}")
    async with (
        secured_server(security) as address,
        connected(address, shown(authority.file, pairs[PROCESS])) as process,
        connected(address, shown(authority.file, pairs["region"])) as region,
        connected(address, shown(authority.file, kept)) as other,
    ):

        async def statuses() -> dict[str, set[grpc.StatusCode]]:
            found: dict[str, set[grpc.StatusCode]] = {}
            for method in one_of_each_service():
                request = message(method, collection=MINE, name=MINE, caller="eu")
                callers = {"process": process, "other": other}
                if method.containing_service.name == "RegionService":
                    callers = {"region": region}
                for who, channel in callers.items():
                    status, _ = await call(channel, method, request)
                    found.setdefault(who, set()).add(status)
            return found

        good, bad = {grpc.StatusCode.OK}, {grpc.StatusCode.UNAUTHENTICATED}
        assert await statuses() == {"process": good, "other": good, "region": good}
        authority.revoke(pairs[PROCESS][0], pairs["region"][0])
        assert await statuses() == {"process": bad, "other": good, "region": bad}
        authority.revoke()
        assert await statuses() == {"process": good, "other": good, "region": good}
        denied.write_text("\n".join(fingerprint(pair[0]) for pair in pairs.values()))
        assert await statuses() == {"process": bad, "other": good, "region": bad}


def one_of_each_service() -> list[Any]:
    """A method of each."""
    return list({one.containing_service.name: one for one in methods().values()}.values())


async def serving(channel: grpc.aio.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_region_by_certificate_asks_in_its_own_name_only(authority: Authority) -> None:
    pair = authority.sign("eu", f"DNS:{REGION}")
    async with (
        secured_server(by_certificate(authority)) as address,
        connected(address, shown(authority.file, pair)) as channel,
    ):
        await asks_in_its_own_name_only(channel, None)


async def asks_in_its_own_name_only(channel: grpc.aio.Channel, token: str | None) -> None:
    regional = [one for one in methods().values() if one.containing_service.name == "RegionService"]
    assert len(regional) > 8
    for method in regional:
        request = message(method, collection=MINE, caller="us")
        status, told = await call(channel, method, request, token)
        assert status is grpc.StatusCode.PERMISSION_DENIED
        assert "us.regions.nestvec" in told


# --------------------------------------------------------------------------------------------------


async def test_a_region_asks_in_its_own_name_only(
    channel: grpc.aio.Channel, issuers: tuple[Issuer, Issuer]
) -> None:
    await asks_in_its_own_name_only(channel, issuers[0].token(REGION))


async def test_health_is_told_to_everybody(channel: grpc.aio.Channel) -> None:
    assert await serving(channel)
