"""A cluster that answers a steady load, and takes writes, while its parts are killed, stopped and
cut off.

No request fails while a replica of each shard lives, no answer claims what is not so, no
acknowledged write is lost or undone, and all comes back without a human. `make soak` runs every
fault, with longer windows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.errors import BelowCoverage, LeaseLost, StoreUnavailable, WorkerUnavailable
from nestvec.core.members import EVERY_COLLECTION
from nestvec_cluster.topology import DEFAULT_POOL
from tests.fault import cluster_faults as faults
from tests.fault import cluster_load
from tests.fault.cluster_faults import SHARDS, Cluster, Fault
from tests.fault.cluster_load import OK, Asked, RunningLoad
from tests.fault.cluster_truth import Truth
from tests.fault.history import History
from tests.fault.writing import Writer, problems_of, versions
from tests.support.long_runs import LONG
from tests.support.ray_cluster import DEPLOYED, STRICT, RaySession, session
from tests.support.sentences import sentences

WINDOW_S = float(os.environ.get("NESTVEC_FAULT_WINDOW_S", "30" if LONG else "5"))
REPORT = os.environ.get("NESTVEC_FAULT_REPORT")
RATE = 20.0
COLLECTION = "docs"
# Written to all the time; beside the other one, of which the truth has to stay the same.
WRITTEN = "written"
CLASSES = ("search", "autocomplete", "strict")
# What UNAVAILABLE comes back as.
_UNAVAILABLE = {
    one.__name__ for one in (StoreUnavailable, WorkerUnavailable, LeaseLost, BelowCoverage)
}
# Of a window, for faults that last until they are mended.
_LASTING = 0.6
HEAL_S = 90.0
_WRITE_PAUSE_S = 0.05
# What the writer may be ahead of the index at any moment.
_LAG = 100

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300 + 4 * WINDOW_S)]


def _never(asked: Asked) -> bool:
    return False


def unavailable_strict(asked: Asked) -> bool:
    """What would rather fail than answer in coarse order may do so."""
    return asked.search_class == "strict" and asked.status in _UNAVAILABLE


def _below_coverage(asked: Asked) -> bool:
    """Half of the shards is about half of the documents; `autocomplete` takes any part."""
    return asked.search_class != "autocomplete" and asked.status == BelowCoverage.__name__


@dataclass(frozen=True, slots=True)
class Case:
    """may_fail: which failures are no defect. lasting: whether the fault goes on until mended.
    partial: whether answers may be without a shard.
    """

    fault: Fault
    may_fail: Callable[[Asked], bool] = _never
    lasting: bool = False
    partial: bool = False


SHORT_CASES = (Case(faults.kill_redis, unavailable_strict),)
# A node is not replaced: its fault is the last.
LONG_CASES = (
    Case(faults.kill_gcs),
    Case(faults.kill_coarse_replica),
    *SHORT_CASES,
    Case(faults.kill_query_front_end),
    Case(faults.stop_coarse_replica, lasting=True),
    Case(faults.kill_encoder_replica),
    Case(faults.kill_ingest),
    Case(faults.kill_whole_shard, _below_coverage, partial=True),
    Case(faults.stop_query_front_end, lasting=True),
    Case(faults.blackhole_coarse_replica, lasting=True),
    Case(faults.refuse_coarse_replica, lasting=True),
    Case(faults.kill_node),
)
CASES = LONG_CASES if LONG else SHORT_CASES


@dataclass(slots=True)
class Outcome:
    """One line of the report. partial: answers without a shard. degraded: in coarse order, or
    without texts. acknowledged: documents written or deleted; unacknowledged: operations of
    which the writer was not told what became. recovered_s: from the kill, or from when a lasting
    fault was mended.
    """

    fault: str
    window_s: float
    requests: int
    failed: int
    excused: int
    partial: int
    degraded: int
    lies: int
    acknowledged: int
    unacknowledged: int
    p99_healthy_ms: float
    p99_window_ms: float
    most_ms: float
    recovered_s: float


class Watched:
    """A cluster under load, and what is true of it."""

    def __init__(
        self,
        cluster: Cluster,
        documents: Sequence[IngestDocument],
        stack: ExitStack,
        folder: Path,
    ) -> None:
        """documents: what COLLECTION holds."""
        self.cluster = cluster
        self._documents = documents
        self._queries = [f"what {one.text.lower()}" for one in documents[::15]]
        ids = [one.id for one in documents]
        first = cluster.fronts[0]
        self.truth = Truth.learn(first, COLLECTION, ids, SHARDS, self._queries, CLASSES)
        self.load: RunningLoad = stack.enter_context(
            cluster_load.running(cluster.fronts, COLLECTION, self._queries, CLASSES, RATE, folder)
        )
        self.load.wait_until_asking()
        # What a front end's first requests open is open before anything is measured.
        time.sleep(2.0)
        self.outcomes: list[Outcome] = []
        self.history = History()
        self._versions = versions()
        # Beside the same writes as faults are.
        writer = self._writing()
        began_s = time.monotonic()
        try:
            time.sleep(WINDOW_S)
        finally:
            writer.stop()
        self.healthy = self.load.between(began_s, time.monotonic())

    def _writing(self) -> Writer:
        """To `WRITTEN`, until it is stopped."""
        writer = Writer(
            0,
            self.cluster.writing,
            WRITTEN,
            self.history,
            len(self.outcomes),
            self._versions,
            _WRITE_PAUSE_S,
        )
        writer.start()
        return writer

    def recovered(self, gone: dict[str, int]) -> bool:
        """Whether every slot is ready, and each front end alone answers the truth in full."""
        return self.cluster.healed(gone, _LAG) and all(
            map(self._answers_in_full, self.cluster.fronts)
        )

    def _answers_in_full(self, address: str) -> bool:
        try:
            with NestvecClient(address, timeout_s=5) as client:
                for search_class in CLASSES:
                    found = client.search(COLLECTION, self._queries[3], search_class=search_class)
                    asked = cluster_load.answered(0, 0.0, search_class, 3, found)
                    if asked.degradations or self.truth.lies(asked):
                        return False
        except (StoreUnavailable, WorkerUnavailable, BelowCoverage):
            return False
        return True

    def suffers(self, case: Case) -> tuple[Outcome, list[str]]:
        """One fault, the time that it lasts, and what comes after. The second: all that is wrong.
        Fails where it does not heal.
        """
        acknowledged = self.history.acknowledged
        writer = self._writing()
        try:
            before = self.cluster.incarnations()
            began_s = time.monotonic()
            with case.fault(self.cluster) as slots:
                if case.lasting:
                    time.sleep(_LASTING * WINDOW_S)
            # What is killed counts from then on; what lasts, from when it was mended.
            mended_s = time.monotonic() if case.lasting else began_s
            self._heal({slot: before[slot] for slot in slots}, mended_s)
            recovered_s = time.monotonic() - mended_s
            self.cluster.write_again(COLLECTION, self._documents[7])
            end_s = max(time.monotonic(), began_s + WINDOW_S)
            time.sleep(max(0.0, end_s - time.monotonic()))
        finally:
            writer.stop()
        outcome, wrong = self._judge(case, began_s, end_s, recovered_s)
        outcome.acknowledged = self.history.acknowledged - acknowledged
        outcome.unacknowledged = len(writer.failures)
        return outcome, wrong + self._undone()

    def _heal(self, gone: dict[str, int], mended_s: float) -> None:
        while not self.recovered(gone):
            left_s = mended_s + HEAL_S - time.monotonic()
            assert left_s > 0, f"not well after {HEAL_S:g} s; {self.cluster.told()}"
            time.sleep(0.2)

    def _undone(self) -> list[str]:
        """Of all that was ever acknowledged, what is not as it was."""
        with NestvecClient(self.cluster.fronts[0], timeout_s=30, wait_for_ready=True) as client:
            return problems_of(client, WRITTEN, self.history)

    def _judge(
        self, case: Case, began_s: float, end_s: float, recovered_s: float
    ) -> tuple[Outcome, list[str]]:
        asked = self.load.between(began_s, end_s)
        window = [one for one in asked if one.sent_s <= began_s + WINDOW_S]
        failed = [one for one in asked if one.status != OK]
        bad = [one for one in failed if not case.may_fail(one)]
        good = [one for one in asked if one.status == OK]
        lies = [lie for one in good for lie in self.truth.lies(one)]
        partial = [one for one in good if not one.complete]
        outcome = Outcome(
            case.fault.__name__,
            WINDOW_S,
            len(asked),
            len(bad),
            len(failed) - len(bad),
            len(partial),
            sum(bool(one.degradations) and one.complete for one in good),
            len(lies),
            0,
            0,
            p99_ms(self.healthy),
            p99_ms(window),
            round(max(one.ms for one in asked), 1),
            round(recovered_s, 2),
        )
        self.outcomes.append(outcome)
        wrong = [f"{told(one, began_s)}: {one.status} {one.detail}" for one in bad] + lies
        if not case.partial:
            wrong += [f"{told(one, began_s)}: {one.degradations}" for one in partial]
        return outcome, wrong


def told(asked: Asked, began_s: float) -> str:
    """For a message."""
    return (
        f"request {asked.number} ({asked.search_class}), {asked.sent_s - began_s:.2f} s after the "
        f"fault, after {asked.ms:.0f} ms"
    )


def p99_ms(asked: list[Asked]) -> float:
    """Of all requests, those that failed too."""
    return round(float(np.percentile([one.ms for one in asked], 99)), 1)


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster for this alone, with a second node and encoders that can be killed."""
    shared = {"shards": SHARDS, "replicas": 2}
    sections = {
        "collections": {EVERY_COLLECTION: shared, COLLECTION: {}, WRITTEN: {}},
        "classes": {"strict": STRICT},
        # Queries come again and again: kept vectors would hide an encoder that is gone.
        "encoder": {
            "in": "cluster",
            "replicas": {"min": 2, "max": 2},
            "num_cpus": 0.25,
            "query_cache_bytes": 0,
        },
    }
    with (
        session("faults", **sections) as ray_session,
        faults.started(ray_session, DEFAULT_POOL) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """Of the cluster that other tests use too; with every fault, of one of its own."""
    pytest.importorskip("ray")
    with ExitStack() as stack:
        documents: Sequence[IngestDocument] = DEPLOYED
        if LONG:
            documents = [IngestDocument(f"d{n}", text) for n, text in enumerate(sentences(300))]
            cluster = stack.enter_context(two_nodes())
            with NestvecClient(cluster.writing, timeout_s=30) as client:
                client.index(COLLECTION, documents)
        else:
            deployed: RaySession = request.getfixturevalue("deployed")
            cluster = Cluster(deployed, COLLECTION)
        found = Watched(cluster, documents, stack, tmp_path_factory.mktemp("faults"))
        yield found
    if REPORT:
        Path(REPORT).write_text(json.dumps([asdict(one) for one in found.outcomes], indent=1))


def test_a_healthy_cluster_answers_everything_in_full(watched: Watched) -> None:
    asked = watched.healthy
    # Open loop: as many as the rate says, whatever became of each.
    assert len(asked) == pytest.approx(RATE * WINDOW_S, abs=2)
    assert [one for one in asked if one.status != OK or one.degradations] == []
    assert [lie for one in asked for lie in watched.truth.lies(one)] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault.__name__)
def test_a_fault_costs_no_answer_and_heals(
    watched: Watched, case: Case, record_property: Callable[[str, object], None]
) -> None:
    outcome, wrong = watched.suffers(case)
    record_property("outcome", asdict(outcome))
    assert not wrong, "\n".join([str(outcome), f"{len(wrong)} wrong", *wrong[:20]])
    assert outcome.acknowledged, "the writer was told of nothing that it wrote"
    if case.partial:
        assert outcome.partial, "no answer was without the shard that was killed"
