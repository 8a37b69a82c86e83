"""A channel with files behind it: what it is renewed by, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from nestvec.rpc.call_stream import CallStream
from nestvec.rpc.channels import (
    ChannelSecurity,
    open_blocking_channel,
    open_channel,
    token_header,
)
from nestvec.security.certificates import client_material
from nestvec.security.files import TokenFile
from nestvec.v1 import coarse_pb2, coarse_pb2_grpc, query_pb2, query_pb2_grpc
from tests.support.certificates import Authority
from tests.support.secured import connected, every_service, secured_server, shown

PATIENT_S = 20.0
SEARCH, STREAM = "/nestvec.v1.QueryService/Search", "/nestvec.v1.CoarseService/StreamSearches"


class Place:
    """A server with TLS, and the certificate of a client."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.pair = self.authority.sign("client", "DNS:client")
        certificate, key = self.authority.sign("server")
        self.section = {"tls": {"cert_file": certificate, "key_file": key}}
        self.security = shown(self.authority.file, self.pair)

    def renew(self) -> None:
        """As an operator's tools do, in two steps."""
        for new, old in zip(self.authority.sign("next", "DNS:client"), self.pair, strict=True):
            shutil.move(new, old)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("nestvec.security.files.LOOK_S", 0.0)
    return Place(tmp_path)


def seen_tokens(seen: list[list[str]]) -> Any:
    async def search(request: Any, context: Any) -> Any:
        given = context.invocation_metadata()
        seen.append([value for key, value in given if key == "authorization"])
        return query_pb2.SearchResponse(search_class=request.text)

    return search


async def test_plain_channels_are_grpcs_own() -> None:
    channel = open_channel("127.0.0.1:1", [])
    assert isinstance(channel, grpc.aio.Channel)
    await channel.close()
    with open_blocking_channel("127.0.0.1:1", []) as blocking:
        assert isinstance(blocking, grpc.Channel)


async def test_the_token_of_the_file_stands_in_for_any_that_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("mine")
    security = ChannelSecurity(None, token_header(TokenFile(file)))
    seen: list[list[str]] = []
    mounted = every_service({SEARCH: seen_tokens(seen)})
    async with secured_server({}, mounted) as address, connected(address, security) as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)
        request = query_pb2.SearchRequest()
        await stub.Search(request, timeout=PATIENT_S)
        theirs = (("authorization", "Bearer theirs"), ("x-request-id", "7"))
        await stub.Search(request, timeout=PATIENT_S, metadata=theirs)
    assert seen == [["Bearer mine"], ["Bearer mine"]]


async def test_calls_under_way_finish_on_the_channel_before(place: Place) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def search(request: Any, context: Any) -> Any:
        if request.text == "slow":
            began.set()
            await go_on.wait()
        return query_pb2.SearchResponse(search_class=request.text)

    mounted = every_service({SEARCH: search})
    async with (
        secured_server(place.section, mounted) as address,
        connected(address, place.security) as channel,
    ):
        stub = query_pb2_grpc.QueryServiceStub(channel)
        slow = asyncio.ensure_future(
            stub.Search(query_pb2.SearchRequest(text="slow"), timeout=PATIENT_S)
        )
        await began.wait()
        before = channel.current()  # type: ignore[attr-defined]
        place.renew()
        fast = await stub.Search(query_pb2.SearchRequest(text="fast"), timeout=PATIENT_S)
        assert fast.search_class == "fast"
        assert channel.current() is not before  # type: ignore[attr-defined]
        go_on.set()
        assert (await slow).search_class == "slow"


async def test_a_shared_stream_is_opened_again_and_loses_no_call(place: Place) -> None:
    began, go_on, opened = asyncio.Event(), asyncio.Event(), []

    async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
        opened.append(context.peer())
        async for frame in requests:
            if frame.request == b"slow":
                began.set()
                await go_on.wait()
            yield coarse_pb2.StreamSearchesResponse(id=frame.id, response=frame.request)

    mounted = every_service({STREAM: answer})
    async with (
        secured_server(place.section, mounted) as address,
        connected(address, place.security) as channel,
    ):
        calls = CallStream(coarse_pb2_grpc.CoarseServiceStub(channel).StreamSearches, "peer")
        assert await calls.call(b"first", PATIENT_S) == b"first"
        slow = asyncio.ensure_future(calls.call(b"slow", PATIENT_S))
        await began.wait()
        place.renew()
        assert await calls.call(b"after", PATIENT_S) == b"after"
        assert len(set(opened)) == 2, "on another connection"
        go_on.set()
        assert await slow == b"slow"
        await calls.close(1.0)


async def test_a_blocking_channel_is_renewed_too(place: Place) -> None:
    async with secured_server(place.section) as address:

        def twice() -> tuple[object, object]:
            with open_blocking_channel(address, [], place.security) as channel:
                stub = query_pb2_grpc.QueryServiceStub(channel)
                stub.Search(query_pb2.SearchRequest(), timeout=PATIENT_S)
                before = channel.current()  # type: ignore[attr-defined]
                place.renew()
                stub.Search.future(query_pb2.SearchRequest(), timeout=PATIENT_S).result()
                return before, channel.current()  # type: ignore[attr-defined]

        before, after = await asyncio.to_thread(twice)
        assert before is not after


async def test_what_cannot_be_read_again_changes_nothing(place: Place) -> None:
    async with (
        secured_server(place.section) as address,
        connected(address, place.security) as channel,
    ):
        stub = query_pb2_grpc.QueryServiceStub(channel)
        await stub.Search(query_pb2.SearchRequest(), timeout=PATIENT_S)
        before = channel.current()  # type: ignore[attr-defined]
        place.pair[1].write_text("half a k")
        await stub.Search(query_pb2.SearchRequest(), timeout=PATIENT_S)
        assert channel.current() is before  # type: ignore[attr-defined]


def test_a_client_without_files_trusts_what_the_system_does() -> None:
    assert client_material(chain=None, key=None, ca=None).version == 1
