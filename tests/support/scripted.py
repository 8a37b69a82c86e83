"""A gRPC server on a real socket that does what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from nestvec.core.space import Space
from nestvec.rpc.wire import space_to_wire
from nestvec.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)

SPACE = Space("scripted", 4, trained_dims=(2, 4))
Behaviour = Callable[[Any, grpc.ServicerContext], Any]


def _described(name: str) -> admin_pb2.CollectionDescription:
    return admin_pb2.CollectionDescription(name=name, space=space_to_wire(SPACE), generation=1)


@dataclass
class Script:
    """What each method does, and what came. By default every read succeeds with nothing in it."""

    search: Behaviour = lambda request, context: query_pb2.SearchResponse()
    create: Behaviour = lambda request, context: admin_pb2.CreateCollectionResponse(
        collection=_described(request.name), created=True
    )
    delete: Behaviour = lambda request, context: ingest_pb2.DeleteDocumentsResponse()
    ingest: Behaviour = lambda requests, context: iter(())
    calls: list[str] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def note(self, method: str, context: grpc.ServicerContext) -> None:
        """Keep that `method` was called, and with which metadata."""
        self.calls.append(method)
        self.metadata = dict(context.invocation_metadata())


class _Query(query_pb2_grpc.QueryServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Search(self, request: Any, context: Any) -> Any:
        self.script.note("Search", context)
        return self.script.search(request, context)

    def BatchSearch(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GetDocuments(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListDocumentIds(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class _Ingest(ingest_pb2_grpc.IngestServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def IngestDocuments(self, request_iterator: Any, context: Any) -> Any:
        self.script.note("IngestDocuments", context)
        return self.script.ingest(request_iterator, context)

    def DeleteDocuments(self, request: Any, context: Any) -> Any:
        self.script.note("DeleteDocuments", context)
        return self.script.delete(request, context)


class _Admin(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def CreateCollection(self, request: Any, context: Any) -> Any:
        self.script.note("CreateCollection", context)
        return self.script.create(request, context)

    def ListCollections(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def DescribeCollection(self, request: Any, context: Any) -> Any:
        self.script.note("DescribeCollection", context)
        return admin_pb2.DescribeCollectionResponse(collection=_described(request.name))

    def DropCollection(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def AddTier(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def DropTier(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def VerifyCollection(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def SnapshotShards(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def BackUpCollection(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def RestoreCollection(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def SetCalibration(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def DropCalibration(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def DescribeServer(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@contextmanager
def scripted_server(script: Script, port: int = 0) -> Iterator[str]:
    """Gives its address. Calls that still run are cut off at the end."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    query_pb2_grpc.add_QueryServiceServicer_to_server(_Query(script), server)
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(_Ingest(script), server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(_Admin(script), server)
    taken = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{taken}"
    finally:
        script.done.set()
        server.stop(0).wait()
