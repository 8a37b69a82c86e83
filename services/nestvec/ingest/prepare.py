"""The first step of ingest: check each document, encode it once, see that every tier can be cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.document import check_id, check_text
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    Overloaded,
    WorkerUnavailable,
)
from nestvec.core.fields import check_values
from nestvec.core.ports import Encoder, Encoders
from nestvec.core.space import Role
from nestvec.encoders import encoder_of
from nestvec.ingest.batch import Item, Prepared, Refusal
from nestvec.telemetry.tracing import part

_ENCODE_TIMEOUT_S = 120.0
_PASSING = (Overloaded, WorkerUnavailable, BudgetSpent)

Rows = list[Floats | None]


class Preparer:
    """Turns items into vectors. Bad ones become failures; none of them stops the others."""

    def __init__(self, encoders: Encoders, max_text_bytes: int) -> None:
        self._encoders = encoders
        self._max_text_bytes = max_text_bytes

    async def prepare(
        self, collection: Collection, items: Sequence[Item], has_space: bool
    ) -> Prepared:
        """has_space: whether the caller named the space of the vectors it brings."""
        prepared = Prepared(collection)
        for position, item in enumerate(items):
            try:
                self._check(collection, item, has_space)
            except InvalidRequest as error:
                prepared.fail(position, item, Refusal.INVALID, str(error))
                continue
            prepared.positions.append(position)
            prepared.items.append(item)
        rows = await self._encode(prepared)
        _supersede(prepared, rows)
        kept = [number for number, row in enumerate(rows) if row is not None]
        prepared.positions = [prepared.positions[number] for number in kept]
        prepared.items = [prepared.items[number] for number in kept]
        vectors = [row for row in rows if row is not None]
        empty = np.empty((0, collection.store_dim), np.float32)
        prepared.vectors = np.stack(vectors) if vectors else empty
        return prepared

    async def encoder_of(self, collection: Collection, timeout_s: float) -> Encoder:
        """What makes vectors of the collection. Raises as nestvec.encoders.encoder_of does."""
        return await encoder_of(self._encoders, collection, "send its vectors", timeout_s)

    def _check(self, collection: Collection, item: Item, has_space: bool) -> None:
        check_id(item.document.id, "document.id")
        check_text(item.document.text, self._max_text_bytes, "document.text")
        check_values(collection.fields, item.document.fields)
        if item.version < 0:
            raise InvalidRequest(
                "version", f"{item.version}, expected 0 (the server's clock) or more"
            )
        if item.vector is not None and not has_space:
            raise InvalidRequest(
                "vector_space", "a document brings a vector; the stream's first message names none"
            )

    async def _encode(self, prepared: Prepared) -> Rows:
        """A row an item, None where it was refused."""
        rows: Rows = [None] * len(prepared.items)
        texts = [number for number, item in enumerate(prepared.items) if item.vector is None]
        await self._encode_texts(prepared, texts, rows)
        for number, item in enumerate(prepared.items):
            if item.vector is not None:
                _take(prepared, number, item.vector, rows)
        return rows

    async def _encode_texts(self, prepared: Prepared, numbers: list[int], rows: Rows) -> None:
        """Encode some items' texts in one call; where one is bad, halve until it stands alone."""
        if not numbers:
            return
        texts = [prepared.items[number].document.text for number in numbers]
        try:
            encoder = await self.encoder_of(prepared.collection, _ENCODE_TIMEOUT_S)
            with part("encode", {"nestvec.texts": len(texts)}):
                vectors = await encoder.encode(texts, Role.DOCUMENT, _ENCODE_TIMEOUT_S)
        except InvalidRequest as error:
            if len(numbers) == 1:
                prepared.refuse(numbers[0], Refusal.INVALID, str(error))
                return
            half = len(numbers) // 2
            await self._encode_texts(prepared, numbers[:half], rows)
            await self._encode_texts(prepared, numbers[half:], rows)
        except NestvecError as error:
            passing = isinstance(error, _PASSING)
            for number in numbers:
                refusal = Refusal.UNAVAILABLE if passing else Refusal.INVALID
                prepared.refuse(number, refusal, str(error))
        else:
            self._keep(prepared, numbers, vectors, rows)

    def _keep(self, prepared: Prepared, numbers: list[int], vectors: Floats, rows: Rows) -> None:
        try:
            stored = prepared.collection.searchable(prepared.collection.project(vectors))
        except InvalidRequest:
            # Some tier cannot be cut from some row: one by one, to tell which.
            for number, vector in zip(numbers, vectors, strict=True):
                _take(prepared, number, vector, rows)
            return
        for number, vector in zip(numbers, stored, strict=True):
            rows[number] = vector


def _supersede(prepared: Prepared, rows: Rows) -> None:
    """Keep one good document of each id: only what will be taken may stand in another's place."""
    last: dict[str, int] = {}
    for number, (item, row) in enumerate(zip(prepared.items, rows, strict=True)):
        if row is None:
            continue
        earlier = last.get(item.document.id)
        if earlier is not None and _is_older(item, prepared.items[earlier]):
            rows[number] = None
            prepared.refuse(
                number,
                Refusal.STALE,
                f"version {item.version} is older than {prepared.items[earlier].version}, at which "
                f"id {item.document.id!r} stands earlier in the same message; that one is taken",
            )
            continue
        if earlier is not None:
            rows[earlier] = None
            prepared.refuse(
                earlier,
                Refusal.SUPERSEDED,
                f"id {item.document.id!r} stands again "
                f"{prepared.positions[number] - prepared.positions[earlier]} documents later in "
                f"the same message; the later one is taken",
            )
        last[item.document.id] = number


def _is_older(item: Item, earlier: Item) -> bool:
    """By versions that a caller made. The server's clock is later than what came before."""
    return 0 < item.version < earlier.version


def _take(prepared: Prepared, number: int, vector: Floats, rows: Rows) -> None:
    """Accept one full or stored-length vector, or report why not."""
    collection = prepared.collection
    try:
        one = collection.accept(vector[None, :], "document.vector")
        rows[number] = collection.searchable(one)[0]
    except InvalidRequest as error:
        prepared.refuse(number, Refusal.INVALID, str(error))
