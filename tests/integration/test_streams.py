"""Streams that break and go on, versions and watermarks, from the SDK down to a real store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestvec.client import (
    IngestDocument,
    IngestInterrupted,
    IngestProgress,
    IngestReason,
    NestvecClient,
)
from nestvec.config import Settings, load_settings
from nestvec.core.errors import InvalidRequest, NestvecError, StreamConflict, StreamTakenOver
from nestvec_cluster.background import background_engine
from tests.support.engine import SharedEngine
from tests.support.faults import PATIENT_S

COUNT = 300


class Gone(Exception):
    """The client dies here."""


@pytest.fixture
def client(engine: SharedEngine) -> Iterator[NestvecClient]:
    with NestvecClient(engine.address, timeout_s=PATIENT_S) as opened:
        yield opened


@pytest.fixture
def docs(client: NestvecClient, collection_name: str) -> str:
    client.create_collection(collection_name)
    return collection_name


def documents(count: int = COUNT, tag: str = "") -> list[IngestDocument]:
    return [IngestDocument(f"d{number}", f"passage {number} {tag}") for number in range(count)]


def dying(count: int) -> Iterator[IngestDocument]:
    """The first documents; then the process that reads them dies."""
    yield from documents()[:count]
    raise Gone


def stored(client: NestvecClient, docs: str, count: int = COUNT) -> list[str]:
    """The texts of all documents, in order."""
    got = client.get(docs, [f"d{number}" for number in range(count)])
    assert not got.missing_ids
    return [one.text for one in got.documents]


def test_a_client_that_died_goes_on_by_the_same_call(client: NestvecClient, docs: str) -> None:
    with pytest.raises(Gone):
        client.index(docs, dying(200), batch_size=16, stream_id="import")
    report = client.index(docs, documents(), batch_size=16, stream_id="import")
    assert 0 < report.skipped < 200
    assert report.indexed == COUNT - report.skipped
    assert report.acknowledged_offset == COUNT - 1
    assert client.describe(docs).documents == COUNT
    assert stored(client, docs) == [one.text for one in documents()]
    again = client.index(docs, documents(), batch_size=16, stream_id="import")
    assert (again.indexed, again.skipped) == (0, COUNT)


def test_a_stream_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    settings: Settings = load_settings(
        None, {"server.port": 0, "store.data_dir": str(tmp_path), "store.fsync": "always"}
    )
    with background_engine(settings) as address, NestvecClient(address) as client:
        client.create_collection("docs")
        with pytest.raises(Gone):
            client.index("docs", dying(120), batch_size=16, stream_id="s", ack="stored")
    with background_engine(settings) as address, NestvecClient(address) as client:
        report = client.index("docs", documents(), batch_size=16, stream_id="s")
        assert report.skipped > 0
        assert report.indexed == COUNT - report.skipped
        assert stored(client, "docs") == [one.text for one in documents()]
        hits = client.search("docs", "passage", k=COUNT, watermark=report.watermark).hits
        assert len({hit.id for hit in hits}) == COUNT


def test_other_documents_under_the_same_stream_id_are_refused(
    client: NestvecClient, docs: str
) -> None:
    client.index(docs, documents(40), stream_id="s")
    with pytest.raises(StreamConflict, match="offset 0"):
        client.index(docs, documents(40, "changed"), stream_id="s")
    assert stored(client, docs, 40) == [one.text for one in documents(40)]
    report = client.index(docs, documents(40, "changed"), stream_id="another")
    assert report.indexed == 40


def test_a_gap_after_what_is_acknowledged_is_refused(client: NestvecClient, docs: str) -> None:
    client.index(docs, documents(40), stream_id="s")
    with pytest.raises(InvalidRequest, match="expected 40"):
        client.index(docs, documents(5), stream_id="s", first_offset=41)


def test_a_second_connection_takes_the_stream_over(
    engine: SharedEngine, client: NestvecClient, docs: str
) -> None:
    begun, go = threading.Event(), threading.Event()
    ended: list[BaseException] = []

    def held() -> Iterator[IngestDocument]:
        yield from documents()[:160]
        go.wait(PATIENT_S)
        yield from documents()[160:]

    def acknowledged(progress: IngestProgress) -> None:
        if progress.acknowledged_offset >= 15:
            begun.set()

    def first() -> None:
        with NestvecClient(engine.address) as other:
            try:
                other.index(docs, held(), batch_size=16, stream_id="s", on_progress=acknowledged)
            except IngestInterrupted as error:
                ended.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert begun.wait(PATIENT_S)
        report = client.index(docs, documents(), batch_size=16, stream_id="s")
    finally:
        go.set()
        thread.join(PATIENT_S)
    assert report.acknowledged_offset == COUNT - 1
    assert report.skipped >= 16
    (error,) = ended
    assert isinstance(error.__cause__, StreamTakenOver)
    assert stored(client, docs) == [one.text for one in documents()]


def test_a_search_with_the_watermark_of_a_stored_write_sees_it(
    client: NestvecClient, docs: str
) -> None:
    for number in range(20):
        one = IngestDocument(f"d{number}", f"word{number} and nothing else")
        report = client.index(docs, [one], ack="stored")
        found = client.search(docs, one.text, k=1, watermark=report.watermark)
        assert [hit.id for hit in found.hits] == [one.id]
        batch = client.search_batch(docs, [one.text], k=1, watermark=report.watermark)
        assert [hit.id for hit in batch[0].hits] == [one.id]
        deleted = client.delete(docs, [one.id], ack="stored")
        found = client.search(docs, one.text, k=5, watermark=deleted.watermark)
        assert found.hits == ()


def test_what_was_deleted_is_never_found_after_the_answer(client: NestvecClient, docs: str) -> None:
    client.index(docs, documents())
    for start in range(0, COUNT, 30):
        gone = {f"d{number}" for number in range(start, start + 30)}
        assert client.delete(docs, sorted(gone)).deleted == 30
        hits = client.search(docs, "passage", k=COUNT).hits
        assert not gone & {hit.id for hit in hits}
        assert len(hits) == COUNT - start - 30


def test_versions_decide_between_writes_and_deletions(client: NestvecClient, docs: str) -> None:
    client.index(docs, [IngestDocument("a", "newer", version=20)])
    report = client.index(docs, [IngestDocument("a", "older", version=10)])
    assert [failure.reason for failure in report.failures] == [IngestReason.STALE]
    assert client.delete(docs, ["a", "b"], version=15).stale_ids == ("a",)
    assert client.get(docs, ["a"]).documents[0].text == "newer"
    assert client.delete(docs, ["a"], version=30).deleted == 1
    late = [IngestDocument("a", "late", version=25), IngestDocument("b", "late", version=14)]
    report = client.index(docs, late)
    assert [failure.reason for failure in report.failures] == [IngestReason.STALE] * 2
    assert client.get(docs, ["a", "b"]).missing_ids == ("a", "b")


def test_a_change_far_behind_the_first_message_is_refused(
    client: NestvecClient, collection_name: str
) -> None:
    client.create_collection(collection_name)
    texts = [IngestDocument(f"d{number}", f"passage number {number}") for number in range(100)]
    client.index(collection_name, texts, batch_size=10, stream_id="changed later")
    texts[57] = IngestDocument("d57", "quite another passage")
    with pytest.raises(NestvecError, match="offset 57") as caught:
        client.index(collection_name, texts, batch_size=10, stream_id="changed later")
    assert isinstance(caught.value.__cause__ or caught.value, StreamConflict)
    assert client.get(collection_name, ["d57"]).documents[0].text == "passage number 57"
