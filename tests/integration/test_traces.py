"""One search over real sockets is one tree: the SDK's caller, a front end, two coarse workers, an
encoder and a reranker behind gRPC, and another region.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.client import AsyncNestvecClient, IngestDocument
from nestvec.coarse import main as coarse_main
from nestvec.config import load_settings
from nestvec.encoder import main as encoder_main
from nestvec.rerank import main as rerank_main
from nestvec.serving import Opener, host
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster import embedded
from tests.support.caller import TEXTS
from tests.support.collector import Collector, SeenSpan, a_collector, flush, traces_to
from tests.support.faults import eventually
from tests.support.stores import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENT_S = 30.0
SHARDS = 2
QUERY = "bread"
INTERNAL, SERVER, CLIENT = 1, 2, 3
PREFIX = "nestvec.v1."


@dataclass
class House:
    """Two regions; of `eu` every room but the front end is behind gRPC."""

    eu: AsyncNestvecClient
    collector: Collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    configure_logs("error")
    with a_collector() as collector, EmbeddedValkey() as valkey:
        async with AsyncExitStack() as stack:
            ports = {"eu": free_port(), "us": free_port()}
            traced = traces_to(collector.address, sample=0.0).model_dump(mode="json")

            async def opened(opener: Opener, **sections: Any) -> str:
                given = {
                    "server": {"port": 0, "drain_s": 0.1},
                    "encoder": {"model": "hash:64"},
                    "live_recall": {"cpu_share": 0},
                    "telemetry": {"traces": traced},
                    **sections,
                }
                return (await host(load_settings(None, given), opener, stack)).address

            def region(here: str) -> dict[str, Any]:
                return {
                    "server": {"port": ports[here], "drain_s": 0.1},
                    "regions": {
                        "here": here,
                        "map": [
                            {"name": name, "number": n, "endpoints": [f"127.0.0.1:{port}"]}
                            for n, (name, port) in enumerate(ports.items(), 1)
                        ],
                        "collections": {"docs": {"mode": "partitioned"}},
                    },
                }

            store = {"url": valkey.url}
            encoder = await opened(encoder_main.mounted)
            reranker = await opened(rerank_main.mounted, store=store)
            shards = [
                await opened(
                    coarse_main.mounted,
                    store=store,
                    coarse={"shards": SHARDS, "shard": number, "use_gpu": False},
                )
                for number in range(SHARDS)
            ]
            eu = await opened(
                embedded.mounted,
                store=store,
                encoder={"address": encoder},
                rerank={"address": reranker},
                coarse={"addresses": shards},
                **region("eu"),
            )
            us = await opened(embedded.mounted, **region("us"))
            clients = [
                await stack.enter_async_context(AsyncNestvecClient(one, timeout_s=PATIENT_S))
                for one in (eu, us)
            ]
            for client, half in zip(clients, (0, 1), strict=True):
                documents = list(TEXTS.items())[half::2]
                await client.create_collection("docs")
                await client.index("docs", [IngestDocument(*one) for one in documents])

            async def all_found() -> bool:
                # It began to look for the other before that one listened.
                return all(one.reachable for one in await clients[0].regions())

            await eventually(all_found)
            yield House(clients[0], collector)


async def test_one_search_is_one_tree(house: House) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a caller")
    with tracer.start_as_current_span("work") as caller:
        found = await house.eu.search("docs", QUERY, regions="all")
    assert len(found.hits) == len(TEXTS)
    # A search that nobody traces, with a share of 0, leaves nothing behind.
    await house.eu.search("docs", QUERY, regions="all")
    await asyncio.to_thread(flush)
    spans = {one.span_id: one for one in house.collector.spans()}
    above = f"{caller.get_span_context().span_id:016x}"
    assert {one.trace_id for one in spans.values()} == {
        f"{caller.get_span_context().trace_id:032x}"
    }
    # A tree: every parent is there, and only the first call's is the caller's own span.
    roots = [one for one in spans.values() if one.parent_id == above]
    assert [(one.name, one.kind) for one in roots] == [(f"{PREFIX}QueryService/Search", SERVER)]
    assert all(one.parent_id in spans for one in spans.values() if one not in roots)
    assert not any(one.failed for one in spans.values())
    tree = sorted(path_of(one, spans) for one in spans.values())
    search, region = "Search", "Search/region/SearchRegion>/SearchRegion<"
    shards = [f"{search}/coarse/coarse.shard"] * SHARDS
    assert tree == sorted(
        [
            search,
            f"{search}/encode",
            f"{search}/encode/Encode>",
            f"{search}/encode/Encode>/Encode<",
            f"{search}/coarse",
            *shards,
            *(f"{one}/SearchCoarse>" for one in shards),
            *(f"{one}/SearchCoarse>/SearchCoarse<" for one in shards),
            f"{search}/rerank",
            f"{search}/rerank/Rerank>",
            f"{search}/rerank/Rerank>/Rerank<",
            f"{search}/rerank/Rerank>/Rerank</store.rerank",
            f"{search}/payload",
            f"{search}/payload/store.payload",
            f"{search}/region",
            f"{search}/region/SearchRegion>",
            region,
            f"{region}/encode",
            f"{region}/coarse",
            f"{region}/coarse/coarse.shard",
            f"{region}/rerank",
            f"{region}/rerank/store.rerank",
            f"{region}/payload",
            f"{region}/payload/store.payload",
            f"{search}/regions",
        ]
    )
    says_what_it_did(roots[0], list(spans.values()))
    told = b"".join(one.SerializeToString() for one in house.collector.requests)
    assert not [text for text in (QUERY, *TEXTS.values()) if text.encode() in told]
    values = {str(value) for one in spans.values() for value in one.attributes.values()}
    assert not values & TEXTS.keys()


def says_what_it_did(root: SeenSpan, spans: list[SeenSpan]) -> None:
    """Tier, class, coverage, what was fetched; which shard, which region."""
    expected = {
        "nestvec.collection": "docs",
        "nestvec.search_class": "search",
        "nestvec.coarse_dim": 64,
        "nestvec.scoring_dim": 64,
        "nestvec.coverage": 1.0,
        "nestvec.degradations": [],
        "nestvec.regions": ["eu:answered", "us:answered"],
        "rpc.grpc.status_code": 0,
    }
    assert {key: root.attributes[key] for key in expected} == expected
    assert root.attributes["nestvec.fetched"] > 0
    shards = [one.attributes["nestvec.shard"] for one in spans if one.name == "coarse.shard"]
    assert sorted(shards) == [0, 0, 1]
    (region,) = [one for one in spans if one.name == "region"]
    assert region.attributes["nestvec.region"] == "us"


def path_of(span: SeenSpan, spans: dict[str, SeenSpan]) -> str:
    """Names from the root on; of a call, its method, with > where it is made and < where it is
    answered.
    """
    name = span.name.rpartition("/")[2]
    if span.parent_id not in spans:
        return name
    mark = {SERVER: "<", CLIENT: ">"}.get(span.kind, "")
    return f"{path_of(spans[span.parent_id], spans)}/{name}{mark}"


async def test_a_search_goes_on_while_no_collector_takes_its_spans(house: House) -> None:
    tracer = tracing.tracer
    assert tracer is not None
    seen = house.collector.spans()
    tracer.sampler._share = 1.0
    house.collector.held.clear()
    for _ in range(5):
        found = await house.eu.search("docs", QUERY, regions="all")
        assert found.coverage.fraction == 1.0
    assert house.collector.spans() == seen
    house.collector.held.set()
