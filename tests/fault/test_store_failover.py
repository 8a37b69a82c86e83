"""A cluster whose store is watched by Sentinels loses its primary under load: nothing is wrong,
nothing acknowledged is lost, and all goes on with the replica that took over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.members import EVERY_COLLECTION
from nestvec_cluster.topology import DEFAULT_POOL
from tests.fault.cluster_faults import SHARDS, Cluster
from tests.fault.test_cluster_faults import (
    COLLECTION,
    WINDOW_S,
    WRITTEN,
    Case,
    Watched,
    unavailable_strict,
)
from tests.support.long_runs import takes_long
from tests.support.ray_cluster import STRICT, RaySession, free_ports
from tests.support.redis_servers import Watched as WatchedStore
from tests.support.redis_servers import until
from tests.support.sentences import sentences

DOCUMENTS = [IngestDocument(f"d{n}", text) for n, text in enumerate(sentences(300))]
ROUNDS = 2

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(500 + 6 * WINDOW_S)]


@contextmanager
def standing_on(store: WatchedStore, shared: RaySession) -> Iterator[Cluster]:
    """A cluster of its own in the Ray that is there."""
    first = free_ports(20)
    # An acknowledged write is on another server too.
    told = {"url": store.url, "prefix": "failover", "wait_replicas": 1}
    shards = {"shards": SHARDS, "replicas": 2}
    file = shared.joining(
        "failover",
        store=told,
        collections={EVERY_COLLECTION: shards, COLLECTION: {}, WRITTEN: {}},
        classes={"strict": STRICT},
        coarse={"num_cpus": 0.25},
        encoder={"in": "cluster", "num_cpus": 0.25, "query_cache_bytes": 0},
        query={"count": 2, "port": first},
        ingest={"count": 1, "port": first + 10},
        timeouts={"drain_s": 5, "ready_s": 90},
    )
    session = replace(shared, file=file)
    ran = session.run("up")
    try:
        assert ran.code == 0, ran.err
        yield Cluster(session, DEFAULT_POOL)
    finally:
        session.run("down")


@takes_long
def test_a_failover_of_the_store_costs_no_answer_and_no_write(
    ray_session: RaySession, tmp_path: Path
) -> None:
    @contextmanager
    def failed_over(_: Cluster) -> Iterator[list[str]]:
        old = store.primary
        old.kill()
        until(lambda: store.promoted(old))
        # It stays away.
        yield []

    with (
        WatchedStore(tmp_path, replicas=1 + ROUNDS, sentinels=3) as store,
        standing_on(store, ray_session) as cluster,
        ExitStack() as stack,
    ):
        with NestvecClient(cluster.writing, timeout_s=30) as client:
            client.index(COLLECTION, DOCUMENTS)
        watched = Watched(cluster, DOCUMENTS, stack, tmp_path)
        for _ in range(ROUNDS):
            until(lambda: bool(store.primary.raw.wait(1, 1000)))
            outcome, wrong = watched.suffers(Case(failed_over, unavailable_strict))
            assert not wrong, "\n".join([str(outcome), *wrong[:20]])
            assert outcome.acknowledged
