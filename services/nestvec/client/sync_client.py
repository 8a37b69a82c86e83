"""The blocking client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from numpy.typing import NDArray

from nestvec.client import calls, migrations, quality, regions, upkeep
from nestvec.client.asking import ask_blocking
from nestvec.client.calls import Call, SearchOptions, Service
from nestvec.client.connection import MAX_MESSAGE_BYTES, Connection
from nestvec.client.credentials import Credentials
from nestvec.client.front_ends import FrontEnds
from nestvec.client.ingest import IngestMessage, IngestRun, texts_alone
from nestvec.client.migrations import LONG_S as MIGRATION_S
from nestvec.client.quality import LiveRecall
from nestvec.client.upkeep import (
    LONG_S,
    Backup,
    Restored,
    ShardSnapshot,
    TierChange,
    Verification,
)
from nestvec.client.values import (
    AckName,
    CollectionDescription,
    CollectionInfo,
    DeleteResult,
    GetResult,
    IngestDocument,
    IngestProgress,
    IngestReport,
    SearchResult,
    ServerInfo,
)
from nestvec.core.calibration import Calibration
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import BudgetSpent, NestvecError, SpaceMismatch
from nestvec.core.fields import FieldType
from nestvec.core.measured import Evidence
from nestvec.core.migration import Gate, MigrationStatus, MigrationWish
from nestvec.core.region_reports import RegionDifference, RegionStatus
from nestvec.core.space import Space
from nestvec.v1 import (
    admin_pb2_grpc,
    ingest_pb2_grpc,
    migration_pb2_grpc,
    quality_pb2_grpc,
    query_pb2_grpc,
    region_pb2_grpc,
)

Result = TypeVar("Result")


class NestvecClient:
    """Talks to one nestvec server. Safe to share between threads; close it, or use it in `with`.

    address: host:port; of a cluster, those of several front ends with commas between: reads go to
    the less busy one, and to another one where it is late or gone. timeout_s: the deadline of every
    call that brings none of its own. wait_for_ready: let calls wait, within their deadline, for a
    server that is still starting. max_message_bytes: as the server's own setting. request_id: makes
    the x-request-id that the server logs with each call. credentials: for TLS, a certificate or a
    token.

    Every method raises errors of `nestvec.core.errors` with the server's message.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 10.0,
        wait_for_ready: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        request_id: Callable[[], str] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._connection = Connection(
            address, timeout_s, wait_for_ready, max_message_bytes, request_id, credentials
        )
        self._channels = self._connection.channels()
        self._stubs: list[dict[Service, Any]] = [
            {
                "query": query_pb2_grpc.QueryServiceStub(channel),
                "ingest": ingest_pb2_grpc.IngestServiceStub(channel),
                "admin": admin_pb2_grpc.AdminServiceStub(channel),
                "quality": quality_pb2_grpc.QualityServiceStub(channel),
                "migration": migration_pb2_grpc.MigrationServiceStub(channel),
                "regions": region_pb2_grpc.RegionAdminServiceStub(channel),
            }
            for channel in self._channels
        ]
        self._front_ends = FrontEnds(len(self._channels))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Safe to repeat."""
        for channel in self._channels:
            channel.close()

    @property
    def address(self) -> str:
        """The server's."""
        return self._connection.address

    # --- searching ------------------------------------------------------------------------------

    def search(
        self, collection: str, query: str | NDArray[Any], **options: Unpack[SearchOptions]
    ) -> SearchResult:
        """The best documents for one text, or one (dim,) unit vector. For options see
        SearchOptions.
        """
        fingerprint = self._fingerprint(collection) if calls.needs_space(query, options) else ""
        return self._run(
            calls.search(collection, query, fingerprint, options), options.get("timeout_s")
        )

    def search_batch(
        self,
        collection: str,
        queries: Sequence[str] | NDArray[Any],
        **options: Unpack[SearchOptions],
    ) -> list[SearchResult]:
        """Several texts, or (n, dim) unit vectors, in one call; one result a query, in order."""
        if not len(queries):
            return []
        fingerprint = self._fingerprint(collection) if calls.needs_space(queries, options) else ""
        return self._run(
            calls.search_batch(collection, queries, fingerprint, options), options.get("timeout_s")
        )

    # --- documents ------------------------------------------------------------------------------

    def index(
        self,
        collection: str,
        documents: Iterable[IngestDocument],
        *,
        batch_size: int = 256,
        on_progress: Callable[[IngestProgress], None] | None = None,
        first_offset: int = 0,
        stream_id: str | None = None,
        ack: AckName = "searchable",
        fingerprint: str | None = None,
        timeout_s: float = 120.0,
    ) -> IngestReport:
        """Write documents, as one stream; a bad document is reported and stops nothing.

        `documents` is read, and `on_progress` called, in this thread, never far ahead of the
        server. first_offset: what to call the first document, when an earlier run is resumed.
        stream_id: 1 to 128 bytes that make this resumable: the server remembers for a week what it
        acknowledged, so the same call with the same documents goes on where an earlier one broke,
        and documents of other content are refused (StreamConflict). ack: return once documents are
        `searchable`, or sooner, once they are `stored` (as durable as the server's settings say).
        fingerprint: the space of vectors that documents bring; by default the collection's.
        timeout_s: how long the server may go without acknowledging anything.

        Raises IngestInterrupted when the stream breaks: it tells where to resume.
        """

        def run_in(space: str) -> IngestRun:
            return IngestRun(
                collection,
                space,
                first_offset=first_offset,
                stream_id=stream_id,
                ack=ack,
                batch_size=batch_size,
                max_message_bytes=self._connection.max_message_bytes,
                on_progress=on_progress,
            )

        given = fingerprint or self._fingerprint(collection)
        try:
            return self._index(run_in(given), documents, timeout_s)
        except SpaceMismatch:
            if fingerprint is not None or not texts_alone(documents):
                raise
        # What is kept of its space stays: vectors that this client brings may be of that one.
        space = self.describe(collection).space
        return self._index(run_in(space.fingerprint), documents, timeout_s)

    def _index(
        self,
        run: IngestRun,
        documents: Iterable[IngestDocument],
        timeout_s: float,
    ) -> IngestReport:
        with self._stream(run, self._connection.limit(timeout_s)) as (send, receive):
            for document in documents:
                if (message := run.add(document)) is not None:
                    send(message)
                    while run.is_full:
                        if not receive():
                            return run.finished()
            if (message := run.flush()) is not None:
                send(message)
            send(None)
            while receive():
                pass
        return run.finished()

    def get(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        with_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> GetResult:
        """Documents by id, with their stored vectors on request."""
        return self._run(calls.get(collection, ids, with_vectors), timeout_s)

    def ids(self, collection: str, *, timeout_s: float | None = None) -> Iterator[str]:
        """The ids of all documents, in no order, each once. What is written or deleted meanwhile
        may be among them or not. timeout_s: of each of its calls.
        """
        token = ""
        while True:
            found, token = self._run(calls.list_ids(collection, token), timeout_s)
            yield from found
            if not token:
                return

    def delete(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        version: int = 0,
        ack: AckName = "searchable",
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete documents by id. Ids that name nothing are reported, not an error.

        version: as IngestDocument.version; a document at a newer version stays. ack: return once no
        search finds them any more, or once the deletion is `stored`.
        """
        return self._run(calls.delete(collection, ids, version, ack), timeout_s)

    # --- collections and the server -------------------------------------------------------------

    def create_collection(
        self,
        name: str,
        *,
        tiers: Sequence[int] = (),
        store_dim: int = 0,
        store_dtype: VectorDtype | str | None = None,
        fields: Mapping[str, FieldType | str] | None = None,
        coarse_code: CoarseCode | str = CoarseCode.AUTO,
        evidence: Evidence | None = None,
        model: str = "",
        exist_ok: bool = False,
        timeout_s: float | None = None,
    ) -> CollectionInfo:
        """Make a collection; what is left out is the server's default. fields: what can be filtered
        on, with its type (keyword, integer, float, bool or time). coarse_code: what the coarse
        scan reads; one that loses something needs `evidence`. model: whose space it is made in, by
        the name that the server's settings or the table of known models have. Raises AlreadyExists,
        with `exist_ok` only when the existing one has other settings; InvalidRequest for a model
        that the server cannot have, and for a tier or code that was not measured, or loses more
        than the budget.
        """
        self._connection.forget(name)
        call = calls.create_collection(
            name,
            tiers,
            store_dim,
            store_dtype,
            exist_ok,
            fields or {},
            coarse_code,
            evidence,
            model,
        )
        return self._run(call, timeout_s)

    def collections(self, *, timeout_s: float | None = None) -> list[CollectionInfo]:
        """All collections, by name."""
        return self._run(calls.collections(), timeout_s)

    def describe(self, name: str, *, timeout_s: float | None = None) -> CollectionDescription:
        """What a collection is and holds. Raises NotFound."""
        return self._run(calls.describe(name), timeout_s)

    def drop_collection(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a collection with all its documents. Raises NotFound."""
        self._connection.forget(name)
        self._run(calls.drop_collection(name), timeout_s)

    def add_tier(
        self,
        name: str,
        dim: int,
        *,
        evidence: Evidence | None = None,
        timeout_s: float = LONG_S,
    ) -> TierChange:
        """Serve one more trained tier, built from stored vectors while searches go on. Returns when
        it can be searched. Idempotent. evidence: what was measured of it, where the collection has
        a budget. Raises NotFound, TierNotTrained, or InvalidRequest.
        """
        return self._run(upkeep.add_tier(name, dim, evidence), timeout_s)

    def drop_tier(self, name: str, dim: int, *, timeout_s: float = LONG_S) -> TierChange:
        """Stop serving a tier, and free its memory. Idempotent. Raises InvalidRequest for the
        last one.
        """
        return self._run(upkeep.drop_tier(name, dim), timeout_s)

    def set_calibration(
        self, name: str, calibration: Calibration, *, timeout_s: float | None = None
    ) -> CollectionInfo:
        """Keep what `nestvec calibrate` measured, so that searches may ask for a recall. Raises
        NotFound; SpaceMismatch for one of another space; NotCalibrated for one of another
        generation, code or tier.
        """
        return self._run(upkeep.set_calibration(name, calibration), timeout_s)

    def drop_calibration(self, name: str, *, timeout_s: float | None = None) -> bool:
        """Forget it. Returns whether there was one. Raises NotFound."""
        return self._run(upkeep.drop_calibration(name), timeout_s)

    # --- migrations -----------------------------------------------------------------------------

    def begin_migration(
        self, collection: str, wish: MigrationWish, *, timeout_s: float = MIGRATION_S
    ) -> MigrationStatus:
        """Begin to move a collection to another model; the server does the work. Raises NotFound,
        MigrationRefused, TierNotTrained, or InvalidRequest.
        """
        return self._run(migrations.begin(collection, wish), timeout_s)

    def migration(self, collection: str, *, timeout_s: float | None = None) -> MigrationStatus:
        """The newest one of a collection, as it stands. Raises NotFound."""
        return self._run(migrations.status(collection), timeout_s)

    def record_gate(
        self, collection: str, gate: Gate, *, timeout_s: float | None = None
    ) -> MigrationStatus:
        """Tell what was measured of the new generation. Raises MigrationRefused."""
        return self._run(migrations.record_gate(collection, gate), timeout_s)

    def step_migration(
        self,
        collection: str,
        step: migrations.StepName,
        *,
        rate: float | None = None,
        override: str = "",
        timeout_s: float = MIGRATION_S,
    ) -> MigrationStatus:
        """pause, resume (with another rate, or words that open a gate), switch, rollback, abort or
        finish. Raises MigrationRefused where that does not fit as it stands.
        """
        return self._run(migrations.step(collection, step, rate, override), timeout_s)

    def verify(
        self, name: str, *, repair: bool = False, sample: int = 0, timeout_s: float = LONG_S
    ) -> Verification:
        """Compare every tier with the store, and on request mend what differs. sample: how many
        documents a tier and shard to compare code by code; 0: 1,000.
        """
        return self._run(upkeep.verify(name, repair, sample), timeout_s)

    def regions(self, *, timeout_s: float | None = None) -> list[RegionStatus]:
        """Every region, as the server's own sees it, with what is copied from there; empty where
        the server is no region.
        """
        return self._run(regions.describe(), timeout_s)

    def verify_regions(self, name: str, *, timeout_s: float = LONG_S) -> list[RegionDifference]:
        """Compare a replicated collection with every other region, by ids and versions. Raises
        NotFound, or InvalidRequest for one that is not replicated.
        """
        return self._run(regions.verify(name), timeout_s)

    def live_recall(self, collection: str = "", *, timeout_s: float | None = None) -> LiveRecall:
        """What a sample of the server's own answers has lost against exact search. Of several
        servers, what one of them says of itself.
        """
        return self._run(quality.live_recall(collection), timeout_s)

    def snapshot(self, name: str, *, timeout_s: float = LONG_S) -> list[ShardSnapshot]:
        """Write the coarse tiers of every shard where the server looks for them at start."""
        return self._run(upkeep.snapshot(name), timeout_s)

    def back_up(self, name: str, location: str, *, timeout_s: float = LONG_S) -> Backup:
        """Write a whole collection to an empty folder or URL that the server can reach. Raises
        SnapshotFailed.
        """
        return self._run(upkeep.back_up(name, location), timeout_s)

    def restore(
        self, location: str, name: str | None = None, *, timeout_s: float = LONG_S
    ) -> Restored:
        """Make a collection of a backup, under its old name or another. Raises AlreadyExists, or
        SnapshotFailed.
        """
        restored = self._run(upkeep.restore(location, name), timeout_s)
        self._connection.forget(restored.collection.name)
        return restored

    def server(self, *, timeout_s: float | None = None) -> ServerInfo:
        """The server's version, encoder space, search classes and limits."""
        return self._run(calls.server(), timeout_s)

    # --- awaiting -------------------------------------------------------------------------------

    def _run(self, call: Call[Result], timeout_s: float | None = None) -> Result:
        connection = self._connection
        limit_s, metadata = connection.limit(timeout_s), connection.metadata()
        if len(self._stubs) > 1 and call.changes_nothing:

            def start(server: int, left_s: float) -> Any:
                method = getattr(self._stubs[server][call.service], call.method)
                return method.future(
                    call.request,
                    timeout=left_s,
                    metadata=metadata,
                    wait_for_ready=connection.wait_for_ready,
                )

            def error_of(error: grpc.RpcError) -> NestvecError:
                return connection.error(error, call.method)

            response = ask_blocking(self._front_ends, call.kind, limit_s, start, error_of)
            return call.read(response)
        with self._front_ends.one() as server:
            method = getattr(self._stubs[server][call.service], call.method)
            try:
                response = method(
                    call.request,
                    timeout=limit_s,
                    metadata=metadata,
                    wait_for_ready=connection.wait_for_ready,
                )
            except grpc.RpcError as error:
                raise connection.error(error, call.method) from None
        return call.read(response)

    def _space(self, collection: str) -> Space:
        known = self._connection.spaces.get(collection)
        return known or self._connection.learn(collection, self.describe(collection).space)

    def _fingerprint(self, collection: str) -> str:
        return self._space(collection).fingerprint

    @contextmanager
    def _stream(
        self, run: IngestRun, patience_s: float
    ) -> Iterator[tuple[Callable[[IngestMessage | None], None], Callable[[], bool]]]:
        """(send, receive). `receive` settles one response, and is False at the end."""
        messages: queue.SimpleQueue[IngestMessage | None] = queue.SimpleQueue()
        server, cause = self._front_ends.pick(), None
        stream = self._stubs[server]["ingest"].IngestDocuments(
            iter(messages.get, None),
            metadata=self._connection.metadata(),
            wait_for_ready=self._connection.wait_for_ready,
        )
        stalled = threading.Event()

        def give_up() -> None:
            stalled.set()
            stream.cancel()

        def receive() -> bool:
            timer = threading.Timer(patience_s, give_up)
            timer.start()
            try:
                response = next(stream, None)
            finally:
                timer.cancel()
            if response is not None:
                run.settle(response)
            return response is not None

        try:
            yield messages.put, receive
        except grpc.RpcError as error:
            cause = self._connection.error(error, "IngestDocuments")
            run.fail(BudgetSpent("ingest") if stalled.is_set() else cause)
        finally:
            self._front_ends.ended(server, cause)
            stream.cancel()
            messages.put(None)
