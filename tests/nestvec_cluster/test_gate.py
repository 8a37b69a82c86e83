"""`nestvec gate`, end to end: a server process, its checks, a card, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nestvec.core.document import Document
from nestvec_cluster import gate as gate_module
from tests.support.cli import run_cli
from tests.support.golden_sets import a_golden, write_golden

BUDGET = """
tiers:
  128: {recall: 0.9, ndcg_lost: 0.05}
  256: {recall: 0.99, ndcg_lost: 0.01}
classes: {autocomplete: 128, search: 256, analyst: %s}
against_previous: {latency_ratio: 100}
"""
SERVED = (
    "renormalised after every cut",
    "tiers aligned",
    "full vectors kept",
    "tier logged on every request",
)


def test_a_release_is_decided_and_held_against_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdlib: list[Document]
) -> None:
    golden = a_golden_of_prose(tmp_path / "small", stdlib)
    budget, card = tmp_path / "budget.yaml", tmp_path / "card.json"
    budget.write_text(BUDGET % 256, encoding="utf-8")
    measured = kept(monkeypatch)
    ran, findings = gated(tmp_path, golden, budget, "--release-card", card)
    assert ran.code == 0, ran.out + ran.err
    assert {one["outcome"] for one in findings.values()} == {"passed", "skipped"}
    for name in SERVED:
        assert findings[name]["outcome"] == "passed", findings[name]
    assert findings["MRL confirmed"]["outcome"] == "passed"
    assert "0 of" not in findings["tier logged on every request"]["detail"]
    assert str(tmp_path) not in card.read_text(encoding="utf-8")

    # The same figures, by another budget: measuring them again takes as long as the first time.
    monkeypatch.setattr(gate_module, "_measure", lambda *_: measured[0])
    budget.write_text(BUDGET % 512, encoding="utf-8")
    never = tmp_path / "never.json"
    ran, findings = gated(tmp_path, golden, budget, "--previous", card, "--release-card", never)
    assert ran.code == 1
    failed = [name for name, one in findings.items() if one["outcome"] == "failed"]
    assert failed == ["least tier of analyst"]
    assert findings["stored bytes"]["outcome"] == "passed"
    assert "FAILED  least tier of analyst: searched at 256, least 512" in ran.out
    assert not never.exists()


def a_golden_of_prose(folder: Path, passages: Sequence[Document]) -> Path:
    """Of many words, unlike made-up sentences: else the probe would take any 128 dimensions for as
    good as the first. Some are asked for by a dozen of their words.
    """
    every = [one.text for one in passages if len(one.text.split()) >= 18][::25]
    documents = {f"d{row}": text for row, text in enumerate(every)}
    rows = range(0, len(every), len(every) // 40)
    queries = {f"q{row}": " ".join(every[row].split()[6:18]) for row in rows}
    return write_golden(folder, documents, queries, {f"q{row}": {f"d{row}": 1} for row in rows})


def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `gate` measures from now on."""
    measured: list[Any] = []
    measure = gate_module._measure

    def measuring(*arguments: Any) -> Any:
        measured.append(measure(*arguments))
        return measured[-1]

    monkeypatch.setattr(gate_module, "_measure", measuring)
    return measured


def test_what_cannot_be_measured_is_said_before_anything_is_started(tmp_path: Path) -> None:
    golden = a_golden(tmp_path / "small")
    ran = run_cli("gate", "--golden", golden, "--budget", tmp_path / "none.yaml")
    assert (ran.code, "none.yaml: cannot be read" in ran.err) == (1, True)


def gated(tmp_path: Path, golden: Path, budget: Path, *more: object) -> tuple[Any, dict[str, Any]]:
    path = tmp_path / "findings.json"
    ran = run_cli(
        "gate", "--golden", golden, "--budget", budget, "--rounds", 1, "--json", path, *more
    )
    report = json.loads(path.read_text(encoding="utf-8"))
    return ran, {one["check"]: one for one in report["findings"]}
