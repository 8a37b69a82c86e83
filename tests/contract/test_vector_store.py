"""What every VectorStore keeps to, in memory and on real servers alike."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nestvec.adapters.memory_store import MemoryStore
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import internal_id, partition_of, split_id
from nestvec.core.ports import StoreRecord, VectorStore
from tests.support.stores import (
    a_record,
    created,
    ids_of,
    live_ids,
    some_deletions,
    some_records,
    tidy_all,
)

NAMES = [f"document {i}" for i in range(50)]
STRANGE_IDS = [
    "{braces}",
    "{docs:1:0}",
    "}v:1",
    "colons:in:it",
    "blank and\nnew line",
    "\x00nul",
    "*?[a-z]\\",
    "-1",
    "s7",
    "ünïcödé 文書 🜁",
    "é" * 256,
    "x" * 512,
]


async def test_what_was_put_is_found_and_read_in_the_order_asked(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(NAMES, "one")))
    order = np.random.default_rng(1).permutation(len(NAMES))
    names = [NAMES[i] for i in order]
    assert (await store.find(docs, names)).tolist() == placed[order].tolist()
    expected = [f"vector {name} one".encode() for name in names]
    assert await store.vectors(docs, placed[order]) == expected
    assert await store.payloads(docs, placed[order]) == [b"payload one"] * len(NAMES)


async def test_results_of_put_stand_in_the_order_of_its_records(store: VectorStore) -> None:
    docs = await created(store)
    placed = await store.put(docs, some_records(NAMES))
    assert [one.replaced for one in placed] == [-1] * len(NAMES)
    partitions = [partition_of(name, docs.partitions) for name in NAMES]
    assert [split_id(one.internal_id)[0] for one in placed] == partitions
    assert len(set(ids_of(placed).tolist())) == len(NAMES)


async def test_a_repeated_id_is_read_as_often_as_it_is_asked_for(store: VectorStore) -> None:
    docs = await created(store)
    (one,) = ids_of(await store.put(docs, [a_record("a")]))
    assert await store.vectors(docs, np.array([one, one])) == [b"vector a "] * 2
    assert (await store.find(docs, ["a", "a"])).tolist() == [one, one]


async def test_what_is_not_there_is_none_between_what_is(store: VectorStore) -> None:
    docs = await created(store)
    (one,) = ids_of(await store.put(docs, [a_record("a")]))
    ids = np.array([internal_id(0, 99), one, -1], np.int64)
    assert await store.vectors(docs, ids) == [None, b"vector a ", None]
    assert await store.payloads(docs, ids) == [None, b"payload ", None]
    assert (await store.find(docs, ["no", "a", "nor this"])).tolist() == [-1, one, -1]


async def test_an_id_of_no_partition_is_refused(store: VectorStore) -> None:
    docs = await created(store)
    foreign = np.array([internal_id(docs.partitions, 1)])
    with pytest.raises(InvalidRequest, match="partition"):
        await store.vectors(docs, foreign)
    with pytest.raises(InvalidRequest, match="partition"):
        await store.payloads(docs, foreign)


async def test_a_replaced_document_stays_readable_until_it_is_tidied(store: VectorStore) -> None:
    docs = await created(store)
    (old,) = await store.put(docs, [a_record("a", "old")])
    (new,) = await store.put(docs, [a_record("a", "new")])
    assert new.replaced == old.internal_id
    assert new.internal_id > old.internal_id
    assert (await store.find(docs, ["a"])).tolist() == [new.internal_id]
    both = np.array([old.internal_id, new.internal_id])
    assert await store.vectors(docs, both) == [b"vector a old", b"vector a new"]

    assert await tidy_all(store, docs) == 1
    assert await store.vectors(docs, both) == [None, b"vector a new"]
    assert await store.payloads(docs, both) == [None, b"payload new"]
    assert await live_ids(store, docs) == {new.internal_id}


async def test_a_deleted_document_is_not_live_and_stays_until_tidied(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(["a", "b"])))
    await store.delete(docs, some_deletions(["a", "never there"]))
    assert (await store.find(docs, ["a", "b"])).tolist() == [-1, placed[1]]
    assert await live_ids(store, docs) == {placed[1]}
    assert await store.vectors(docs, placed[:1]) == [b"vector a "]
    assert await tidy_all(store, docs) == 1
    assert await store.vectors(docs, placed) == [None, b"vector b "]
    assert await store.payloads(docs, placed) == [None, b"payload "]


async def test_an_internal_id_is_never_given_out_again(store: VectorStore) -> None:
    docs = await created(store)
    seen: set[int] = set()
    for _ in range(5):
        placed = ids_of(await store.put(docs, [a_record("a")]))
        assert seen.isdisjoint(placed.tolist())
        seen.update(placed.tolist())
        await store.delete(docs, some_deletions(["a"]))
        await tidy_all(store, docs)


async def test_an_id_twice_in_one_batch_is_refused_and_nothing_written(store: VectorStore) -> None:
    docs = await created(store)
    with pytest.raises(InvalidRequest, match="'a' stands twice") as caught:
        await store.put(docs, some_records(["a", "b", "a"]))
    assert caught.value.field == "records.2.external_id"
    assert (await store.find(docs, ["a", "b"])).tolist() == [-1, -1]
    assert await live_ids(store, docs) == set()


async def test_strange_ids_are_ids_like_any_other(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(STRANGE_IDS)))
    assert (await store.find(docs, STRANGE_IDS)).tolist() == placed.tolist()
    assert await store.vectors(docs, placed) == [f"vector {i} ".encode() for i in STRANGE_IDS]
    await store.delete(docs, some_deletions(STRANGE_IDS[:6]))
    assert await live_ids(store, docs) == set(placed[6:].tolist())


async def test_values_are_kept_byte_for_byte(store: VectorStore) -> None:
    docs = await created(store)
    every_byte = bytes(range(256)) * 5
    record = a_record("a")
    placed = await store.put(docs, [replace(record, vector=every_byte, payload=b"")])
    assert await store.vectors(docs, ids_of(placed)) == [every_byte]
    assert await store.payloads(docs, ids_of(placed)) == [b""]


async def test_empty_batches_do_nothing(store: VectorStore) -> None:
    docs = await created(store)
    none = np.empty(0, np.int64)
    assert await store.put(docs, []) == []
    assert (await store.find(docs, [])).dtype == np.int64
    assert await store.vectors(docs, none) == []
    assert await store.payloads(docs, none) == []
    assert await store.delete(docs, []) == []
    assert await store.external_ids(docs, none) == []
    assert await store.positions(docs, range(0)) == {}
    assert await store.read_log(docs, {}, 10) == []
    assert await store.tidy(docs, {}, 0) == 0
    assert await live_ids(store, docs) == set()
    assert (await store.usage(docs)).documents == 0


async def test_batches_of_thousands(store: VectorStore) -> None:
    docs = await created(store)
    names = [f"n{i}" for i in range(5000)]
    placed = ids_of(await store.put(docs, some_records(names)))
    assert (await store.find(docs, names)).tolist() == placed.tolist()
    assert await store.vectors(docs, placed) == [f"vector {name} ".encode() for name in names]
    assert await live_ids(store, docs) == set(placed.tolist())
    await store.delete(docs, some_deletions(names[:4000]))
    assert await tidy_all(store, docs) == 4000
    assert await live_ids(store, docs) == set(placed[4000:].tolist())
    assert await store.vectors(docs, placed[:4000]) == [None] * 4000


async def test_live_ids_of_some_partitions_are_theirs_alone(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    batches = [batch async for batch in store.live_ids(docs, range(2, 5))]
    assert all(batch.dtype == np.int64 for batch in batches)
    found = {internal for batch in batches for internal in batch.tolist()}
    assert found == {i for i in placed.tolist() if 2 <= split_id(i)[0] < 5}


async def test_puts_of_one_id_at_once_leave_one_and_name_each_other_once(
    store: VectorStore,
) -> None:
    docs = await created(store)
    puts = (store.put(docs, [a_record("a", str(i)), a_record(f"b{i}")]) for i in range(40))
    answers = await asyncio.gather(*puts)
    ids = [answer[0].internal_id for answer in answers]
    replaced = Counter(answer[0].replaced for answer in answers)
    assert len(set(ids)) == 40
    (live,) = (await store.find(docs, ["a"])).tolist()
    assert replaced == Counter([-1, *(i for i in ids if i != live)])
    assert (await store.vectors(docs, np.array([live])))[
        0
    ] == f"vector a {ids.index(live)}".encode()


async def test_reads_at_once_do_not_mix_their_answers(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(NAMES)))

    async def read(start: int) -> None:
        for at in range(start, len(NAMES)):
            assert await store.vectors(docs, placed[at : at + 1]) == [
                f"vector {NAMES[at]} ".encode()
            ]

    await asyncio.gather(*(read(start) for start in range(40)))


async def test_a_cancelled_call_spoils_no_later_one(store: VectorStore) -> None:
    docs = await created(store)
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    for turns in range(30):
        task = asyncio.create_task(store.vectors(docs, placed))
        for _ in range(turns % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        at = turns % len(NAMES)
        assert await store.vectors(docs, placed[at : at + 1]) == [f"vector {NAMES[at]} ".encode()]


async def test_external_ids_are_read_from_payloads(store: VectorStore) -> None:
    docs = await created(store)
    records = [
        replace(a_record(name), payload=payload_to_bytes(Document(name, "text")))
        for name in STRANGE_IDS
    ]
    placed = ids_of(await store.put(docs, [*records, a_record("damaged")]))
    ids = np.append(placed, internal_id(0, 99))
    assert await store.external_ids(docs, ids) == [*STRANGE_IDS, None, None]


async def test_external_ids_are_read_whatever_their_length_and_that_of_the_text(
    store: VectorStore,
) -> None:
    docs = await created(store)
    # Control characters take six bytes each in a payload.
    names = ["short", "x" * 512, "\x01" * 512, '"' * 512, "é" * 256]
    for length in (1, 700, 40_000):
        records = [
            replace(a_record(name, version=length), payload=payload_to_bytes(text_of(name, length)))
            for name in names
        ]
        placed = ids_of(await store.put(docs, records))
        assert await store.external_ids(docs, placed) == names
    many = [
        replace(a_record(f"n{n}"), payload=payload_to_bytes(text_of(f"n{n}", 5)))
        for n in range(2500)
    ]
    placed = ids_of(await store.put(docs, many))
    assert await store.external_ids(docs, placed) == [one.external_id for one in many]


def text_of(name: str, length: int) -> Document:
    """The text ends a read of fixed length in the middle of a character."""
    return Document(name, "é" * length)


async def test_usage_counts_live_documents_and_their_bytes(store: VectorStore) -> None:
    docs = await created(store)
    names = [f"n{i}" for i in range(300)]
    await store.put(docs, [StoreRecord(name, b"v" * 1544, b"p" * 200, 1) for name in names])
    await store.delete(docs, some_deletions(names[:100]))
    usage = await store.usage(docs)
    assert usage.documents == 200
    assert await store.count(docs) == 200
    assert 1544 <= usage.vector_bytes_per_document < 1544 * 1.4
    assert 200 <= usage.payload_bytes_per_document < 500
    assert usage.used_memory_bytes >= 300 * 1744
    assert usage.tombstones == 100
    assert usage.log_entries == 2 * docs.partitions  # every partition had one put and one deletion
    await tidy_all(store, docs)
    assert (await store.usage(docs)).log_entries == 0


async def test_a_store_that_is_up_answers_ping(store: VectorStore) -> None:
    await store.ping()


async def test_any_history_reads_the_same_as_in_memory(store: VectorStore) -> None:
    oracle = MemoryStore()
    docs, plain = await created(store), await created(oracle)
    chosen = random.Random(11)
    names = [f"n{i}" for i in range(30)]
    for step in range(150):
        batch = chosen.sample(names, chosen.randint(1, 8))
        if chosen.random() < 0.6:
            placed = await store.put(docs, some_records(batch, str(step)))
            expected = await oracle.put(plain, some_records(batch, str(step)))
            assert [one.replaced >= 0 for one in placed] == [one.replaced >= 0 for one in expected]
        else:
            deleted = await store.delete(docs, some_deletions(batch))
            gone = await oracle.delete(plain, some_deletions(batch))
            assert [one.internal_id >= 0 for one in deleted] == [
                one.internal_id >= 0 for one in gone
            ]
        if chosen.random() < 0.3:
            assert await tidy_all(store, docs, 3) == await tidy_all(oracle, plain, 3)
        ids, theirs = await store.find(docs, names), await oracle.find(plain, names)
        assert await store.vectors(docs, ids) == await oracle.vectors(plain, theirs)
        assert await store.payloads(docs, ids) == await oracle.payloads(plain, theirs)
        assert await live_ids(store, docs) == set(ids[ids >= 0].tolist())
