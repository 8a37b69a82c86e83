"""One search that may leave this region: asking others beside it, within the deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from nestvec.core.arrays import Floats
from nestvec.core.budget import Budget
from nestvec.core.collection import Collection
from nestvec.core.errors import (
    BudgetSpent,
    NestvecError,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
    told,
)
from nestvec.query.answer import Answer
from nestvec.query.gathered import Gathered, Reply
from nestvec.query.other_regions import OtherRegions
from nestvec.query.own_search import Begin
from nestvec.query.plan import Plan, SearchOptions
from nestvec.query.region_calls import RegionCalls
from nestvec.query.region_choice import Choice, Heard, Progress, ReplicatedChoice, behind

# Of the deadline: for merging and the response (a share of it too, since where a region is silent
# every answer takes all the time there is), and before that for this region's own part to end as it
# should, with what it has, instead of being cut off.
_KEEP_FOR_MERGE_S = 0.005
_KEEP_SHARE = 0.05
_KEEP_FOR_HERE_S = 0.005
# What this region may fail with while others answer in its place.
_LOSSES = (WorkerUnavailable, StoreUnavailable, BudgetSpent, Overloaded)

# (budget of this region's own part, whom to tell plan and vectors) -> its answers.
AnswerHere = Callable[[Budget, Begin | None], Coroutine[Any, Any, list[Answer]]]


class RegionalSearch:
    """One search that may leave this region. The vectors travel, and whoever has not answered when
    its time is over is missing.
    """

    def __init__(
        self, regions: OtherRegions, choice: Choice, replicated: bool, options: SearchOptions
    ) -> None:
        self._regions = regions
        self._choice = choice
        self._replicated = replicated
        self._options = options
        self._calls: RegionCalls | None = None
        self._dropped: list[asyncio.Task[Reply]] = []
        self._slow: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._until = asyncio.timeout(None)
        self._failed: NestvecError | None = None
        # This region is later than it mostly is: another one may answer in its place.
        self._is_slow = False
        self._settled = False
        self._settled_s = 0.0
        self._began_s = 0.0
        self._end_s = 0.0

    async def run(self, here: AnswerHere, budget: Budget) -> Gathered:
        """Ask this region by `here`, and others as the choice says. Raises what this region's part
        failed with where no other has answered either, and what is wrong with the request itself.
        """
        self._began_s = time.monotonic()
        keep_s = max(_KEEP_FOR_MERGE_S, _KEEP_SHARE * budget.left_s())
        self._end_s = self._began_s + budget.stage_s("regions", keep_s)
        own = Budget(self._end_s - min(_KEEP_FOR_HERE_S, budget.left_s() / 4), budget.clock)
        half_s = (self._end_s - self._began_s) / 2
        late = asyncio.get_running_loop().call_later(half_s, self._when_late)
        try:
            await self._ask_here(here, own)
            await self._wait_for_others()
        finally:
            late.cancel()
            if self._slow is not None:
                self._slow.cancel()
            tasks = [*self._dropped, *(self._calls.cancel() if self._calls is not None else ())]
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)
        return self._result()

    @property
    def waited_s(self) -> float:
        """Since this region was done with its part; 0 before."""
        return time.monotonic() - self._settled_s if self._settled else 0.0

    # --- asking ---------------------------------------------------------------------------------

    async def begin(self, collection: Collection, plan: Plan, vectors: Floats) -> None:
        """Plan and vectors are known. Called again where the collection turned out to be another
        one by now: what was asked before is dropped then.
        """
        if self._calls is not None:
            self._dropped += self._calls.cancel()
        gathered = Gathered(collection, plan, len(vectors), self._replicated)
        calls = self._calls = RegionCalls(
            self._regions, gathered, vectors, self._options, self._end_s, self._wake
        )
        self._began_s = time.monotonic()
        if self._replicated:
            self._begin_hedging(collection.name, plan)
        calls.ask(self._choice.at_once())
        await calls.leave()

    def _begin_hedging(self, collection: str, plan: Plan) -> None:
        hedging = self._regions.hedging
        if self._slow is None:
            hedging.called()
        else:
            self._slow.cancel()
        delay_s = hedging.delay_s((collection, plan.search_class.name))
        self._slow = asyncio.get_running_loop().call_later(delay_s, self._when_slow)

    def _when_late(self) -> None:
        """Half of the time is used up. Until then nothing need cut this region off."""
        if self._settled or self._until.expired():
            return
        self._is_slow = True
        self._until.reschedule(self._loop_time(self._end_s))
        calls = self._calls
        if calls is None:
            return
        if self._choice.enough(self._progress(calls)):
            self._wake()
        else:
            self._ask_by(calls, self._choice.late)

    def _when_slow(self) -> None:
        if self._settled or self._calls is None:
            return
        self._is_slow = True
        wanted = self._choice.hedge(self._progress(self._calls))
        if wanted and self._regions.hedging.may_hedge():
            self._calls.ask(wanted)
        self._wake()

    def _ask_by(self, calls: RegionCalls, rule: Callable[[Progress], Sequence[str]]) -> None:
        """Whom a rule names; where they cannot even be asked, whom it names then."""
        before = self._progress(calls)
        while True:
            calls.ask(rule(before))
            after = self._progress(calls)
            if after.waiting or len(after.asked) == len(before.asked):
                return
            before = after

    # --- waiting --------------------------------------------------------------------------------

    async def _ask_here(self, here: AnswerHere, own: Budget) -> None:
        """In the caller's own task: another one would cost every search that stays here."""
        answers = None
        try:
            async with asyncio.timeout(None) as self._until:
                answers = await here(own, self.begin)
        except TimeoutError:
            # Its time is over, or another region has said enough.
            if not self._until.expired():
                raise
        except _LOSSES as error:
            self._failed = error
        self._settled, self._settled_s = True, time.monotonic()
        if answers is not None and self._calls is not None:
            self._calls.gathered.here = answers
            self._learn_here(self._calls.gathered)

    def _wake(self) -> None:
        self._changed.set()
        if self._settled or self._calls is None:
            return
        self._calls.take()
        enough = self._is_slow and self._choice.enough(self._progress(self._calls))
        if enough and not self._until.expired():
            self._until.reschedule(asyncio.get_running_loop().time())

    async def _wait_for_others(self) -> None:
        """Return when nobody need be waited for any more, or when time is over."""
        calls = self._calls
        # Without any, this region failed before it was known what to ask.
        if calls is None or self._over(calls):
            return
        try:
            async with asyncio.timeout(None) as until:
                while not self._over(calls):
                    until.reschedule(self._loop_time(self._latest_s(calls.gathered)))
                    await self._changed.wait()
        except TimeoutError:
            # What came in the very last moment counts.
            calls.take()

    def _loop_time(self, at_s: float) -> float:
        return asyncio.get_running_loop().time() + at_s - time.monotonic()

    def _latest_s(self, gathered: Gathered) -> float:
        """Until when others are waited for: where payloads must be fetched from one that has
        answered, there must be time for that.
        """
        if self._options.ids_only:
            return self._end_s
        trips = [
            self._regions.others[name].round_trip_s
            for name, reply in gathered.replies.items()
            if not reply.prefixes
            and any(len(hits.documents) < len(hits.ids) for hits in reply.answer.hits)
        ]
        half_s = (self._began_s + self._end_s) / 2
        return max(half_s, self._end_s - max(trips, default=0.0))

    def _over(self, calls: RegionCalls) -> bool:
        self._changed.clear()
        calls.take()
        if self._choice.enough(self._progress(calls)):
            return True
        self._ask_by(calls, self._choice.more)
        return not calls.waiting

    def _learn_here(self, gathered: Gathered) -> None:
        name, here = gathered.collection.name, self._regions.map.here
        for answer in gathered.here or ():
            self._regions.learn(name, here, answer.coverage)
        self._learn_delay(gathered)

    def _learn_delay(self, gathered: Gathered) -> None:
        if self._options.watermark is not None:
            # It waits for what was written: that says nothing of how fast this region is.
            return
        kind = gathered.collection.name, gathered.plan.search_class.name
        self._regions.hedging.learn(kind, time.monotonic() - self._began_s)

    def _progress(self, calls: RegionCalls) -> Progress:
        gathered = calls.gathered
        heard = {
            name: Heard(reply.answer.coverage, staleness_s=reply.answer.staleness_s)
            for name, reply in gathered.replies.items()
        }
        here = None if gathered.here is None else _heard_here(gathered.here)
        return Progress(here, self._settled, heard, calls.asked, calls.waiting)

    # --- the end --------------------------------------------------------------------------------

    def _result(self) -> Gathered:
        calls, failed = self._calls, self._failed
        if calls is None or (calls.gathered.here is None and not calls.gathered.replies):
            raise failed if failed is not None else BudgetSpent("search")
        gathered, progress = calls.gathered, self._progress(calls)
        enough = self._choice.enough(progress)
        if gathered.here is None:
            late = "it did not answer in time" if failed is None else told(failed)
            gathered.overtaken = enough and failed is None
            if gathered.overtaken:
                # It would have taken longer: leaving it out would shorten the delay every time.
                self._learn_delay(gathered)
            gathered.here_said = "another region answered first" if gathered.overtaken else late
        calls.close(enough)
        if isinstance(self._choice, ReplicatedChoice):
            ages = self._regions.ages(gathered.collection.name) or {}
            gathered.behind = behind(tuple(self._regions.others), ages, self._choice.within_s)
            gathered.lacking = self._choice.lacking(progress)
            gathered.within_s = self._choice.within_s
        return gathered


def _heard_here(answers: Sequence[Answer]) -> Heard:
    return Heard(answers[0].coverage, all(map(_sufficient, answers)))


def _sufficient(answer: Answer) -> bool:
    plan, hits = answer.plan, answer.hits
    if len(hits) < plan.k:
        return False
    return hits[plan.k - 1].score >= plan.search_class.local_score
