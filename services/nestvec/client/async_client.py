"""The asyncio client: NestvecClient's names, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from numpy.typing import NDArray

from nestvec.client import calls, migrations, quality, regions, upkeep
from nestvec.client.asking import ask_async
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
from nestvec.core.errors import BudgetSpent, NestvecError, SpaceMismatch, WorkerUnavailable
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
# What grpc.aio puts in the place of the server's status when a write meets it (grpc issue 36066).
_LOST_REASON = "Internal error from Core"


class AsyncNestvecClient:
    """Talks to one nestvec server from one event loop; close it, or use it in `async with`.

    Parameters are those of NestvecClient, which also says what each method does. It connects at the
    first call, so it may be made before the loop runs.
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
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[dict[Service, Any]] = []
        self._front_ends = FrontEnds(len(self._connection.addresses))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up. Safe to repeat."""
        for channel in self._channels:
            await channel.close()

    @property
    def address(self) -> str:
        """The server's."""
        return self._connection.address

    # --- searching ------------------------------------------------------------------------------

    async def search(
        self, collection: str, query: str | NDArray[Any], **options: Unpack[SearchOptions]
    ) -> SearchResult:
        """See NestvecClient.search."""
        needed = calls.needs_space(query, options)
        fingerprint = await self._fingerprint(collection) if needed else ""
        call = calls.search(collection, query, fingerprint, options)
        return await self._run(call, options.get("timeout_s"))

    async def search_batch(
        self,
        collection: str,
        queries: Sequence[str] | NDArray[Any],
        **options: Unpack[SearchOptions],
    ) -> list[SearchResult]:
        """See NestvecClient.search_batch."""
        if not len(queries):
            return []
        needed = calls.needs_space(queries, options)
        fingerprint = await self._fingerprint(collection) if needed else ""
        call = calls.search_batch(collection, queries, fingerprint, options)
        return await self._run(call, options.get("timeout_s"))

    # --- documents ------------------------------------------------------------------------------

    async def index(
        self,
        collection: str,
        documents: Iterable[IngestDocument] | AsyncIterable[IngestDocument],
        *,
        batch_size: int = 256,
        on_progress: Callable[[IngestProgress], None] | None = None,
        first_offset: int = 0,
        stream_id: str | None = None,
        ack: AckName = "searchable",
        fingerprint: str | None = None,
        timeout_s: float = 120.0,
    ) -> IngestReport:
        """See NestvecClient.index. An async iterable is awaited between documents."""

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

        given = fingerprint or await self._fingerprint(collection)
        try:
            return await self._index(run_in(given), documents, timeout_s)
        except SpaceMismatch:
            if fingerprint is not None or not texts_alone(documents):
                raise
        # What is kept of its space stays: vectors that this client brings may be of that one.
        space = (await self.describe(collection)).space
        return await self._index(run_in(space.fingerprint), documents, timeout_s)

    async def _index(
        self,
        run: IngestRun,
        documents: Iterable[IngestDocument] | AsyncIterable[IngestDocument],
        timeout_s: float,
    ) -> IngestReport:
        async with self._stream(run, self._connection.limit(timeout_s)) as (send, receive):
            async for document in _awaited(documents):
                if (message := run.add(document)) is not None:
                    send(message)
                    while run.is_full:
                        if not await receive():
                            return run.finished()
            if (message := run.flush()) is not None:
                send(message)
            send(None)
            while await receive():
                pass
        return run.finished()

    async def get(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        with_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> GetResult:
        """See NestvecClient.get."""
        return await self._run(calls.get(collection, ids, with_vectors), timeout_s)

    async def ids(self, collection: str, *, timeout_s: float | None = None) -> AsyncIterator[str]:
        """See NestvecClient.ids."""
        token = ""
        while True:
            found, token = await self._run(calls.list_ids(collection, token), timeout_s)
            for one in found:
                yield one
            if not token:
                return

    async def delete(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        version: int = 0,
        ack: AckName = "searchable",
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """See NestvecClient.delete."""
        return await self._run(calls.delete(collection, ids, version, ack), timeout_s)

    # --- collections and the server -------------------------------------------------------------

    async def create_collection(
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
        """See NestvecClient.create_collection."""
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
        return await self._run(call, timeout_s)

    async def collections(self, *, timeout_s: float | None = None) -> list[CollectionInfo]:
        """See NestvecClient.collections."""
        return await self._run(calls.collections(), timeout_s)

    async def describe(self, name: str, *, timeout_s: float | None = None) -> CollectionDescription:
        """See NestvecClient.describe."""
        return await self._run(calls.describe(name), timeout_s)

    async def drop_collection(self, name: str, *, timeout_s: float | None = None) -> None:
        """See NestvecClient.drop_collection."""
        self._connection.forget(name)
        await self._run(calls.drop_collection(name), timeout_s)

    async def add_tier(
        self,
        name: str,
        dim: int,
        *,
        evidence: Evidence | None = None,
        timeout_s: float = LONG_S,
    ) -> TierChange:
        """See NestvecClient.add_tier."""
        return await self._run(upkeep.add_tier(name, dim, evidence), timeout_s)

    async def drop_tier(self, name: str, dim: int, *, timeout_s: float = LONG_S) -> TierChange:
        """See NestvecClient.drop_tier."""
        return await self._run(upkeep.drop_tier(name, dim), timeout_s)

    async def set_calibration(
        self, name: str, calibration: Calibration, *, timeout_s: float | None = None
    ) -> CollectionInfo:
        """See NestvecClient.set_calibration."""
        return await self._run(upkeep.set_calibration(name, calibration), timeout_s)

    async def drop_calibration(self, name: str, *, timeout_s: float | None = None) -> bool:
        """See NestvecClient.drop_calibration."""
        return await self._run(upkeep.drop_calibration(name), timeout_s)

    # --- migrations -----------------------------------------------------------------------------

    async def begin_migration(
        self, collection: str, wish: MigrationWish, *, timeout_s: float = MIGRATION_S
    ) -> MigrationStatus:
        """See NestvecClient.begin_migration."""
        return await self._run(migrations.begin(collection, wish), timeout_s)

    async def migration(
        self, collection: str, *, timeout_s: float | None = None
    ) -> MigrationStatus:
        """See NestvecClient.migration."""
        return await self._run(migrations.status(collection), timeout_s)

    async def record_gate(
        self, collection: str, gate: Gate, *, timeout_s: float | None = None
    ) -> MigrationStatus:
        """See NestvecClient.record_gate."""
        return await self._run(migrations.record_gate(collection, gate), timeout_s)

    async def step_migration(
        self,
        collection: str,
        step: migrations.StepName,
        *,
        rate: float | None = None,
        override: str = "",
        timeout_s: float = MIGRATION_S,
    ) -> MigrationStatus:
        """See NestvecClient.step_migration."""
        return await self._run(migrations.step(collection, step, rate, override), timeout_s)

    async def verify(
        self, name: str, *, repair: bool = False, sample: int = 0, timeout_s: float = LONG_S
    ) -> Verification:
        """See NestvecClient.verify."""
        return await self._run(upkeep.verify(name, repair, sample), timeout_s)

    async def regions(self, *, timeout_s: float | None = None) -> list[RegionStatus]:
        """See NestvecClient.regions."""
        return await self._run(regions.describe(), timeout_s)

    async def verify_regions(
        self, name: str, *, timeout_s: float = LONG_S
    ) -> list[RegionDifference]:
        """See NestvecClient.verify_regions."""
        return await self._run(regions.verify(name), timeout_s)

    async def live_recall(
        self, collection: str = "", *, timeout_s: float | None = None
    ) -> LiveRecall:
        """See NestvecClient.live_recall."""
        return await self._run(quality.live_recall(collection), timeout_s)

    async def snapshot(self, name: str, *, timeout_s: float = LONG_S) -> list[ShardSnapshot]:
        """See NestvecClient.snapshot."""
        return await self._run(upkeep.snapshot(name), timeout_s)

    async def back_up(self, name: str, location: str, *, timeout_s: float = LONG_S) -> Backup:
        """See NestvecClient.back_up."""
        return await self._run(upkeep.back_up(name, location), timeout_s)

    async def restore(
        self, location: str, name: str | None = None, *, timeout_s: float = LONG_S
    ) -> Restored:
        """See NestvecClient.restore."""
        restored = await self._run(upkeep.restore(location, name), timeout_s)
        self._connection.forget(restored.collection.name)
        return restored

    async def server(self, *, timeout_s: float | None = None) -> ServerInfo:
        """See NestvecClient.server."""
        return await self._run(calls.server(), timeout_s)

    # --- awaiting -------------------------------------------------------------------------------

    async def _run(self, call: Call[Result], timeout_s: float | None = None) -> Result:
        connection = self._connection
        limit_s, metadata = connection.limit(timeout_s), connection.metadata()

        def start(server: int, left_s: float) -> Any:
            return getattr(self._stub(server, call.service), call.method)(
                call.request,
                timeout=left_s,
                metadata=metadata,
                wait_for_ready=connection.wait_for_ready,
            )

        def error_of(error: grpc.RpcError) -> NestvecError:
            return connection.error(error, call.method)

        if len(self._front_ends) > 1 and call.changes_nothing:
            response = await ask_async(self._front_ends, call.kind, limit_s, start, error_of)
            return call.read(response)
        with self._front_ends.one() as server:
            try:
                response = await start(server, limit_s)
            except grpc.RpcError as error:
                raise error_of(error) from None
        return call.read(response)

    def _stub(self, server: int, service: Service) -> Any:
        if not self._channels:
            # Here, because a channel belongs to the loop that runs when it is made.
            self._channels = self._connection.async_channels()
            self._stubs = [
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
        return self._stubs[server][service]

    async def _space(self, collection: str) -> Space:
        known = self._connection.spaces.get(collection)
        return known or self._connection.learn(collection, (await self.describe(collection)).space)

    async def _fingerprint(self, collection: str) -> str:
        return (await self._space(collection)).fingerprint

    @asynccontextmanager
    async def _stream(
        self, run: IngestRun, patience_s: float
    ) -> AsyncIterator[
        tuple[Callable[[IngestMessage | None], None], Callable[[], Awaitable[bool]]]
    ]:
        """(send, receive). `receive` settles one response, and is False at the end."""
        messages: asyncio.Queue[IngestMessage | None] = asyncio.Queue()
        server, cause = self._front_ends.pick(), None
        stream = self._stub(server, "ingest").IngestDocuments(
            _until_none(messages),
            metadata=self._connection.metadata(),
            wait_for_ready=self._connection.wait_for_ready,
        )

        async def receive() -> bool:
            async with asyncio.timeout(patience_s):
                response = await stream.read()
            if response is grpc.aio.EOF:
                return False
            run.settle(response)
            return True

        try:
            yield messages.put_nowait, receive
        except TimeoutError:
            run.fail(BudgetSpent("ingest"))
        except grpc.aio.AioRpcError as error:
            if error.details() == _LOST_REASON:
                run.fail(WorkerUnavailable("the stream broke, and grpc.aio lost the reason"))
            cause = self._connection.error(error, "IngestDocuments")
            run.fail(cause)
        finally:
            self._front_ends.ended(server, cause)
            stream.cancel()
            messages.put_nowait(None)


async def _until_none(
    messages: asyncio.Queue[IngestMessage | None],
) -> AsyncIterator[IngestMessage]:
    while (message := await messages.get()) is not None:
        yield message


async def _awaited(
    documents: Iterable[IngestDocument] | AsyncIterable[IngestDocument],
) -> AsyncIterator[IngestDocument]:
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield document
    else:
        for document in documents:
            yield document
