import math
from dataclasses import replace

import pytest

from nestvec.quality.attribution import Cause, Facts, Miss, cause_of, without_asking
from nestvec.telemetry.metrics import LIVE_RECALL_CAUSES

# Exact prefix search would have made it a candidate, and the index put it behind others.
MISS = Miss(shard_missing=False, candidate=False, cut=False, prefix_score=0.5, floor=0.4)
FACTS = Facts(
    indexed=True, sound=True, offered=False, code_score=0.5, scan_score=0.38, cutoff=0.41,
    error=-0.05, spread=0.02,
)  # fmt: skip


@pytest.mark.parametrize(
    ("miss", "cause"),
    [
        (replace(MISS, shard_missing=True, prefix_score=0.1), Cause.MISSING_SHARDS),
        (replace(MISS, candidate=True, cut=True), Cause.DEADLINE),
        (replace(MISS, prefix_score=0.399), Cause.TRUNCATION),
        (replace(MISS, prefix_score=0.4), None),
        # The answer was cut short, but not because of this one.
        (replace(MISS, cut=True), None),
        (replace(MISS, candidate=True), None),
    ],
)
def test_what_no_shard_need_be_asked(miss: Miss, cause: Cause | None) -> None:
    assert without_asking(miss) is cause
    assert cause_of(miss, None) is (cause or Cause.UNEXPLAINED)


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (FACTS, Cause.QUANTISATION),
        (replace(FACTS, offered=True), Cause.QUANTISATION),
        (replace(FACTS, indexed=False), Cause.DAMAGE),
        (replace(FACTS, sound=False), Cause.DAMAGE),
        (replace(FACTS, foreign_ahead=True), Cause.DAMAGE),
        # Off by twelve standard deviations more than the others.
        (replace(FACTS, scan_score=0.2), Cause.DAMAGE),
        # All of them are off.
        (replace(FACTS, error=0.4, scan_score=0.9, cutoff=0.95), Cause.DAMAGE),
        (replace(FACTS, scan_score=math.nan), Cause.ANN),
        (replace(FACTS, scan_score=0.45), Cause.ANN),
        (replace(FACTS, cutoff=-math.inf), Cause.ANN),
        # An exact scan has no spread, and rounds all the same.
        (
            replace(FACTS, error=0.0, spread=0.0, scan_score=0.5 - 1e-6, cutoff=0.5),
            Cause.QUANTISATION,
        ),
    ],
)
def test_what_the_shard_tells(facts: Facts, cause: Cause) -> None:
    assert cause_of(MISS, facts) is cause


def test_a_candidate_with_sound_codes_was_kept_back_by_its_bound() -> None:
    candidate = replace(MISS, candidate=True)
    assert cause_of(candidate, FACTS) is Cause.BOUND
    assert cause_of(candidate, replace(FACTS, sound=False)) is Cause.DAMAGE


def test_metrics_know_every_cause() -> None:
    assert set(LIVE_RECALL_CAUSES) == {cause.value for cause in Cause}
