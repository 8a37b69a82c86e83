"""Whether a model may be released: a budget, the card of what was measured, and rows of findings.

A card is what one run of the gate measured, as plain data. The next run is held against it, so the
figures of two cards must be of the same golden set and width. Latencies are kept as multiples of a
bare gRPC echo measured in the same run: milliseconds of two days, or of two machines, say little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nestvec.config import read_yaml
from nestvec.core.errors import ConfigError
from nestvec.core.space import Space
from nestvec.quality.conformance import Finding, Outcome

CARD_FORMAT = 1
# Figures are means over queries; the last bits of a sum are no loss.
_ROUNDING = 1e-9


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TierBudget(_Section):
    """Of one tier, reranked at the gate's width. recall: the least share of exact full search's ten
    best. ndcg_lost: the most of nDCG@10 that it may lose against exact full search.
    """

    recall: float = Field(ge=0, le=1)
    ndcg_lost: float = Field(ge=0, le=1)


class PreviousBudget(_Section):
    """Against the previous card, any tier and class. Losses are absolute; a ratio of 1.1 allows a
    tenth more.
    """

    ndcg_lost: float = Field(0.005, ge=0, le=1)
    recall_lost: float = Field(0.005, ge=0, le=1)
    latency_ratio: float = Field(1.25, gt=0)
    bytes_ratio: float = Field(1.05, gt=0)


class ReleaseBudget(_Section):
    """A budget file. tiers: every tier that is served must stand here. classes: the least tier at
    which each search class may be searched: written down, or the gate fails. width: candidates of
    the reranked figures.
    """

    tiers: dict[int, TierBudget] = Field(min_length=1)
    classes: dict[str, int] = Field(min_length=1)
    width: int = Field(50, ge=10)
    against_previous: PreviousBudget = PreviousBudget()


def read_release_budget(path: Path) -> ReleaseBudget:
    """Raises ConfigError, one line for each thing that is wrong."""
    data = read_yaml(path)
    try:
        return ReleaseBudget.model_validate({} if data is None else data)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def read_card(path: Path) -> dict[str, Any]:
    """What an earlier gate wrote. Raises ConfigError."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        card = None
    if not isinstance(card, dict) or card.get("release_card") != CARD_FORMAT:
        raise ConfigError(
            f"{path}: is no release card of format {CARD_FORMAT}; write one with "
            f"`nestvec gate --card FILE`"
        )
    return card


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, and the card it was held against. evaluation: what `nestvec eval` reports. ratios:
    the p50 of each class over an echo's in the same run. probe: `mrl`, `tiers`, `summary`.
    """

    space: Space
    evaluation: Mapping[str, Any]
    ratios: Mapping[str, float]
    classes: Mapping[str, int]
    probe: Mapping[str, Any]
    version: str

    def card(self) -> dict[str, Any]:
        """Plain data, for the next gate."""
        tiers = {
            dim: {
                "ndcg_at_10": one["reranked"]["ndcg_at_10"],
                "recall_at_10_vs_exact": one["reranked"]["recall_at_10_vs_exact"],
                "bytes_per_vector": one["bytes_per_vector"],
            }
            for dim, one in self.evaluation["tiers"].items()
        }
        return {
            "release_card": CARD_FORMAT,
            "nestvec": self.version,
            "space": self.space.to_dict() | {"fingerprint": self.space.fingerprint},
            "golden": self.evaluation["golden"],
            "documents": self.evaluation["documents"],
            "queries": self.evaluation["queries"],
            "width": self.width,
            "tiers": tiers,
            "classes": {
                name: {"coarse_dim": dim, "echoes": self.ratios[name]}
                for name, dim in self.classes.items()
            },
            "store_bytes_per_vector": self.evaluation["store_bytes_per_vector"],
            "probe": dict(self.probe),
        }

    @property
    def width(self) -> int:
        """Candidates of the reranked figures."""
        return next(int(one["reranked"]["candidates"]) for one in self.evaluation["tiers"].values())


def judge_release(
    measured: Measured, budget: ReleaseBudget, previous: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """What the figures say, a row each. Raises ConfigError where the previous card cannot be
    compared with.
    """
    card = measured.card()
    if previous is not None:
        _require_comparable(card, previous)
    yield _probed(measured)
    yield _listed(measured, budget)
    for dim, one in measured.evaluation["tiers"].items():
        yield _recall(dim, one["reranked"], measured.evaluation["full"], budget)
    yield from _least_tiers(measured, budget)
    yield _remeasured(card, previous)
    if previous is None:
        yield Finding(
            "against previous", Outcome.SKIPPED, "no previous card; give --previous next time"
        )
        return
    yield from _quality_against(card, previous, budget.against_previous)
    yield from _latency_against(card, previous, budget.against_previous)
    yield from _bytes_against(card, previous, budget.against_previous)


def finding(check: str, passed: bool, detail: str) -> Finding:
    """One that is decided."""
    return Finding(check, Outcome.PASSED if passed else Outcome.FAILED, detail)


def _require_comparable(card: Mapping[str, Any], previous: Mapping[str, Any]) -> None:
    for key in ("golden", "documents", "queries", "width"):
        if card[key] != previous.get(key):
            raise ConfigError(
                f"the previous card was measured with {key} {previous.get(key)!r}, this run with "
                f"{card[key]!r}: the two cannot be compared; measure both on the same golden set"
            )


def _probed(measured: Measured) -> Finding:
    probe = measured.probe
    return finding("MRL confirmed", bool(probe["mrl"]), str(probe["summary"]))


def _listed(measured: Measured, budget: ReleaseBudget) -> Finding:
    """What is served is what the card claims, the probe confirms and the budget knows."""
    served = [int(dim) for dim in measured.evaluation["tiers"]]
    trained, confirmed = measured.space.trained_dims, measured.probe["tiers"]
    problems = [
        *(f"{dim} is served and not trained" for dim in served if dim not in trained),
        *(f"{dim} is served and the probe does not confirm it" for dim in served
          if dim not in confirmed),
        *(f"{dim} is served and the budget file does not have it" for dim in served
          if dim not in budget.tiers),
        *(f"{dim} is in the budget file and not served" for dim in budget.tiers
          if dim not in served),
    ]  # fmt: skip
    listed = ", ".join(map(str, served))
    return finding("tiers listed", not problems, "; ".join(problems) or f"{listed}: all confirmed")


def _recall(
    dim: str, one: Mapping[str, Any], full: Mapping[str, Any], budget: ReleaseBudget
) -> Finding:
    name, allowed = f"recall of tier {dim}", budget.tiers.get(int(dim))
    recall, lost = one["recall_at_10_vs_exact"], full["ndcg_at_10"] - one["ndcg_at_10"]
    said = f"recall@10 of exact {recall:.4f}, nDCG@10 lost {lost:+.4f} at {one['candidates']}"
    if allowed is None:
        return finding(name, False, f"{said}; the budget file has nothing for this tier")
    passed = recall >= allowed.recall - _ROUNDING and lost <= allowed.ndcg_lost + _ROUNDING
    wanted = f"budget {allowed.recall:g} and {allowed.ndcg_lost:g}"
    return finding(name, passed, f"{said}; {wanted}")


def _least_tiers(measured: Measured, budget: ReleaseBudget) -> Iterator[Finding]:
    for name, dim in measured.classes.items():
        least = budget.classes.get(name)
        if least is None:
            yield finding(
                f"least tier of {name}", False, f"searched at {dim}; the budget file names no least"
            )
        else:
            yield finding(
                f"least tier of {name}", dim >= least, f"searched at {dim}, least {least}"
            )
    for name in budget.classes.keys() - measured.classes.keys():
        yield finding(f"least tier of {name}", False, "the budget file names it, the server not")


def _remeasured(card: Mapping[str, Any], previous: Mapping[str, Any] | None) -> Finding:
    """These figures were taken in this run, in the space that would serve: that is the evidence."""
    name, mine = "measured for this version", card["space"]["fingerprint"]
    said = f"{card['space']['model']}, space {mine}, nestvec {card['nestvec']}, in this run"
    if previous is None:
        return finding(name, True, said)
    before = previous["space"]["fingerprint"]
    if before == mine:
        return finding(name, True, f"{said}; the same space as the previous card's")
    same_name = previous["space"]["model"] == card["space"]["model"]
    note = ", under the same name: give it a new version" if same_name else ""
    return finding(name, not same_name, f"{said}; a new space, before it {before}{note}")


def _quality_against(
    card: Mapping[str, Any], previous: Mapping[str, Any], allowed: PreviousBudget
) -> Iterator[Finding]:
    for dim, one in card["tiers"].items():
        name, before = f"tier {dim} against previous", previous["tiers"].get(dim)
        if before is None:
            yield Finding(name, Outcome.SKIPPED, "the previous card has no such tier")
            continue
        ndcg = before["ndcg_at_10"] - one["ndcg_at_10"]
        recall = before["recall_at_10_vs_exact"] - one["recall_at_10_vs_exact"]
        passed = ndcg <= allowed.ndcg_lost + _ROUNDING and recall <= allowed.recall_lost + _ROUNDING
        yield finding(
            name,
            passed,
            f"nDCG@10 {-ndcg:+.4f}, recall@10 of exact {-recall:+.4f}; may lose "
            f"{allowed.ndcg_lost:g} and {allowed.recall_lost:g}",
        )
    for dim in previous["tiers"].keys() - card["tiers"].keys():
        yield finding(f"tier {dim} against previous", False, "was served before, and is not now")


def _latency_against(
    card: Mapping[str, Any], previous: Mapping[str, Any], allowed: PreviousBudget
) -> Iterator[Finding]:
    for class_name, one in card["classes"].items():
        before = previous["classes"].get(class_name)
        name = f"latency of {class_name}"
        if before is None:
            yield Finding(name, Outcome.SKIPPED, "the previous card has no such class")
            continue
        ratio = one["echoes"] / before["echoes"]
        yield finding(
            name,
            ratio <= allowed.latency_ratio,
            f"p50 is {one['echoes']:.2f} echoes, before {before['echoes']:.2f}: ratio {ratio:.2f} "
            f"of at most {allowed.latency_ratio:g}",
        )


def _bytes_against(
    card: Mapping[str, Any], previous: Mapping[str, Any], allowed: PreviousBudget
) -> Iterator[Finding]:
    pairs = [("stored bytes", card["store_bytes_per_vector"], previous["store_bytes_per_vector"])]
    pairs += [
        (
            f"bytes of tier {dim}",
            one["bytes_per_vector"],
            previous["tiers"][dim]["bytes_per_vector"],
        )
        for dim, one in card["tiers"].items()
        if dim in previous["tiers"]
    ]
    for name, now, before in pairs:
        yield finding(
            name,
            now <= before * allowed.bytes_ratio,
            f"{now:,.0f} a vector, before {before:,.0f}; at most {allowed.bytes_ratio:g} of it",
        )
