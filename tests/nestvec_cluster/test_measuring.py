"""The measuring must see a bad answer: against a client that is told what to answer."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from nestvec.client import (
    Explanation,
    GetResult,
    Hit,
    IngestDocument,
    IngestFailure,
    IngestReason,
    IngestReport,
    NestvecClient,
    SearchClassInfo,
    SearchResult,
    SpaceRef,
    StoredDocument,
)
from nestvec.core.arrays import Floats
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage
from nestvec.core.errors import ConfigError, StoreUnavailable
from nestvec_cluster.machine import describe_machine, memory_below
from nestvec_cluster.measuring import Queries, find_truth, index_all, measure_quality

SPACE = SpaceRef("0" * 16, 2)
IDS = [f"d{number:02}" for number in range(30)]
RERANKING = SearchClassInfo("search", 2, 10, 20, True, 1.0)
PLAIN = SearchClassInfo("autocomplete", 2, 5, 5, False, 0.0)


def circle() -> Floats:
    """Thirty directions, ever further from the first."""
    angles = np.linspace(0.0, 3.0, len(IDS))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@dataclass
class ScriptedClient:
    """Answers with `bounded`, or with `exhaustive` when every candidate is asked for."""

    bounded: list[str]
    exhaustive: list[str]
    unavailable: int = 0
    attempts: int = 0
    vectors: dict[str, Floats] = field(
        default_factory=lambda: dict(zip(IDS, circle(), strict=True))
    )

    def search(self, _collection: str, _text: str, **options: Any) -> SearchResult:
        ids = self.exhaustive if options.get("exhaustive") else self.bounded
        fetched = 20 if options.get("exhaustive") else 12
        return SearchResult(
            hits=tuple(Hit(name, 0.5, "", {}) for name in ids[: options["k"]]),
            coarse=SPACE,
            scoring=SPACE,
            coverage=Coverage(1, 1, 30, 30),
            degradations=(),
            certificate=Certificate.WITHIN_CANDIDATES,
            failure_probability=0.0,
            search_class=options["search_class"],
            generation=1,
            explanation=Explanation({"encode": 0.1, "coarse": 0.2}, 20, fetched),
        )

    def get(self, _collection: str, ids: Sequence[str], **_: Any) -> GetResult:
        found = [one for one in ids if one in self.vectors]
        documents = tuple(StoredDocument(one, "", {}, self.vectors[one]) for one in found)
        return GetResult(documents, tuple(set(ids) - set(found)), SPACE)

    def index(
        self, _collection: str, documents: Sequence[IngestDocument], **_: Any
    ) -> IngestReport:
        """Takes all but the first on the first attempt; never takes an empty text."""
        self.attempts += 1
        failures = [
            IngestFailure(0, one.id, IngestReason.INVALID, "empty")
            for one in documents
            if not one.text
        ]
        if self.attempts <= self.unavailable:
            reason = IngestReason.UNAVAILABLE
            failures.append(IngestFailure(0, documents[0].id, reason, "the store is slow"))
        taken = len(documents) - len(failures)
        return IngestReport(len(documents) - 1, taken, len(failures), tuple(failures))

    def queries(self) -> Queries:
        vectors = circle()[:1]
        return Queries(["a text"], vectors, find_truth(self.client, "c", IDS, vectors))

    @property
    def client(self) -> NestvecClient:
        return cast(NestvecClient, self)


def test_a_class_that_finds_everything_is_seen_to() -> None:
    scripted = ScriptedClient(IDS[:10], IDS[:10])
    quality = measure_quality(scripted.client, "c", RERANKING, scripted.queries())
    assert quality.recall.mean == 1.0
    assert (quality.candidates_mean, quality.fetched_mean) == (20, 12)
    assert quality.stages_ms == {"encode": 0.1, "coarse": 0.2}
    assert quality.losses is not None
    assert (quality.losses.hits, quality.losses.lost, quality.losses.reordered) == (10, 0, 0)
    assert quality.losses.fetched_mean == 20


def test_a_class_that_misses_three_is_seen_to() -> None:
    scripted = ScriptedClient([*IDS[:7], *IDS[20:23]], IDS[:10])
    quality = measure_quality(scripted.client, "c", RERANKING, scripted.queries())
    assert quality.recall.mean == pytest.approx(0.7)
    assert quality.losses is not None
    assert (quality.losses.lost, quality.losses.reordered) == (3, 0)


def test_another_order_of_the_same_hits_is_no_loss_but_is_told() -> None:
    scripted = ScriptedClient(IDS[9::-1], IDS[:10])
    quality = measure_quality(scripted.client, "c", RERANKING, scripted.queries())
    assert quality.recall.mean == 1.0
    assert quality.losses is not None
    assert (quality.losses.lost, quality.losses.reordered) == (0, 1)


def test_a_hit_that_ties_with_the_last_of_the_truth_counts() -> None:
    scripted = ScriptedClient([*IDS[:9], "d20"], IDS[:10])
    scripted.vectors["d20"] = scripted.vectors["d09"]
    quality = measure_quality(scripted.client, "c", PLAIN, scripted.queries())
    assert quality.recall.mean == 1.0
    assert quality.losses is None
    assert "exhaustive" not in quality.to_dict()


def test_a_collection_that_lost_documents_is_no_truth() -> None:
    scripted = ScriptedClient([], [])
    del scripted.vectors["d03"]
    with pytest.raises(ConfigError, match="29 of the 30 documents"):
        scripted.queries()


def test_what_the_server_could_not_take_is_sent_again_and_what_is_bad_is_left_out() -> None:
    documents = [IngestDocument("a", "text"), IngestDocument("b", ""), IngestDocument("c", "text")]
    scripted = ScriptedClient([], [], unavailable=2)
    found = index_all(scripted.client, "c", documents)
    assert [one.id for one in found] == ["a", "c"]
    assert scripted.attempts == 3
    with pytest.raises(StoreUnavailable, match=r"1 of 3 documents .* the store is slow"):
        index_all(ScriptedClient([], [], unavailable=9).client, "c", documents)


def test_the_machine_is_described_without_names_or_paths() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["libraries"]["numpy"] == np.__version__
    assert not any("/" in str(value) for value in machine["libraries"].values())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_the_memory_of_a_process_counts_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = memory_below(os.getpid())
        process.communicate(b"\n")
    assert len(found) >= 2
    assert found[0].rss_bytes > 1 << 20
    assert memory_below(process.pid) == []
