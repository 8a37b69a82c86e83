"""A store that is killed under load: searches go on with the right ids, and say what they lack."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from nestvec.config import load_settings
from nestvec.v1 import common_pb2, query_pb2
from nestvec_cluster.background import background_engine
from tests.support.caller import PATIENCE_S, Caller, document
from tests.support.sentences import sentences
from tests.support.store_server import StoreServer

COUNT = 1500
ALLOWED = {
    common_pb2.DEGRADATION_KIND_RERANK_SKIPPED,
    common_pb2.DEGRADATION_KIND_RERANK_PARTIAL,
    common_pb2.DEGRADATION_KIND_PAYLOAD_MISSING,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module", params=[1, 3], ids=["one shard", "three shards"])
def caller(store: StoreServer, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Nothing is kept at hand, so that what is answered without the store comes from the shards."""
    settings = load_settings(
        None,
        {
            "server.port": 0,
            "store.url": store.url,
            "store.prefix": f"lost-{request.param}",
            "store.payload_cache_bytes": 0,
            "coarse.shards": request.param,
            "classes.analyst": {
                "coarse_dim": 256,
                "k": 20,
                "candidates": 400,
                "min_coverage": 1.0,
                "degrade": False,
            },
        },
    )
    with background_engine(settings) as address:
        caller = Caller(address, "docs")
        caller.create()
        stream = caller.stream()
        for start in range(0, COUNT, 500):
            texts = sentences(COUNT)[start : start + 500]
            rows = enumerate(texts, start)
            assert stream.send(*(document(f"s{row}", text) for row, text in rows)).indexed == 500
        stream.finish()
        yield caller
        caller.close()


@dataclass
class Load:
    """Callers that ask for one sentence after another until `stop`."""

    caller: Caller
    search_class: str
    stop: threading.Event = field(default_factory=threading.Event)
    whole: int = 0
    lacking: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[grpc.StatusCode] = field(default_factory=list)

    def run(self) -> None:
        texts = sentences(COUNT)
        row = 0
        while not self.stop.is_set():
            row = (row + 7) % COUNT
            try:
                answer = self.caller.search(texts[row], search_class=self.search_class)
            except grpc.RpcError as error:
                self.refused.append(error.code())
                continue
            self.judge(row, answer)

    def judge(self, row: int, answer: query_pb2.SearchResponse) -> None:
        hits, kinds = answer.hits, {one.kind for one in answer.degradations}
        scores = [hit.score for hit in hits]
        if hits[0].id != f"s{row}" or scores != sorted(scores, reverse=True):
            self.wrong.append(f"{row}: {[hit.id for hit in hits]}")
        if len({hit.id for hit in hits}) != len(hits) or not kinds <= ALLOWED:
            self.wrong.append(f"{row}: {kinds}, {[hit.id for hit in hits]}")
        textless = any(not hit.text for hit in hits)
        if textless != (common_pb2.DEGRADATION_KIND_PAYLOAD_MISSING in kinds):
            self.wrong.append(f"{row}: texts are missing and it is not said, or the reverse")
        if kinds and answer.certificate != common_pb2.CERTIFICATE_NONE:
            # A rerank that was whole keeps its certificate where only texts are lost.
            reranked = kinds == {common_pb2.DEGRADATION_KIND_PAYLOAD_MISSING}
            partial = common_pb2.DEGRADATION_KIND_RERANK_PARTIAL in kinds
            if not (reranked or partial):
                self.wrong.append(f"{row}: certified {answer.certificate}")
        self.whole += not kinds
        self.lacking += bool(kinds)


def until(holds) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_store_killed_under_load_costs_order_and_texts_and_comes_back_whole(
    store: StoreServer, caller: Caller
) -> None:
    loads = [Load(caller, name) for name in ("search", "autocomplete", "search", "analyst")]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(load.whole > 20 for load in loads))
        store.kill()
        until(lambda: all(load.lacking > 20 or len(load.refused) > 20 for load in loads))
        store.start_again()
        before = [load.whole for load in loads]
        until(lambda: all(load.whole > old + 20 for load, old in zip(loads, before, strict=True)))
    finally:
        for load in loads:
            load.stop.set()
        for thread in threads:
            thread.join()
    *degrading, analyst = loads
    for load in loads:
        assert load.wrong == []
    for load in degrading:
        assert load.refused == []
        assert load.lacking > 20
    assert analyst.lacking == 0
    assert set(analyst.refused) == {grpc.StatusCode.UNAVAILABLE}
    # What is written now is found, and nothing has to be started again for it.
    stream = caller.stream()
    assert stream.send(document("owl", "An owl hoots in the moonlight.")).indexed == 1
    stream.finish()
    assert caller.found("an owl in the moonlight")[0] == "owl"
    caller.delete("owl")


def test_without_the_store_the_same_hits_stand_in_the_order_of_their_estimates(
    store: StoreServer, caller: Caller
) -> None:
    texts = sentences(COUNT)[:200:20]
    exact = [{hit.id: hit.score for hit in caller.search(text, k=400).hits} for text in texts]
    store.kill()
    try:
        for text, scores in zip(texts, exact, strict=True):
            answer = caller.search(text)
            estimates = {hit.id: hit.score for hit in answer.hits}
            assert len(estimates) == 10
            # Each is an estimate of that document's own cosine: no id stands for another one.
            for name, estimate in estimates.items():
                assert abs(estimate - scores[name]) < 0.15
    finally:
        store.start_again()
    until(lambda: not caller.search(texts[0]).degradations)
