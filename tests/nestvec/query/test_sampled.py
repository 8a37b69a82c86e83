from dataclasses import replace

import numpy as np

from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import WorkerUnavailable
from nestvec.core.filters import AnyOf
from nestvec.core.ports import CoarseHits, CoarseSearcher
from nestvec.core.sampled import SampledAnswer
from nestvec.query.answer import Answer
from nestvec.query.sampled import AnswerSampler
from nestvec.query.shards import ShardsAnswer
from tests.support.rooms import FaultyShard, Rooms, open_rooms, raising


def sampling(rooms: Rooms, share: float = 1.0, draw: float = 0.5) -> list[SampledAnswer]:
    """From now on; those that are taken."""
    taken: list[SampledAnswer] = []
    rooms.query.own.sampler = AnswerSampler(share, taken.append, lambda _: None, lambda: draw)
    return taken


async def filled(rooms: Rooms) -> None:
    await rooms.create()
    await rooms.add(*(Document(f"d{n}", f"a text about number {n}") for n in range(40)))


async def test_a_sample_is_the_answer_without_any_text() -> None:
    async with open_rooms() as rooms:
        await filled(rooms)
        taken = sampling(rooms)
        answer = await rooms.ask("number 7", search_class="search", k=3)
        await rooms.ask("number 8", search_class="autocomplete")
        deep, fast = taken
        found = await rooms.store.external_ids(answer.collection, deep.hits)
    assert (deep.search_class, deep.coarse_dim, deep.k, deep.count, deep.reranked) == (
        "search", 16, 3, 100, True,
    )  # fmt: skip
    assert [hit.document.id for hit in answer.hits] == found[:3]
    assert set(deep.hits.tolist()) <= set(deep.candidates.tolist())
    assert (deep.missing_shards, deep.shards, deep.cut) == ((), 1, False)
    assert (fast.search_class, fast.k, fast.count, fast.reranked) == ("autocomplete", 5, 5, False)
    assert not any(isinstance(getattr(deep, name), bytes | Document) for name in deep.__slots__)
    assert "number 7" not in repr(deep)


async def test_as_many_are_taken_as_are_asked_for() -> None:
    async with open_rooms() as rooms:
        await filled(rooms)
        below, above = sampling(rooms, share=0.1, draw=0.09), sampling(rooms, share=0.1, draw=0.1)
        await rooms.ask("number 7")
        assert (len(below), len(above)) == (0, 0)
        below = sampling(rooms, share=0.1, draw=0.09)
        await rooms.ask("number 7")
        assert len(below) == 1


async def test_shards_that_did_not_answer_are_named() -> None:
    shards: list[FaultyShard] = []

    def wrap(shard: CoarseSearcher) -> CoarseSearcher:
        shards.append(FaultyShard(shard))
        return shards[-1]

    async with open_rooms(shards=3, wrap_shard=wrap) as rooms:
        await filled(rooms)
        taken = sampling(rooms)
        shards[1].faults.always("search", raising(WorkerUnavailable("gone")))
        await rooms.ask("number 7", min_coverage=0.0)
    (one,) = taken
    assert (one.missing_shards, one.shards) == ((1,), 3)


async def test_filtered_and_cut_answers_are_known_as_such() -> None:
    async with open_rooms() as rooms:
        await filled(rooms)
        answer = await rooms.ask("number 7")
    taken: list[SampledAnswer] = []
    reasons: list[str] = []
    sampler = AnswerSampler(1.0, taken.append, reasons.append)
    ids, none = np.arange(3), np.zeros(3, np.float32)
    hits = CoarseHits(ids, none, none, None)
    found = ShardsAnswer([hits], Coverage(1, 1, 40, 40), [], 40)
    vector = np.ones(64, np.float32)

    def offer(one: Answer) -> None:
        sampler.offer(one, vector, hits, ids, found, 1.0)

    answer.plan = replace(answer.plan, filter=AnyOf("lang", ("en",)))
    offer(answer)
    assert (taken, reasons) == ([], ["filtered"])
    answer.plan = replace(answer.plan, filter=None)
    answer.degrade(DegradationKind.RERANK_PARTIAL, "time ran out")
    offer(answer)
    vector[:] = 0.0
    assert taken[0].cut
    assert (taken[0].vector == 1.0).all()
