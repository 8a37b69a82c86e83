"""Every request message of every .proto, sound, damaged and random, at the sockets of real servers:
only documented statuses, nothing told that is a secret, and others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import hypothesis
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import status_pb2
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from nestvec.adapters.models.memory import HashModel
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse import servicer as coarse_servicer
from nestvec.config import Settings, load_settings
from nestvec.cross import servicer as cross_servicer
from nestvec.rerank import servicer as rerank_servicer
from nestvec.rpc.documented import statuses
from nestvec.rpc.status import code_by_number
from nestvec.serving import listen
from nestvec_cluster.background import run_on_fastest_loop
from nestvec_cluster.embedded import open_applications
from tests.support.cross_encoders import ScriptedScorer
from tests.support.fuzzing import Requests, parsed
from tests.support.long_runs import takes_long
from tests.support.secured import message, methods
from tests.support.tokens import AUDIENCE, Issuer

METHODS = methods()
LONG_S = float(os.environ.get("NESTVEC_FUZZ_S", "600"))
EXAMPLES = 2
CALL_S = 5.0
DIM = 64
# Of Python, of this machine's folders, and of what is kept.
LEAKS = re.compile(r"Traceback|File \"|\.py\b|site-packages|0x[0-9a-f]{8}|PRIVATE KEY")
FRAMED = "/nestvec.v1.CoarseService/StreamSearches"
PROCESS, REGION = "process", "us.regions.nestvec"
NEEDED = ("collection", "space", "document", "documents", "vector_space", "gate")
_VECTOR = np.eye(1, DIM, dtype="<f4").tobytes()


class Answer(NamedTuple):
    """status, told: of a call. messages: as they came."""

    status: grpc.StatusCode
    told: str
    messages: list[bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """channel, other: to the server, each a connection of its own. tokens: by whom a call is
    made. strays: errors of the server's loop that ended no call.
    """

    channel: grpc.Channel
    other: grpc.Channel
    tokens: dict[str, str]
    requests: Requests
    strays: list[Any]

    def stub(self, method: MethodDescriptor) -> Any:
        kind = "stream" if method.client_streaming else "unary"
        kind += "_stream" if method.server_streaming else "_unary"
        return getattr(self.channel, kind)(f"/{method.containing_service.full_name}/{method.name}")

    def send(self, method: MethodDescriptor, messages: list[bytes]) -> Answer:
        """All that came back."""
        regional = method.containing_service.name == "RegionService"
        token = self.tokens[REGION if regional else PROCESS]
        asked: Any = iter(messages) if method.client_streaming else messages[0]
        metadata = (("authorization", f"Bearer {token}"),)
        found: list[bytes] = []
        try:
            answered = self.stub(method)(asked, timeout=CALL_S, metadata=metadata)
            if method.server_streaming:
                found.extend(answered)
            else:
                found.append(answered)
        except grpc.RpcError as error:
            call: Any = error
            return Answer(call.code(), call.details() or "", found)
        return Answer(grpc.StatusCode.OK, "", found)


async def serve(
    settings: Settings, address: Future[str], stop: Future[None], strays: list[Any]
) -> None:
    """A whole engine, and beside it what only other processes of a cluster call."""
    asyncio.get_running_loop().set_exception_handler(lambda _, told: strays.append(told))
    async with AsyncExitStack() as stack:
        rooms = await open_applications(settings, stack)
        cap_s = settings.server.deadline_cap_s
        catalogue = StoredCatalogue(rooms.store)
        shard: Any = rooms.shards.of("docs")[0]
        mounted = [
            *rooms.mounted(),
            coarse_servicer.mount(shard, catalogue, cap_s),
            rerank_servicer.mount(rooms.reranker, catalogue, cap_s),
            cross_servicer.mount(ScriptedScorer(), cap_s),
        ]
        server = await listen(settings, mounted, stack)
        address.set_result(f"127.0.0.1:{server.port}")
        await asyncio.wrap_future(stop)


@contextmanager
def running(settings: Settings, strays: list[Any]) -> Iterator[str]:
    address: Future[str] = Future()
    stop: Future[None] = Future()

    def work() -> None:
        try:
            run_on_fastest_loop(serve(settings, address, stop, strays))
        except BaseException as error:
            if address.done():
                raise
            address.set_exception(error)

    thread = threading.Thread(target=work, name="fuzzed", daemon=True)
    thread.start()
    try:
        yield address.result()
    finally:
        stop.set_result(None)
        thread.join()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzzed")
    issuer = Issuer(folder)
    granted = [("process", "internal", "*"), (REGION, "region", "*")]
    settings = load_settings(
        None,
        {
            "server.port": 0,
            "server.deadline_cap_s": CALL_S,
            "encoder.model": f"hash:{DIM}",
            "coarse.tiers": [32],
            "classes": {"search": {"coarse_dim": 32, "k": 10, "candidates": 50}},
            "regions": {
                "here": "eu",
                "map": [
                    {"name": "eu", "number": 1, "endpoints": ["127.0.0.1:1"]},
                    {"name": "us", "number": 2, "endpoints": ["127.0.0.1:2"]},
                ],
                "collections": {"shared": {"mode": "partitioned"}},
            },
            "security": {
                "tokens": {"key_files": [str(issuer.key_file)], "audience": AUDIENCE},
                "grants": [
                    {"subjects": [who], "verbs": [verb], "collections": [names]}
                    for who, verb, names in granted
                ],
            },
        },
    )
    here = Path.cwd()
    # Where a backup may be asked to go.
    os.chdir(folder)
    try:
        own = [("grpc.use_local_subchannel_pool", 1)]
        strays: list[Any] = []
        with (
            running(settings, strays) as address,
            grpc.insecure_channel(address, own) as channel,
            grpc.insecure_channel(address, own) as other,
        ):
            tokens = {who: issuer.token(who) for who, _, _ in granted}
            made = Target(channel, other, tokens, Requests(likely(folder), NEEDED), strays)
            fill(made)
            yield made
    finally:
        os.chdir(here)


def likely(folder: Path) -> dict[str, list[Any]]:
    """By field: what a request that gets past the first look has in it."""
    space = HashModel(DIM).space.fingerprint
    names = ["docs", "docs", "shared", "shared", "made", "docs@1", "nowhere"]
    search = message(METHODS["/nestvec.v1.CoarseService/SearchCoarse"])
    search.collection.name, search.coarse_dim, search.count = "docs", 32, 10
    search.collection.space.fingerprint, search.collection.generation = space, 1
    search.collection.space.dim = DIM
    search.queries = _VECTOR
    return {
        "collection": names,
        "name": names,
        "caller": ["us", "us", "eu", ""],
        "ids": ["a", "b", "c", "nobody"],
        "id": ["a", "b", "c", "nobody"],
        "external_ids": ["a", "b", "nobody"],
        "text": ["some text", "another one"],
        "texts": ["some text", "another one"],
        "values": [_VECTOR, _VECTOR * 2],
        "vector": [_VECTOR],
        "vectors": [_VECTOR],
        "fingerprint": [space, "other"],
        "generation": [1, 2],
        "dim": [32, DIM, 16],
        "coarse_dim": [32, DIM, 16],
        "search_class": ["search", ""],
        "location": ["memory://backup", str(folder / "backup"), "nowhere"],
        "stream_id": ["one", "two"],
        "first_offset": [0, 1, 2],
        "model": ["", f"hash:{DIM}"],
        "tiers": [32],
        "count": [10],
        "limit": [10],
        "sample": [0],
        "store_dim": [DIM],
        "exist_ok": [True],
        "first": [0],
        "end": [2],
        "partitions": [0, 1],
        "k": [1, 10],
        "candidates": [10, 50],
        "partition": [0, 1, 63],
        "rate": [0.0, 1.0],
        "role": [1, 2],
        "kind": [1, 2, 3],
        "step": [1, 2, 3, 4, 5, 6],
        "request": [search.SerializeToString()],
        "timeout_s": [1.0],
        "queries": [_VECTOR],
    }


def fill(target: Target) -> None:
    """Three documents in each of two collections."""
    create = METHODS["/nestvec.v1.AdminService/CreateCollection"]
    ingest = METHODS["/nestvec.v1.IngestService/IngestDocuments"]
    for collection in ("docs", "shared"):
        target.send(create, [message(create, name=collection).SerializeToString()])
        batch = message(ingest, collection=collection)
        for name in ("a", "b", "c"):
            one = batch.documents.add().document
            one.id, one.text = name, f"text {name}"
        target.send(ingest, [batch.SerializeToString()])


def harmless(method: MethodDescriptor, data: bytes) -> bool:
    """Whether it makes nothing outside this test's folder, and calls no model elsewhere."""
    asked = parsed(method.input_type, data)
    if asked is None:
        return True
    location = getattr(asked, "location", "")
    inside = location.startswith(("memory://", str(Path.cwd()))) and ".." not in location
    elsewhere = method.name == "BeginMigration" and asked.model.url
    return (inside or re.fullmatch(r"\w*", location) is not None) and not elsewhere


def check(target: Target, method: MethodDescriptor, messages: list[bytes]) -> None:
    hypothesis.assume(all(harmless(method, one) for one in messages))
    path = f"/{method.containing_service.full_name}/{method.name}"
    status, told, answers = target.send(method, messages)
    assert status in statuses(path), f"{path} ended with {status.name}: {told}"
    assert LEAKS.search(told) is None, told
    for text in (told.encode(), *answers):
        assert b"Traceback" not in text
        for token in target.tokens.values():
            assert not any(part.encode() in text for part in token.split("."))
    if path == FRAMED:
        # Each answer in the stream has a status of its own.
        for data in answers:
            frame = parsed(method.output_type, data)
            inner = code_by_number(status_pb2.Status.FromString(frame.status).code)
            assert inner in statuses(FRAMED.replace("StreamSearches", "SearchCoarse")), frame
    assert not target.strays, target.strays


def still_served(target: Target) -> None:
    """Somebody else, over a connection of its own."""
    somebody = replace(target, channel=target.other)
    for path in ("AdminService/DescribeServer", "EncoderService/DescribeEncoder"):
        found = somebody.send(METHODS[f"/nestvec.v1.{path}"], [b""])
        assert found.status is grpc.StatusCode.OK, found


def fuzz(target: Target, method: MethodDescriptor, examples: int, seed: int | None) -> None:
    requests = target.requests
    if method.name in ("DropCollection", "CloseCollection"):
        # Or the others would be of nothing.
        requests = requests.but(name=["made", "nowhere"])
    one = requests.any_kind(method.input_type)
    many = st.lists(one, min_size=1, max_size=3 if method.client_streaming else 1)

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(many)
    def run(messages: list[bytes]) -> None:
        check(target, method, messages)

    if seed is not None:
        run = hypothesis.seed(seed)(run)
    run()


def test_every_rpc_has_its_documented_statuses() -> None:
    for path in METHODS:
        found = statuses(path)
        assert grpc.StatusCode.INTERNAL not in found
        assert grpc.StatusCode.UNKNOWN not in found


@pytest.mark.parametrize("path", METHODS)
def test_whatever_is_sent_only_documented_statuses_come_back(target: Target, path: str) -> None:
    fuzz(target, METHODS[path], EXAMPLES, None)
    still_served(target)


@takes_long
@pytest.mark.timeout(LONG_S + 300)
def test_ten_minutes_of_all_messages(target: Target) -> None:
    """NESTVEC_FUZZ_S seconds. A failure prints the messages that led to it."""
    until_s, seed = time.monotonic() + LONG_S, 0
    while time.monotonic() < until_s:
        for method in METHODS.values():
            # What was deleted is there again.
            fill(target)
            fuzz(target, method, 50, seed)
            still_served(target)
        seed += 1
