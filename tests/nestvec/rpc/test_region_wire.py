"""What another region says is believed only where it can be true."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage, Degradation, DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import ConfigError, InvalidRequest, WorkerUnavailable
from nestvec.core.filters import Exists
from nestvec.core.ports import (
    CoarseHits,
    LogBatch,
    RegionAnswer,
    RegionHits,
    RegionQuery,
    RegionRerank,
    StoredDocument,
    StoredVersion,
)
from nestvec.core.regions import HeldCollection, RegionDescription
from nestvec.rpc.region_log_wire import (
    batch_from_wire,
    batch_to_wire,
    deletion_from_wire,
    document_from_copy,
    document_to_copy,
    listing_from_wire,
    listing_to_wire,
    record_from_bytes,
    record_to_bytes,
    version_from_wire,
    versions_to_wire,
)
from nestvec.rpc.region_wire import (
    answer_from_wire,
    answer_to_wire,
    description_from_wire,
    description_to_wire,
    documents_from_wire,
    query_from_wire,
    query_to_wire,
    rerank_from_wire,
    rerank_to_wire,
)
from nestvec.rpc.wire import document_to_wire
from nestvec.v1 import region_pb2
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import a_collection

QUERY = RegionQuery(
    "docs",
    "f" * 16,
    mrl_like(1, 8, seed=1),
    "search",
    k=3,
    coarse_dim=4,
    candidates=100,
    rerank=True,
    filter=Exists("colour"),
    versions=True,
    inline_bytes=100,
)
HITS = RegionHits(
    ["a", "b", "c"],
    np.array([0.9, 0.8, 0.8], np.float32),
    np.array([7, 1 << 60, -1]),
    [Document("a", "text", {"year": 2020})],
    Certificate.COLLECTION,
    0.25,
    [Degradation(DegradationKind.VECTOR_MISSING, "one")],
    candidates=100,
    fetched=12,
    matching=2000,
)
ANSWER = RegionAnswer(
    "us", 3, "f" * 16, 8, 4, Coverage(4, 3, 1000, 750), [HITS], seconds=0.025, staleness_s=None
)


def told(change: Callable[[Any], None]) -> region_pb2.SearchRegionResponse:
    """ANSWER, changed on its way."""
    message = answer_to_wire(ANSWER)
    change(message)
    return region_pb2.SearchRegionResponse.FromString(message.SerializeToString())


def test_a_question_arrives_as_it_was() -> None:
    message = query_to_wire(QUERY, "eu", 0.08)
    assert (message.caller, message.round_trip_ms) == ("eu", 80.0)
    for changes in (
        {},
        {"target_recall": 0.95},
        {"bound_z": 3.0, "exhaustive": True, "ids_only": True},
        {"filter": None, "versions": False},
    ):
        query = replace(QUERY, **changes)
        found = query_from_wire(query_to_wire(query, "eu", 0.0))
        assert found.queries.tolist() == query.queries.tolist()
        assert replace(found, queries=()) == replace(query, queries=())  # type: ignore[arg-type]


def test_an_answer_arrives_as_it_was() -> None:
    found = answer_from_wire(told(lambda _: None), QUERY, "us")
    assert replace(found, hits=[]) == replace(ANSWER, hits=[])
    (hits,) = found.hits
    assert hits.scores.tolist() == HITS.scores.tolist()
    assert hits.versions is not None
    assert hits.versions.tolist() == [7, 1 << 60, -1]
    same = {"scores": None, "versions": None}
    assert replace(hits, **same) == replace(HITS, **same)  # type: ignore[arg-type]
    fresh = replace(ANSWER, staleness_s=1.5)
    assert answer_from_wire(answer_to_wire(fresh), QUERY, "us").staleness_s == 1.5


def scores(*values: float) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        message.hits[0].scores = np.array(values, "<f4").tobytes()

    return change


def setting(path: str, value: object) -> Callable[[Any], None]:
    """path: with dots between, of hits[0] where it begins with `hits`."""

    def change(message: Any) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            message = message.hits[0] if parent == "hits" else getattr(message, parent)
        if isinstance(value, list):
            getattr(message, name)[:] = value
        else:
            setattr(message, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (setting("region", "ap"), "says that it is 'ap'"),
        (setting("region", ""), "says that it is ''"),
        (lambda message: message.hits.add(), "2 answers to 1 queries"),
        (lambda message: message.ClearField("hits"), "0 answers to 1 queries"),
        (setting("hits.ids", ["a", "b", "c", "d"]), "4 hits where at most 3"),
        (setting("hits.ids", ["a", "b", "a"]), "stands twice"),
        (setting("hits.ids", ["a", "b", ""]), "0 bytes long"),
        (setting("hits.ids", ["a", "b", "x" * 600]), "600 bytes long"),
        (setting("hits.ids", ["a", "b"]), "3 values beside 2 ids"),
        (setting("hits.scores", b"\x00" * 7), "not a whole number"),
        (scores(0.9, float("nan"), 0.8), "no cosines"),
        (scores(float("inf"), 0.9, 0.8), "no cosines"),
        (scores(1.06, 0.9, 0.8), "no cosines"),
        (scores(0.9, 0.8, -1.06), "no cosines"),
        (scores(0.8, 0.9, 0.7), "not in the order"),
        (setting("hits.versions", b"\x00" * 16), "2 versions beside 3 hits"),
        (setting("hits.versions", b""), "0 versions beside 3 hits"),
        (setting("hits.versions", b"\x00" * 9), "not a whole number"),
        (
            lambda message: setattr(message.hits[0].documents[0], "id", "b"),
            "not those of its hits",
        ),
        (lambda message: message.hits[0].documents.add(id="c"), "not those of its hits"),
        (setting("hits.failure_probability", 1.5), "a failure probability of 1.5"),
        (setting("hits.failure_probability", float("nan")), "a failure probability of nan"),
        (setting("hits.candidates", -1), "counts of"),
        (setting("coverage.shards_answered", 5), "5 of 4 shards"),
        (setting("coverage.documents_answered", -1), "-1 of 1000 documents"),
        (setting("scoring_space.fingerprint", ""), "in space ''"),
        (setting("scoring_space.dim", 0), "scores of 0 dimensions"),
        (setting("milliseconds", float("inf")), "it took inf ms"),
        (setting("milliseconds", -1.0), "it took -1.0 ms"),
        (setting("staleness_s", float("nan")), "nan s behind"),
    ],
)
def test_an_answer_that_cannot_be_true_is_that_of_no_region(
    change: Callable[[Any], None], what: str
) -> None:
    with pytest.raises(WorkerUnavailable, match=r"region 'us'.*(nonsense|says)") as raised:
        answer_from_wire(told(change), QUERY, "us")
    assert what in str(raised.value)


def test_estimates_may_exceed_one_and_exact_scores_by_what_rounding_adds() -> None:
    estimated = replace(HITS, certificate=Certificate.ESTIMATED)

    def answered(hits: RegionHits, *values: float) -> list[float]:
        answer = replace(ANSWER, hits=[replace(hits, scores=np.array(values, np.float32))])
        (found,) = answer_from_wire(answer_to_wire(answer), QUERY, "us").hits
        return [round(one, 3) for one in found.scores.tolist()]

    assert answered(estimated, 1.3, 0.8, 0.8) == [1.3, 0.8, 0.8]
    assert answered(HITS, 1.02, 0.8, 0.8) == [1.02, 0.8, 0.8]
    with pytest.raises(WorkerUnavailable, match="no cosines"):
        answered(estimated, 2.1, 0.8, 0.8)


def test_what_it_admits_is_bounded_and_what_is_not_known_is_passed_over() -> None:
    def change(message: Any) -> None:
        message.hits[0].certificate = 99
        message.hits[0].degradations[0].kind = 99
        for _ in range(100):
            message.hits[0].degradations.add(kind=1, detail="x" * 10_000)

    (hits,) = answer_from_wire(told(change), QUERY, "us").hits
    assert hits.certificate is Certificate.NONE
    assert 0 < len(hits.degradations) <= 16
    assert all(len(one.detail) <= 400 for one in hits.degradations)


def test_nothing_found_is_a_good_answer() -> None:
    empty = RegionHits([], np.empty(0, np.float32), np.empty(0, np.int64))
    found = answer_from_wire(answer_to_wire(replace(ANSWER, hits=[empty])), QUERY, "us")
    assert list(found.hits[0].ids) == []


def test_documents_must_be_of_those_asked_for_in_their_order() -> None:
    documents = [Document(name, "text") for name in "abc"]
    messages = list(map(document_to_wire, documents))
    assert documents_from_wire(messages, list("xabyc"), "us") == documents
    for asked in ("xab", "cab", "bac"):
        with pytest.raises(WorkerUnavailable, match="not asked for"):
            documents_from_wire(messages, list(asked), "us")
    with pytest.raises(WorkerUnavailable, match="not asked for"):
        documents_from_wire([*messages, messages[0]], list("abc"), "us")


# --- candidates to put in order -------------------------------------------------------------------

RERANK = RegionRerank(
    "docs",
    "f" * 16,
    QUERY.queries[0],
    ["a", "b"],
    CoarseHits(
        np.array([5, 6]), np.array([0.5, 0.25], np.float32), np.array([0.1, 0.2], np.float32), None
    ),
    k=1,
    bound_z=4.0,
    inline_bytes=10,
)


def test_candidates_arrive_by_name_with_their_bounds() -> None:
    message = rerank_to_wire(RERANK, "eu", 0.1)
    assert (message.caller, message.round_trip_ms, message.candidates.ids) == ("eu", 100.0, b"")
    found = rerank_from_wire(message)
    assert found.ids == ["a", "b"]
    assert found.query.tolist() == RERANK.query.tolist()
    assert found.hits.estimates.tolist() == RERANK.hits.estimates.tolist()
    assert found.hits.half_widths.tolist() == RERANK.hits.half_widths.tolist()
    assert (found.k, found.bound_z, found.inline_bytes) == (1, 4.0, 10)
    assert found.versions is None
    told = replace(RERANK, versions=np.array([7, 0], np.int64))
    versions = rerank_from_wire(rerank_to_wire(told, "eu", 0.1)).versions
    assert versions is not None
    assert versions.tolist() == [7, 0]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("k", 0, "k"),
        ("bound_z", float("nan"), "bound_z"),
        ("query", b"\x00" * 64, "query"),
        ("ids", ["a"], "candidates.half_widths"),
        ("ids", ["a", "a"], "ids"),
        ("ids", ["a", ""], "ids.1"),
        ("versions", b"\x00" * 8, "versions"),
        ("versions", b"\x00" * 7, "versions"),
    ],
)
def test_candidates_that_cannot_be_are_refused(field: str, value: Any, named: str) -> None:
    message = rerank_to_wire(RERANK, "eu", 0.0)
    setting(field, value)(message)
    with pytest.raises(InvalidRequest) as raised:
        rerank_from_wire(message)
    assert raised.value.field == named


# --- what a region says of itself, and its log ----------------------------------------------------


def test_a_description_arrives_as_it_was_or_not_at_all() -> None:
    held = HeldCollection("docs", 2, "f" * 16, 64, 1000, {"eu": 0.5})
    description = RegionDescription("us", 2, 1_700_000_000_000, {"docs": held})
    message = description_to_wire(description)
    assert description_from_wire(message, "us") == description
    with pytest.raises(WorkerUnavailable, match="says that it is 'us'"):
        description_from_wire(message, "ap")
    for changes in ({"documents": -1}, {"dim": 0}, {"staleness_s": {"eu": float("nan")}}):
        wrong = {"docs": replace(held, **changes)}
        with pytest.raises(WorkerUnavailable, match="nonsense"):
            description_from_wire(
                description_to_wire(replace(description, collections=wrong)), "us"
            )


def test_log_entries_arrive_as_they_were_or_not_at_all() -> None:
    batch = LogBatch(3, 5, 9, np.array([1, 2]), np.array([3]), [("gone", 7)])
    found = batch_from_wire(batch_to_wire(batch), "us")
    assert (found.partition, found.first, found.last) == (3, 5, 9)
    assert (found.added.tolist(), found.removed.tolist()) == ([1, 2], [3])
    assert found.deletions == [("gone", 7)]
    for first, last in ((0, 3), (5, 4), (-1, 4)):
        with pytest.raises(WorkerUnavailable, match="nonsense"):
            batch_from_wire(batch_to_wire(replace(batch, first=first, last=last)), "us")
    ragged = batch_to_wire(batch)
    ragged.added = b"123"
    with pytest.raises(WorkerUnavailable, match="nonsense"):
        batch_from_wire(ragged, "us")


def test_documents_to_copy_keep_what_is_empty_apart_from_what_is_not_there() -> None:
    for document in (
        StoredDocument("a", 5, 7, b"vector", b"payload"),
        StoredDocument("a", 5, 7, None, b""),
        None,
    ):
        assert document_from_copy(document_to_copy(document), 5, "us") == document
    row = StoredDocument("a", 5, 7, b"row", None)
    sent = document_to_copy(row, is_row=True)
    kept = replace(row, vector=b"header row")
    assert document_from_copy(sent, 5, "us", b"header ") == kept
    named = document_to_copy(StoredDocument("a", 5, 7, b"vector", b"payload"), names_only=True)
    assert document_from_copy(named, 5, "us") == StoredDocument("a", 5, 7, None, None)


@pytest.mark.parametrize(
    "changes", [{"external_id": ""}, {"external_id": "x" * 513}, {"version": -1}, {"sequence": 6}]
)
def test_nothing_is_copied_that_no_caller_could_have_written(changes: dict[str, Any]) -> None:
    document = replace(StoredDocument("a", 5, 7, b"vector", b"payload"), **changes)
    with pytest.raises(WorkerUnavailable, match="nonsense"):
        document_from_copy(document_to_copy(document), 5, "us")
    if "sequence" not in changes:
        entry = StoredVersion(document.external_id, 5, document.version)
        (sent,) = versions_to_wire([entry])
        for read in (version_from_wire, deletion_from_wire):
            with pytest.raises(WorkerUnavailable, match="nonsense"):
                read(sent, "us")


def test_an_entry_needs_a_sequence_and_a_deletion_none() -> None:
    (sent,) = versions_to_wire([StoredVersion("a", 0, 7)])
    assert deletion_from_wire(sent, "us") == ("a", 7)
    with pytest.raises(WorkerUnavailable, match="a document of sequence 0"):
        version_from_wire(sent, "us")


def test_a_record_arrives_as_it_was_or_not_at_all() -> None:
    docs = a_collection()
    data = record_to_bytes(docs)
    assert record_from_bytes(data, "us") == docs
    for wrong in (b"", b"\xff", b"[]", b"null", b'{"format": 1}', data[:-10], b"[" * 100_000):
        with pytest.raises((WorkerUnavailable, ConfigError)):
            record_from_bytes(wrong, "us")
    with pytest.raises(ConfigError, match="format 99"):
        record_from_bytes(data.replace(b'"format": 1', b'"format": 99', 1), "us")


def test_a_listing_comes_back_and_takes_less() -> None:
    entries = [
        StoredVersion(f"text-{n:07}", n + 1, (1_790_000_000_000 << 21) + n) for n in range(300)
    ]
    sent = listing_to_wire(entries)
    assert listing_from_wire(sent, "us") == entries
    plain = region_pb2.ListVersionsResponse(versions=versions_to_wire(entries)).ByteSize()
    assert 2 * sent.ByteSize() < plain
    assert listing_from_wire(listing_to_wire([]), "us") == []


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"no zlib",
        zlib.compress(b"\xff\xff no message"),
        zlib.compress(b"cut off" * 100)[:-8],
        zlib.compress(bytes(8 << 20)),
        listing_to_wire([StoredVersion("", 1, 1)]).packed,
    ],
)
def test_a_listing_that_is_none_is_nonsense(packed: bytes) -> None:
    with pytest.raises(WorkerUnavailable, match="nonsense"):
        listing_from_wire(region_pb2.ListVersionsResponse(packed=packed), "us")
