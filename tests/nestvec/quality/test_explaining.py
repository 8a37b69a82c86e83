"""What is asked of which shard, and what its answers come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nestvec.core.collection import Collection
from nestvec.core.errors import WorkerUnavailable
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.placement import internal_id
from nestvec.core.ports import FixedShards
from nestvec.core.sampled import SampledAnswer
from nestvec.quality.attribution import Cause
from nestvec.quality.cpu_budget import CpuBudget
from nestvec.quality.exact_pass import Exact
from nestvec.quality.explaining import Compared, explain
from nestvec.quality.live_recall import Held
from tests.nestvec.quality.test_exact_pass import a_sample
from tests.support.replicas import ScriptedShard

VECTOR = np.full(64, 0.125, np.float32)
# Of the first of two shards, and of the second.
HERE, THERE = internal_id(0, 5), internal_id(3, 5)


class Told(ScriptedShard):
    """Everything is indexed, and offered in vain; the codes of `broken` are not sound."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        super().__init__()
        self.broken = broken
        self.asked: list[InspectionRequest] = []

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        self.asked.append(request)
        await self._begin("inspect")
        found = Inspection.unknown(len(request.ids))
        found.indexed[:], found.offered[:] = True, True
        found.sound[:] = ~np.isin(request.ids, self.broken)
        for name in ("code_scores", "scan_scores", "cutoffs", "errors", "spreads"):
            getattr(found, name)[:] = 0.0
        return replace(found, cpu_s=0.5)


@dataclass
class Case:
    """Two shards, and samples that missed one document each."""

    shards: tuple[Told, Told] = field(default_factory=lambda: (Told(), Told()))
    budget: CpuBudget = field(default_factory=lambda: CpuBudget(1.0))

    async def causes(self, *samples: SampledAnswer, missed: int = HERE) -> list[list[Cause]]:
        column = np.full(1, 0.5, np.float32)
        exact = Exact(np.array([missed]), column, column, 0.4, np.empty(0, np.float32))
        held = Held(1, np.zeros(1, np.int64))
        compared = [Compared(sample, exact, held) for sample in samples]
        return await explain(FixedShards(self.shards), compared, self.budget)


async def test_the_shard_that_holds_a_document_is_asked_about_it() -> None:
    case = Case()
    assert await case.causes(a_sample(VECTOR), missed=THERE) == [[Cause.QUANTISATION]]
    assert case.shards[0].asked == []
    (request,) = case.shards[1].asked
    assert (request.ids.tolist(), request.rows.tolist()) == ([THERE], [0])
    assert (request.coarse_dim, request.count, request.bounded) == (16, 20, True)
    # What it took there is charged here.
    assert case.budget.spent_s >= 0.5


async def test_candidates_with_codes_that_are_not_theirs_have_pushed_it_out() -> None:
    others = [internal_id(3, number) for number in range(100)]
    sample = a_sample(VECTOR, candidates=others)
    assert await Case().causes(sample) == [[Cause.QUANTISATION]]
    few = Case((Told(), Told(broken=others[:10])))
    assert await few.causes(sample) == [[Cause.QUANTISATION]]
    many = Case((Told(), Told(broken=others[:50])))
    assert await many.causes(sample) == [[Cause.DAMAGE]]
    assert len(many.shards[1].asked[0].ids) == 8


async def test_a_miss_among_candidates_or_under_a_certificate_is_the_bounds() -> None:
    inside = a_sample(VECTOR, candidates=[HERE])
    certified = replace(a_sample(VECTOR), certified=True)
    assert await Case().causes(inside, certified) == [[Cause.BOUND], [Cause.BOUND]]
    broken = Case((Told(broken=[HERE]), Told()))
    assert await broken.causes(inside, certified) == [[Cause.DAMAGE], [Cause.DAMAGE]]


async def test_what_needs_no_shard_asks_none() -> None:
    case = Case()
    silent = a_sample(VECTOR, missing=(0,), shards=2)
    cut = a_sample(VECTOR, candidates=[HERE], cut=True)
    assert await case.causes(silent, cut) == [[Cause.MISSING_SHARDS], [Cause.DEADLINE]]
    assert case.shards[0].asked == case.shards[1].asked == []


async def test_a_shard_is_asked_of_so_many_queries_at_once() -> None:
    case = Case()
    assert await case.causes(*[a_sample(VECTOR)] * 70) == [[Cause.QUANTISATION]] * 70
    assert [len(request.queries) for request in case.shards[0].asked] == [32, 32, 6]


async def test_a_shard_that_fails_explains_nothing() -> None:
    case = Case()

    async def fail() -> None:
        raise WorkerUnavailable("gone")

    case.shards[0].faults.always("inspect", fail)
    assert await case.causes(a_sample(VECTOR)) == [[Cause.UNEXPLAINED]]
