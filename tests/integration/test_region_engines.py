"""Two engines with a store each, in one process: each answers for the other over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.config import Settings, load_settings
from nestvec.core.regions import RegionState
from nestvec.telemetry.logs import configure_logs
from nestvec.v1 import region_pb2, region_pb2_grpc
from nestvec_cluster.background import background_engine
from nestvec_cluster.ports import free_ports
from tests.support.caller import TEXTS
from tests.support.engine import SharedEngine

PATIENT_S = 30.0


def settings_of(here: str, ports: dict[str, int]) -> Settings:
    """The region `here` of those."""
    places = [
        {"name": name, "number": number, "endpoints": [f"127.0.0.1:{port}"]}
        for number, (name, port) in enumerate(ports.items(), 1)
    ]
    return load_settings(
        None,
        {
            "server.port": ports[here],
            "encoder.model": "hash:64",
            "regions": {
                "here": here,
                "map": places,
                "collections": {"docs": {"mode": "partitioned"}},
            },
        },
    )


@dataclass(frozen=True, slots=True)
class Pair:
    """Clients of two regions and of one engine that has the documents of both."""

    eu: NestvecClient
    us: NestvecClient
    both: NestvecClient
    ports: dict[str, int]


@contextmanager
def filled(settings: Settings, texts: dict[str, str]) -> Iterator[NestvecClient]:
    with background_engine(settings) as address, NestvecClient(address) as client:
        client.create_collection("docs")
        client.index("docs", [IngestDocument(name, text) for name, text in texts.items()])
        yield client


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    configure_logs("error")
    ports = dict(zip(("eu", "us"), free_ports(2), strict=True))
    halves = [dict(list(TEXTS.items())[half::2]) for half in (0, 1)]
    alone = load_settings(None, {"server.port": 0, "encoder.model": "hash:64"})
    with ExitStack() as stack:
        eu = stack.enter_context(filled(settings_of("eu", ports), halves[0]))
        us = stack.enter_context(filled(settings_of("us", ports), halves[1]))
        both = stack.enter_context(filled(alone, TEXTS))
        yield Pair(eu, us, both, ports)


def columns(result: SearchResult) -> list[tuple[str, float, str]]:
    return [(hit.id, hit.score, hit.text) for hit in result.hits]


def test_regions_together_answer_as_one_engine_that_has_all_of_it(pair: Pair) -> None:
    for text in ("bread", "stars and planets", "a game"):
        there = pair.both.search("docs", text, timeout_s=PATIENT_S)
        for client in (pair.eu, pair.us):
            found = client.search("docs", text, regions="all", timeout_s=PATIENT_S)
            assert columns(found) == columns(there)
            assert found.coverage.documents_answered == len(TEXTS)
            assert [one.state for one in found.regions] == [RegionState.ANSWERED] * 2
            assert {hit.region for hit in found.hits} == {"eu", "us"}


def test_a_region_alone_answers_with_what_it_has(pair: Pair) -> None:
    found = pair.eu.search("docs", "bread", regions="local", timeout_s=PATIENT_S)
    assert {hit.region for hit in found.hits} == {"eu"}
    assert found.coverage.documents_total == len(TEXTS) // 2
    states = {one.name: one.state for one in found.regions}
    assert states == {"eu": RegionState.ANSWERED, "us": RegionState.NOT_ASKED}


def test_many_queries_in_one_call_go_abroad_in_one(pair: Pair) -> None:
    texts = list(TEXTS.values())
    found = pair.eu.search_batch("docs", texts, regions="all", timeout_s=PATIENT_S)
    there = pair.both.search_batch("docs", texts, timeout_s=PATIENT_S)
    assert [columns(one) for one in found] == [columns(one) for one in there]
    assert np.mean([one.hits[0].score for one in found]) == pytest.approx(1.0, abs=1e-3)


def test_a_deployment_that_is_no_region_answers_none(engine: SharedEngine) -> None:
    with grpc.insecure_channel(engine.address) as channel:
        stub = region_pb2_grpc.RegionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.DescribeRegion(region_pb2.DescribeRegionRequest(caller="eu"), timeout=PATIENT_S)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_region_answers_those_of_its_map_alone(pair: Pair) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{pair.ports['us']}") as channel:
        stub = region_pb2_grpc.RegionServiceStub(channel)
        described = stub.DescribeRegion(region_pb2.DescribeRegionRequest(caller="eu"))
        assert (described.region, described.number) == ("us", 2)
        assert [one.name for one in described.collections] == ["docs"]
        with pytest.raises(grpc.RpcError) as raised:
            stub.DescribeRegion(region_pb2.DescribeRegionRequest(caller="mars"))
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
