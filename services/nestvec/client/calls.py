"""Every unary call as a value: its request, and how its response is read. Clients only await."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from nestvec.client import responses
from nestvec.client.values import (
    AckName,
    CollectionDescription,
    CollectionInfo,
    DeleteResult,
    GetResult,
    SearchResult,
    ServerInfo,
)
from nestvec.client.vectors import as_query_vector, as_query_vectors
from nestvec.core.codec import VectorDtype, floats_to_bytes
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType, field_type
from nestvec.core.filter_text import parse_filter
from nestvec.core.filters import Filter
from nestvec.core.measured import Evidence
from nestvec.core.regions import RegionPolicy
from nestvec.rpc.evidence_wire import code_to_wire, evidence_to_wire
from nestvec.rpc.field_wire import filter_to_wire, schema_to_wire
from nestvec.rpc.region_outcome_wire import policy_to_wire
from nestvec.rpc.wire import dtype_to_wire
from nestvec.v1 import admin_pb2, ingest_pb2, query_pb2

Result = TypeVar("Result")
Service = Literal["query", "ingest", "admin", "quality", "migration", "regions"]
# Of the services that also write.
_READS = frozenset(
    {
        "ListCollections",
        "DescribeCollection",
        "DescribeServer",
        "DescribeLiveRecall",
        "DescribeMigration",
        "DescribeRegions",
        "VerifyRegions",
    }
)


class SearchOptions(TypedDict, total=False):
    """What a search may be told; what is left out, or None, is the search class's own setting.

    search_class: a class of the server's configuration, `search` by default. k: how many hits.
    coarse_dim: the tier to search. candidates: how many the coarse search passes on. rerank:
    whether to order them at full dimension. min_coverage: the least share of the documents, 0 to
    1, that must have answered. explain: fill `SearchResult.explanation`. ids_only: leave texts and
    fields out. exhaustive: fetch every candidate's full vector, whatever the bounds say.
    cross_encode: whether the server's cross-encoder orders the first hits anew.
    target_recall: the share of exact search's k best, above 0 and at most 1, that answers shall
    hold: the cheapest plan that the collection was calibrated to reach it with is run, in place of
    the knobs before. bound_z: how many standard deviations the bounds of the rerank span, 5 unless
    told. watermark: of an `index` report or a `delete` result; the search waits, within its
    deadline, until it sees what that one wrote. filter: only documents that match, as text such as
    `lang == "en" and year >= 2020` (nestvec.core.filter_text) or as a tree (nestvec.core.filters).
    fingerprint: the space of a query vector; by default the collection's, asked for once.
    regions: where the server is one of several, which of them answer: `local` (that one alone),
    `local_first` (others where it is not enough) or `all`. max_staleness_s: how far a replicated
    collection may be behind other regions, in seconds; those that it is further behind are asked
    too. timeout_s: the deadline of this call.
    """

    search_class: str
    k: int | None
    coarse_dim: int | None
    candidates: int | None
    rerank: bool | None
    min_coverage: float | None
    explain: bool
    ids_only: bool
    exhaustive: bool
    cross_encode: bool | None
    target_recall: float | None
    bound_z: float | None
    watermark: bytes
    filter: Filter | str | None
    fingerprint: str | None
    regions: RegionPolicy | str | None
    max_staleness_s: float | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One unary call, ready to be made."""

    service: Service
    method: str
    request: Message
    read: Callable[[Any], Result]

    @property
    def changes_nothing(self) -> bool:
        """Whether it may be asked twice."""
        return self.service == "query" or self.method in _READS

    @property
    def kind(self) -> tuple[str, str]:
        """Calls of one kind take about as long as each other."""
        options = getattr(self.request, "options", None)
        return self.method, getattr(options, "search_class", "")


# --- searching ----------------------------------------------------------------------------------


def needs_space(query: object, options: SearchOptions) -> bool:
    """Whether the collection's fingerprint must be known before `query` can be sent."""
    return isinstance(query, np.ndarray) and options.get("fingerprint") is None


def search(
    collection: str, query: str | NDArray[Any], fingerprint: str, options: SearchOptions
) -> Call[SearchResult]:
    """fingerprint: of the collection; read for a vector only, when the caller gives none."""
    wishes = _options(**options)
    with as_invalid("query"):
        request = query_pb2.SearchRequest(collection=collection, options=wishes)
        if isinstance(query, np.ndarray):
            vector = as_query_vector(query)
            request.vector.values = floats_to_bytes(vector)
            request.vector.space.fingerprint = options.get("fingerprint") or fingerprint
            request.vector.space.dim = len(vector)
        else:
            request.text = query
    return Call("query", "Search", request, responses.search_result)


def search_batch(
    collection: str,
    queries: Sequence[str] | NDArray[Any],
    fingerprint: str,
    options: SearchOptions,
) -> Call[list[SearchResult]]:
    """As `search`, for several queries at once."""
    if isinstance(queries, str):
        raise TypeError("queries: expected several; a single text goes to `search`")
    wishes = _options(**options)
    with as_invalid("queries"):
        request = query_pb2.BatchSearchRequest(collection=collection, options=wishes)
        if isinstance(queries, np.ndarray):
            vectors = as_query_vectors(queries)
            request.vectors.values = floats_to_bytes(vectors)
            request.vectors.space.fingerprint = options.get("fingerprint") or fingerprint
            request.vectors.space.dim = vectors.shape[1]
        else:
            request.texts.extend(queries)
    return Call("query", "BatchSearch", request, responses.search_results)


def _options(
    *,
    search_class: str = "search",
    k: int | None = None,
    coarse_dim: int | None = None,
    candidates: int | None = None,
    rerank: bool | None = None,
    min_coverage: float | None = None,
    explain: bool = False,
    ids_only: bool = False,
    exhaustive: bool = False,
    cross_encode: bool | None = None,
    target_recall: float | None = None,
    bound_z: float | None = None,
    watermark: bytes = b"",
    filter: Filter | str | None = None,  # noqa: A002  the word of SearchOptions
    fingerprint: str | None = None,  # noqa: ARG001  stands with the vector
    regions: RegionPolicy | str | None = None,
    max_staleness_s: float | None = None,
    timeout_s: float | None = None,  # noqa: ARG001  stands with the call
) -> query_pb2.SearchOptions:
    wanted = parse_filter(filter) if isinstance(filter, str) else filter
    with as_invalid("options.filter", "64-bit"):
        filter_message = None if wanted is None else filter_to_wire(wanted)
    policy = None if regions is None else policy_of(regions)
    with as_invalid("options"):
        return query_pb2.SearchOptions(
            search_class=search_class,
            k=k,
            coarse_dim=coarse_dim,
            candidates=candidates,
            rerank=rerank,
            min_coverage=min_coverage,
            explain=explain,
            ids_only=ids_only,
            exhaustive_rerank=exhaustive,
            cross_encode=cross_encode,
            target_recall=target_recall,
            bound_z=bound_z,
            watermark=watermark,
            filter=filter_message,
            regions=policy_to_wire(policy),
            max_staleness_s=max_staleness_s,
        )


def policy_of(regions: RegionPolicy | str) -> RegionPolicy:
    """Raises InvalidRequest."""
    try:
        return RegionPolicy(regions)
    except ValueError:
        raise InvalidRequest(
            "options.regions", f"{regions!r}, expected one of {', '.join(RegionPolicy)}"
        ) from None


# --- documents ----------------------------------------------------------------------------------


def get(collection: str, ids: Sequence[str], with_vectors: bool) -> Call[GetResult]:
    """Documents by id."""
    with as_invalid("ids"):
        request = query_pb2.GetDocumentsRequest(
            collection=collection, ids=_several(ids), include_vectors=with_vectors
        )
    return Call("query", "GetDocuments", request, responses.get_result)


def list_ids(collection: str, token: str) -> Call[tuple[list[str], str]]:
    """Ids of some documents, and the token of the next part; empty after the last."""
    with as_invalid("collection"):
        request = query_pb2.ListDocumentIdsRequest(collection=collection, page_token=token)
    return Call("query", "ListDocumentIds", request, responses.some_ids)


def delete(
    collection: str, ids: Sequence[str], version: int, ack: AckName | str
) -> Call[DeleteResult]:
    """Documents by id."""
    level = ack_to_wire(ack)
    with as_invalid("ids"):
        request = ingest_pb2.DeleteDocumentsRequest(
            collection=collection, ids=_several(ids), ack=level
        )
    with as_invalid("version", "64-bit"):
        request.version = version
    return Call("ingest", "DeleteDocuments", request, responses.delete_result)


_ACK = {
    "stored": ingest_pb2.ACK_LEVEL_STORED,
    "searchable": ingest_pb2.ACK_LEVEL_SEARCHABLE,
}


def ack_to_wire(ack: AckName | str) -> ingest_pb2.AckLevel.ValueType:
    """Raises InvalidRequest."""
    if ack not in _ACK:
        raise InvalidRequest("ack", f"{ack!r}, expected one of {', '.join(_ACK)}")
    return _ACK[ack]


# --- collections and the server -----------------------------------------------------------------


def create_collection(
    name: str,
    tiers: Sequence[int],
    store_dim: int,
    store_dtype: VectorDtype | str | None,
    exist_ok: bool,
    fields: Mapping[str, FieldType | str],
    coarse_code: CoarseCode | str = CoarseCode.AUTO,
    evidence: Evidence | None = None,
    model: str = "",
) -> Call[CollectionInfo]:
    """Empty values take the server's defaults."""
    dtype = admin_pb2.STORE_DTYPE_UNSPECIFIED
    if store_dtype is not None:
        dtype = dtype_to_wire(_dtype(store_dtype))
    code = code_to_wire(_code(coarse_code))
    with as_invalid("collection"):
        request = admin_pb2.CreateCollectionRequest(
            name=name,
            tiers=tiers,
            store_dim=store_dim,
            store_dtype=dtype,
            exist_ok=exist_ok,
            fields=schema_to_wire(
                FieldSchema(field, field_type(kind, f"fields.{field}"))
                for field, kind in fields.items()
            ),
            coarse_code=code,
            evidence=None if evidence is None else evidence_to_wire(evidence),
            model=model,
        )
    return Call("admin", "CreateCollection", request, responses.created)


def collections() -> Call[list[CollectionInfo]]:
    """All of them."""
    request = admin_pb2.ListCollectionsRequest()
    return Call("admin", "ListCollections", request, responses.collections)


def describe(name: str) -> Call[CollectionDescription]:
    """One of them."""
    with as_invalid("name"):
        request = admin_pb2.DescribeCollectionRequest(name=name)
    return Call("admin", "DescribeCollection", request, responses.description)


def drop_collection(name: str) -> Call[None]:
    """One of them."""
    with as_invalid("name"):
        request = admin_pb2.DropCollectionRequest(name=name)
    return Call("admin", "DropCollection", request, responses.nothing)


def server() -> Call[ServerInfo]:
    """The server itself."""
    return Call("admin", "DescribeServer", admin_pb2.DescribeServerRequest(), responses.server_info)


# --- what cannot even be written down -----------------------------------------------------------


@contextmanager
def as_invalid(field: str, integers: str = "32-bit") -> Iterator[None]:
    """What a message cannot hold is the caller's input that is wrong; a wrong type stays one."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field,
            f"half a character (a lone surrogate) at position {error.start}; send valid Unicode",
        ) from None
    except ValueError as error:
        raise InvalidRequest(field, f"{error}; expected a {integers} integer") from None


def _several(ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str):
        raise TypeError("ids: expected several; put a single one in a list")
    return ids


def _dtype(dtype: VectorDtype | str) -> VectorDtype:
    try:
        return VectorDtype(dtype)
    except ValueError:
        known = ", ".join(one.value for one in VectorDtype)
        raise InvalidRequest("store_dtype", f"{dtype!r}, expected one of {known}") from None


def _code(code: CoarseCode | str) -> CoarseCode:
    try:
        return CoarseCode(code)
    except ValueError:
        known = ", ".join(one.value for one in CoarseCode)
        raise InvalidRequest("coarse_code", f"{code!r}, expected one of {known}") from None
