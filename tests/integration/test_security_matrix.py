"""Every RPC, by every role, with right and with wrong credentials, on one real server.

What is expected stands here by hand, apart from the table that the server reads.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.secured import call, connected, message, methods, secured_server
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


async def test_a_region_asks_in_its_own_name_only(
    channel: grpc.aio.Channel, issuers: tuple[Issuer, Issuer]
) -> None:
    token = issuers[0].token(REGION)
    regional = [one for one in methods().values() if one.containing_service.name == "RegionService"]
    assert len(regional) > 8
    for method in regional:
        request = message(method, collection=MINE, caller="us")
        status, told = await call(channel, method, request, token)
        assert status is grpc.StatusCode.PERMISSION_DENIED
        assert "us.regions.nestvec" in told


async def test_health_is_told_to_everybody(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
