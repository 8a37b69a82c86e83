"""What a tier under a code was measured to lose, and whether it may serve.

A cut and a code each cost little, and together sometimes much: nothing follows from the two by
themselves. So a pair may serve under a budget only where that very pair was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode, is_quantised
from nestvec.core.errors import InvalidRequest

# Losses are means over queries; the last bits of a sum are no loss.
_ROUNDING = 1e-9
_MOST_MEASURED = 1000
_LONGEST_WORDS = 1000


@dataclass(frozen=True, slots=True)
class LossBudget:
    """The most that a reranked search may lose against exact search over full fp32 vectors, as
    shares of 1: of nDCG@10, and of the ten best that exact search finds.
    """

    ndcg: float
    recall: float

    def __post_init__(self) -> None:
        for name in ("ndcg", "recall"):
            # Written so that NaN fails it too.
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise InvalidRequest(f"budget.{name}", f"{value}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One tier under one pair of codes. judged: False where exact search was the truth. ndcg_lost,
    recall_lost: as LossBudget has them; below 0 where it was better. candidates: how many were
    reranked. source: what it was measured on.
    """

    fingerprint: str
    store_dim: int
    dim: int
    coarse_code: CoarseCode
    store_dtype: VectorDtype
    judged: bool
    source: str
    documents: int
    queries: int
    candidates: int
    ndcg_lost: float
    recall_lost: float

    def __post_init__(self) -> None:
        if self.coarse_code is CoarseCode.AUTO:
            raise InvalidRequest("measured.coarse_code", "auto; expected the code that was scanned")
        for name in ("store_dim", "dim", "documents", "queries", "candidates"):
            if (count := getattr(self, name)) < 1:
                raise InvalidRequest(f"measured.{name}", f"{count}, expected 1 or more")
        for name in ("ndcg_lost", "recall_lost"):
            if not (math.isfinite(loss := getattr(self, name)) and -1.0 <= loss <= 1.0):
                raise InvalidRequest(f"measured.{name}", f"{loss}, expected -1 to 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return asdict(self) | {
            "coarse_code": self.coarse_code.value,
            "store_dtype": self.store_dtype.value,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Raises InvalidRequest, naming what is missing or wrong."""
        try:
            return cls(
                fingerprint=str(data["fingerprint"]),
                store_dim=int(data["store_dim"]),
                dim=int(data["dim"]),
                coarse_code=CoarseCode(data["coarse_code"]),
                store_dtype=VectorDtype(data["store_dtype"]),
                judged=bool(data["judged"]),
                source=str(data["source"]),
                documents=int(data["documents"]),
                queries=int(data["queries"]),
                candidates=int(data["candidates"]),
                ndcg_lost=float(data["ndcg_lost"]),
                recall_lost=float(data["recall_lost"]),
            )
        except KeyError as error:
            raise InvalidRequest("measured", f"a measurement has no {error.args[0]}") from None
        except (TypeError, ValueError) as error:
            raise InvalidRequest("measured", f"no measurement of an ablation: {error}") from None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What lets a collection serve its tiers and codes. override: why one may serve though it was
    not measured, or loses more than the budget; in its operator's words, which are logged.
    """

    budget: LossBudget | None = None
    measured: tuple[Measurement, ...] = ()
    override: str = ""

    def __post_init__(self) -> None:
        # It is part of the collection's record, which everybody reads.
        if len(self.measured) > _MOST_MEASURED:
            raise InvalidRequest(
                "measured", f"{len(self.measured):,} of them, expected at most {_MOST_MEASURED:,}"
            )
        if len(self.override) > _LONGEST_WORDS:
            raise InvalidRequest(
                "override",
                f"{len(self.override):,} characters, expected at most {_LONGEST_WORDS:,}",
            )

    def with_more(self, other: Evidence) -> Evidence:
        """Its own budget; all that either measured; the newer words where there are any."""
        added = tuple(one for one in other.measured if one not in self.measured)
        return Evidence(self.budget, self.measured + added, other.override or self.override)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return {
            "budget": None if self.budget is None else asdict(self.budget),
            "measured": [one.to_dict() for one in self.measured],
            "override": self.override,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Raises InvalidRequest."""
        budget = data.get("budget")
        return cls(
            None if budget is None else LossBudget(budget["ndcg"], budget["recall"]),
            tuple(Measurement.from_dict(one) for one in data.get("measured", ())),
            data.get("override", ""),
        )


@dataclass(frozen=True, slots=True)
class Coded:
    """What one collection serves of one space: the part of it that losses depend on."""

    fingerprint: str
    store_dim: int
    coarse_code: CoarseCode
    store_dtype: VectorDtype

    def objections(self, dims: Iterable[int], evidence: Evidence) -> list[InvalidRequest]:
        """Why tiers may not serve, one each; none when all may."""
        found = [self._objection(dim, evidence) for dim in dims]
        return [one for one in found if one is not None]

    def _objection(self, dim: int, evidence: Evidence) -> InvalidRequest | None:
        code = self.coarse_code.applied(dim)
        if evidence.budget is None:
            # What is scanned exactly loses nothing by its code, and nestvec's own choice is
            # measured in its benchmarks.
            if self.coarse_code in (CoarseCode.AUTO, CoarseCode.FP32):
                return None
            return InvalidRequest(
                "coarse_code",
                f"{code} serves only within a budget, by measurement; give both, or say in "
                f"`override` why it may serve without",
            )
        matching = self._matching(dim, evidence.measured)
        if not matching:
            return self._unmeasured(dim, evidence.measured)
        if is_quantised(code, self.store_dtype) and dim < self.store_dim:
            # Agreement with exact search over its own texts does not tell what people miss.
            matching = [one for one in matching if one.judged]
            if not matching:
                return InvalidRequest(
                    "tiers",
                    f"{self._name(dim)} is a code on top of a cut, and was measured without "
                    f"judgments only; {_WAY_OUT}",
                )
        return next(
            (
                InvalidRequest("tiers", f"{self._name(dim)} {problem}; {_DEARER}")
                for one in matching
                if (problem := _excess(one, evidence.budget))
            ),
            None,
        )

    def _matching(self, dim: int, measured: Sequence[Measurement]) -> list[Measurement]:
        wanted = (
            self.fingerprint,
            self.store_dim,
            dim,
            self.coarse_code.applied(dim),
            self.store_dtype,
        )
        return [
            one
            for one in measured
            if (one.fingerprint, one.store_dim, one.dim, one.coarse_code, one.store_dtype) == wanted
        ]

    def _unmeasured(self, dim: int, measured: Sequence[Measurement]) -> InvalidRequest:
        spaces = {one.fingerprint for one in measured}
        mine = sorted(
            {
                f"{one.coarse_code} over {one.store_dtype}"
                for one in measured
                if (one.fingerprint, one.store_dim, one.dim)
                == (self.fingerprint, self.store_dim, dim)
            }
        )
        known = ", ".join(mine) or "nothing of this tier"
        if spaces and self.fingerprint not in spaces:
            known = f"another space, {min(spaces)}, where this is {self.fingerprint}"
        return InvalidRequest(
            "tiers", f"{self._name(dim)} was not measured; measured: {known}; {_WAY_OUT}"
        )

    def _name(self, dim: int) -> str:
        return f"tier {dim} as {self.coarse_code.applied(dim)} over {self.store_dtype}"


_WAY_OUT = "measure it with `nestvec ablate` on a golden set, or say in `override` why it may serve"
_DEARER = "take a longer tier or a finer code, or say in `override` why it may serve"


def _excess(one: Measurement, budget: LossBudget) -> str:
    """What one measurement loses beyond the budget; empty when it is within."""
    where = f"on {one.source} ({one.documents:,} documents, {one.queries:,} queries)"
    if one.ndcg_lost > budget.ndcg + _ROUNDING:
        return f"loses {one.ndcg_lost:.4f} of nDCG@10 {where}, and the budget is {budget.ndcg:g}"
    if one.recall_lost > budget.recall + _ROUNDING:
        return (
            f"loses {one.recall_lost:.4f} of exact search's ten best {where}, and the budget is "
            f"{budget.recall:g}"
        )
    return ""
