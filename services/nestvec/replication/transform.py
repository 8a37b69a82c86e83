"""What becomes of a stored document on its way from one collection to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nestvec.core.collection import Collection
from nestvec.core.document import payload_from_bytes
from nestvec.core.errors import CorruptVector, InvalidRequest
from nestvec.core.ports import Encoder, Encoders, StoredDocument, StoreRecord
from nestvec.core.space import Role
from nestvec.encoders import encoder_of

_ENCODE_S = 120.0


@dataclass(slots=True)
class Transformed:
    """records: to be written. refused: external id -> why it cannot be."""

    records: list[StoreRecord] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class Transform(Protocol):
    """One way from source to sink."""

    @property
    def needs_vectors(self) -> bool:
        """Whether it reads stored vectors."""
        ...

    async def apply(self, documents: Sequence[StoredDocument]) -> Transformed:
        """Records with the versions that the documents have. What is wrong with one document is
        told of it; raises what is wrong with all of them (WorkerUnavailable, Overloaded,
        BudgetSpent, SpaceMismatch): nothing is written then, and it may be tried again.
        """
        ...


class EncodeTexts:
    """Into another space: texts are encoded again. sink: whose space and codec they get. way_out:
    what a person can do where its model cannot be had.
    """

    needs_vectors = False

    def __init__(
        self, encoders: Encoders, sink: Collection, way_out: str = "give the migration up"
    ) -> None:
        self._encoders = encoders
        self._sink = sink
        self._way_out = way_out

    async def apply(self, documents: Sequence[StoredDocument]) -> Transformed:
        """See Transform."""
        done = Transformed()
        texts: list[str] = []
        readable: list[StoredDocument] = []
        for one in documents:
            text = stored_text(one)
            if text:
                texts.append(text)
                readable.append(one)
            else:
                done.refused[one.external_id] = "no text of it is kept"
        if texts:
            encoder = await encoder_of(self._encoders, self._sink, self._way_out, _ENCODE_S)
            await self._encode(encoder, readable, texts, done)
        return done

    async def _encode(
        self,
        encoder: Encoder,
        documents: Sequence[StoredDocument],
        texts: Sequence[str],
        done: Transformed,
    ) -> None:
        """In one call; where one text is bad, halve until it stands alone."""
        try:
            encoded = await encoder.encode(texts, Role.DOCUMENT, _ENCODE_S)
            vectors = self._sink.searchable(self._sink.project(encoded))
        except InvalidRequest as error:
            if len(documents) == 1:
                done.refused[documents[0].external_id] = str(error)
                return
            half = len(documents) // 2
            await self._encode(encoder, documents[:half], texts[:half], done)
            await self._encode(encoder, documents[half:], texts[half:], done)
            return
        for one, vector in zip(documents, self._sink.codec.encode(vectors), strict=True):
            assert one.payload is not None
            done.records.append(StoreRecord(one.external_id, vector, one.payload, one.version))


class CopyVectors:
    """Within one space, between two stores: vectors as they are, in the sink's own coding.

    Raises SpaceMismatch where the two are of different spaces or lengths.
    """

    needs_vectors = True

    def __init__(self, source: Collection, sink: Collection) -> None:
        source.space.require_same(sink.space.fingerprint, f"collection {sink.name!r}")
        if source.store_dim != sink.store_dim:
            raise InvalidRequest(
                "store_dim", f"{sink.store_dim}, expected {source.store_dim}, as in the source"
            )
        self._source = source
        self._sink = sink

    async def apply(self, documents: Sequence[StoredDocument]) -> Transformed:
        """See Transform."""
        done = Transformed()
        for one in documents:
            try:
                vector, payload = self._recoded(one), _sound_payload(one)
            except CorruptVector as error:
                done.refused[one.external_id] = str(error)
                continue
            done.records.append(StoreRecord(one.external_id, vector, payload, one.version))
        return done

    def _recoded(self, one: StoredDocument) -> bytes:
        # Decoded even where both are coded alike: what is damaged here must not spread.
        vector = self._source.codec.decode_one(one.vector or b"", one.external_id)
        if self._source.store_dtype is self._sink.store_dtype:
            return one.vector or b""
        return self._sink.codec.encode(vector[np.newaxis, :])[0]


def _sound_payload(document: StoredDocument) -> bytes:
    """Of the document itself: another store may give anything. Raises CorruptVector."""
    payload = document.payload or b""
    if payload_from_bytes(payload, document.external_id).id != document.external_id:
        raise CorruptVector(document.external_id, "its payload is another document's")
    return payload


def stored_text(document: StoredDocument) -> str:
    """What can be encoded again; empty where nothing was kept, or it cannot be read."""
    try:
        text = payload_from_bytes(document.payload or b"", document.external_id).text
    except CorruptVector:
        return ""
    return text if text.strip() else ""
