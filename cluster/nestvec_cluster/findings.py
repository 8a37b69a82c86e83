"""How checks are shown: a row each, and how many of each outcome."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from nestvec.quality.conformance import Finding, Outcome

_MARKS = {
    Outcome.PASSED: ("ok", "green"),
    Outcome.FAILED: ("FAILED", "red"),
    Outcome.SKIPPED: ("-", "dim"),
}


def print_finding(console: Console, finding: Finding) -> None:
    """One row."""
    mark, style = _MARKS[finding.outcome]
    row = Text.assemble((f"{mark:<8}", style), f"{finding.check}: {finding.detail}")
    console.print(row, soft_wrap=True)


def print_counts(console: Console, findings: Sequence[Finding]) -> None:
    """The last line."""
    counts = [sum(one.outcome is outcome for one in findings) for outcome in Outcome]
    console.print(f"{counts[0]} passed, {counts[1]} failed, {counts[2]} skipped")
