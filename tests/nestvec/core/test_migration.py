"""The record of a migration: which generation serves, and where writes must be found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.migration import (
    Gate,
    GateKind,
    Migration,
    MigrationWish,
    Phase,
    ShadowTerms,
    generation_name,
    split_generation,
)
from nestvec.core.model_spec import ModelSpec, SpecCard
from nestvec.core.shadowing import FAILED, shadow_counts, shadow_gate, shadow_said

MIGRATION = Migration("docs", 3, MigrationWish(), target=5, serving=3)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_record_survives_its_way_through_json(phase: Phase) -> None:
    wish = MigrationWish(
        ModelSpec("m", "http://host/v1", "r2", SpecCard("m", (8, 16), True, "q: ", "d: ")),
        tiers=(8,),
        store_dim=16,
        golden=False,
        shadow=ShadowTerms(5, 0.5, 0.6, 1.5, 0.2),
        rate=7.5,
        hold=True,
        override="because",
    )
    gates = (Gate(GateKind.COMPLETE, True, "all"), Gate(GateKind.SHADOW, False, "no"))
    full = Migration("docs", 3, wish, 5, 3, phase, True, 9, gates, "waits", 1234)
    assert Migration.from_dict(full.to_dict()) == full
    bare = Migration("docs", 1, MigrationWish())
    assert Migration.from_dict(bare.to_dict()) == bare


def test_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format 99"):
        Migration.from_dict(MIGRATION.to_dict() | {"format": 99})


@pytest.mark.parametrize(
    ("phase", "serving", "other", "beyond"),
    [
        # generation that serves, the other one, and where writes to 3 and to 5 must be found too
        (Phase.CHECKING, 3, 5, (0, 0)),
        (Phase.FILLING, 3, 5, (0, 0)),
        (Phase.READY, 3, 5, (0, 0)),
        (Phase.SWITCHING, 3, 5, (5, 0)),
        (Phase.SWITCHED, 5, 3, (5, 0)),
        (Phase.ROLLED_BACK, 3, 5, (0, 3)),
        (Phase.FINISHING, 5, 3, (5, 0)),
        (Phase.FINISHED, 5, 0, (0, 0)),
        (Phase.ABORTED, 3, 0, (0, 0)),
    ],
)
def test_where_a_write_must_be_found(
    phase: Phase, serving: int, other: int, beyond: tuple[int, int]
) -> None:
    one = replace(MIGRATION, phase=phase, serving=serving)
    assert one.other == other
    assert (one.carries(3), one.carries(5)) == beyond
    assert one.carries(4) == 0
    assert one.retires(3) == (phase is Phase.FINISHING)
    assert not one.retires(5)


def test_only_gates_that_were_asked_for_can_be_closed() -> None:
    plain = replace(MIGRATION, wish=MigrationWish(golden=False, shadow=ShadowTerms(queries=0)))
    assert plain.closed_gates == [GateKind.COMPLETE]
    assert MIGRATION.closed_gates == [GateKind.COMPLETE, GateKind.GOLDEN, GateKind.SHADOW]
    failed = replace(
        MIGRATION,
        gates=(Gate(GateKind.GOLDEN, False, ""), Gate(GateKind.COMPLETE, True, "")),
    )
    assert failed.closed_gates == [GateKind.GOLDEN, GateKind.SHADOW]
    mended = replace(failed, gates=failed.with_gate(Gate(GateKind.GOLDEN, True, "better")))
    assert mended.closed_gates == [GateKind.SHADOW]
    assert len(mended.gates) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ShadowTerms(queries=-1),
        lambda: ShadowTerms(share=1.5),
        lambda: ShadowTerms(overlap=-0.1),
        lambda: ShadowTerms(latency_ratio=0.0),
        lambda: MigrationWish(rate=-1.0),
    ],
)
def test_terms_that_make_no_sense_are_refused(wrong: type) -> None:
    with pytest.raises(InvalidRequest):
        wrong()


def test_names_of_generations() -> None:
    assert split_generation(generation_name("a.b-c", 12)) == ("a.b-c", 12)
    for name in ("docs", "docs@", "docs@x", "@"):
        assert split_generation(name) == (name, 0)


# --- live queries ---------------------------------------------------------------------------------

TERMS = ShadowTerms(queries=2, overlap=0.5, latency_ratio=2.0, score_shift=0.1)
OLD = [("a", 0.9), ("b", 0.8)]


def tally_of(*counts: dict[str, int]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in counts) for one in counts for name in one}


def test_the_shadow_gate_is_open_when_answers_agree_enough() -> None:
    counts = shadow_counts(OLD, [("a", 0.95), ("c", 0.7)], 10.0, 15.0)
    assert shadow_gate(TERMS, counts) is None
    assert shadow_said(TERMS, counts) == "1 of 2 live queries compared"
    gate = shadow_gate(TERMS, tally_of(counts, counts))
    assert gate is not None
    assert gate.passed
    assert "overlap@10 0.500, score of the first hit +0.050, latency 1.50 times" in gate.said


@pytest.mark.parametrize(
    ("new", "new_ms", "problem"),
    [
        ([("x", 0.9)], 10.0, "overlap below 0.5"),
        ([("a", 0.7), ("b", 0.6)], 10.0, "score shift beyond 0.1"),
        (OLD, 30.0, "latency beyond 2 times"),
    ],
)
def test_the_shadow_gate_says_what_is_wrong(
    new: list[tuple[str, float]], new_ms: float, problem: str
) -> None:
    counts = shadow_counts(OLD, new, 10.0, new_ms)
    gate = shadow_gate(TERMS, tally_of(counts, counts))
    assert gate is not None
    assert not gate.passed
    assert gate.said.endswith(problem)


def test_queries_that_fail_in_the_new_generation_close_it() -> None:
    gate = shadow_gate(TERMS, tally_of(shadow_counts(OLD, OLD, 1.0, 1.0), FAILED))
    assert gate is not None
    assert (gate.passed, "1 of 2 queries failed" in gate.said) == (False, True)


def test_an_answer_without_hits_agrees_with_none_but_another_one() -> None:
    assert shadow_counts([], [], 1.0, 1.0)["overlap"] == 1_000_000
    assert shadow_counts([], OLD, 1.0, 1.0)["overlap"] == 0
