"""The last stage, where a class has it: a cross-encoder orders the first hits anew.

It comes after everything that an answer must have, with what is then left of the deadline, so it
costs no coverage and no search: where it cannot do its work the hits stay as they were, and the
answer says so. Scores stay cosines, and the certificate speaks of them: of which documents were the
first by cosine, all of which the cross-encoder has seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.balance import CircuitBreaker
from nestvec.core.budget import Budget
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    Overloaded,
    WouldNotFit,
    told,
)
from nestvec.core.ports import PairScorer
from nestvec.query.answer import Answer, Hit
from nestvec.query.plan import SearchOptions
from nestvec.telemetry.logs import logger
from nestvec.telemetry.tracing import part

_STAGE = "cross_encode"
# Of the deadline, for the way of the response.
_KEEP_FOR_RESPONSE_S = 0.005
# Failures in a row after which it is left alone, and asked by one query in so long: one that hangs
# would cost every query the rest of its deadline.
_FAILURES, _PAUSE_S, _LONGEST_PAUSE_S = 3, 0.5, 8.0
# Whoever had less time than this has learnt nothing of one that is silent.
_SLOWLY_S = 0.05
_log = logger()


class CrossEncoding:
    """With `scorer`; None where this server has none."""

    def __init__(
        self, scorer: PairScorer | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scorer = scorer
        self._clock = clock
        self._breaker = CircuitBreaker(_FAILURES, _PAUSE_S, _LONGEST_PAUSE_S)

    @property
    def name(self) -> str:
        """Of the cross-encoder; empty where there is none."""
        return "" if self._scorer is None else self._scorer.name

    def require(self, options: SearchOptions) -> None:
        """Raise InvalidRequest where a caller asks for what no setting of this server gives."""
        if options.cross_encode and self._scorer is None:
            raise InvalidRequest(
                "options.cross_encode",
                "this server has no cross-encoder; leave it out, or set cross_encoder.model in the "
                "server's settings",
            )

    async def order(
        self, answers: Sequence[Answer], texts: Sequence[str] | None, budget: Budget
    ) -> None:
        """Cut each answer to its k hits, after the cross-encoder ordered them where its plan has
        that. texts: of the queries; None where they came as vectors. The queries share batches.
        """
        wanted = [number for number, one in enumerate(answers) if one.plan.cross_encode]
        await asyncio.gather(
            *(
                self._order(answers[number], None if texts is None else texts[number], budget)
                for number in wanted
            )
        )
        for answer in answers:
            del answer.hits[answer.plan.k :]

    async def _order(self, answer: Answer, text: str | None, budget: Budget) -> None:
        if not answer.hits:
            return
        # A query of a batch waited for the others until now.
        answer.timings.resume()
        count = min(answer.plan.cross_encode, len(answer.hits))
        first, rest = answer.hits[:count], answer.hits[count:]
        try:
            with part(_STAGE, {"nestvec.pairs": count}):
                scores = await self._score(first, text, budget)
        except _Skipped as skipped:
            answer.degrade(
                DegradationKind.CROSS_ENCODER_SKIPPED,
                f"hits are in the order of their cosines: {skipped}",
            )
        else:
            answer.hits = [*_ordered(first, scores), *rest]
            answer.cross_encoder = self.name
        answer.timings.mark(_STAGE)

    async def _score(self, hits: Sequence[Hit], text: str | None, budget: Budget) -> Floats:
        """(n,) finite float32, one a hit. Raises _Skipped."""
        scorer = self._scorer
        if scorer is None:
            raise _Skipped("this server has no cross-encoder; set cross_encoder.model")
        if text is None:
            raise _Skipped("the query is a vector, and a cross-encoder reads its text; send that")
        lost = sum(not hit.document.text for hit in hits)
        if lost:
            raise _Skipped(f"the texts of {lost} of the first {len(hits)} hits are out of reach")
        try:
            left_s = budget.stage_s(_STAGE, _KEEP_FOR_RESPONSE_S)
        except BudgetSpent as error:
            raise _Skipped(str(error)) from None
        trial = not self._breaker.closed
        if trial and not self._breaker.begin_probe(self._clock()):
            raise _Skipped(f"cross-encoder {scorer.name} failed the last times, and rests a moment")
        try:
            scores = await self._asked(scorer, text, [hit.document.text for hit in hits], left_s)
            self._breaker.succeeded()
        finally:
            if trial:
                # Where there was no verdict.
                self._breaker.abandon_probe(self._clock())
        return scores

    async def _asked(
        self, scorer: PairScorer, text: str, documents: list[str], left_s: float
    ) -> Floats:
        try:
            # The port's promise is not relied on: what is optional must not cost the answer.
            async with asyncio.timeout(left_s):
                scores = np.asarray(await scorer.score(text, documents, left_s), np.float32)
        except (WouldNotFit, Overloaded, InvalidRequest) as error:
            raise _Skipped(str(error)) from None
        except (BudgetSpent, TimeoutError):
            if left_s < _SLOWLY_S:
                raise _Skipped(str(BudgetSpent(_STAGE))) from None
            raise self._failed("it was begun, and the deadline passed") from None
        except Exception as error:
            # Whatever a scorer's library raises.
            raise self._failed(told(error)) from error
        if scores.shape != (len(documents),):
            raise self._failed(f"scores of shape {scores.shape} for {len(documents)} texts")
        if not np.isfinite(scores).all():
            raise self._failed("NaN or infinite scores")
        return scores

    def _failed(self, reason: str) -> _Skipped:
        """Logged, since somebody has to look after it."""
        self._breaker.failed(self._clock())
        _log.error("cross_encoder.failed", model=self.name, error=reason)
        return _Skipped(f"cross-encoder {self.name} failed: {reason}")


class _Skipped(Exception):
    """Why the hits were not ordered anew."""


def _ordered(hits: Sequence[Hit], scores: Floats) -> list[Hit]:
    """Best first; equal ones in the order that they stand in."""
    order = np.argsort(-scores, kind="stable")
    return [hits[row]._replace(cross_score=float(scores[row])) for row in order]
