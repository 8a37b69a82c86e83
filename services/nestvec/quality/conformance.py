"""What an endpoint must do to be a Matryoshka encoder, as checks that anyone can run against one.

Each check asks the endpoint a few texts and compares answers with each other, with what is known of
the model (its card), and with a trusted copy of it where there is one. A check that cannot be
decided with what is at hand is skipped and says what it lacks: it is never failed on suspicion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from nestvec.quality import conformance_checks as checks
from nestvec.quality.conformance_checks import CheckFailed, CheckSkipped
from nestvec.quality.endpoint import EndpointFailed, Subject

Check = Callable[[Subject], str]


class Outcome(StrEnum):
    """Of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """check: its name. detail: what was found, or what was lacking."""

    check: str
    outcome: Outcome
    detail: str


CHECKS: dict[str, Check] = {
    "answers": checks.check_answers,
    "count": checks.check_counts,
    "finite": checks.check_finite,
    "dimension": checks.check_one_dimension,
    "unit_length": checks.check_unit_length,
    "deterministic": checks.check_deterministic,
    "batch": checks.check_independent_of_batch,
    "distinct": checks.check_distinct,
    "announced": checks.check_announced,
    "recipe": checks.check_recipe,
    "tiers": checks.check_shortened,
    "untrained_tiers": checks.check_untrained,
    "prompts": checks.check_prompts,
    "reference": checks.check_reference,
}


def examine(subject: Subject) -> Iterator[Finding]:
    """Run every check, one after another. When the endpoint does not answer at all, the rest is
    skipped.
    """
    for number, (name, check) in enumerate(CHECKS.items()):
        finding = _run(name, check, subject)
        yield finding
        if number == 0 and finding.outcome is Outcome.FAILED:
            for rest in list(CHECKS)[1:]:
                yield Finding(rest, Outcome.SKIPPED, "the endpoint does not answer")
            return


def _run(name: str, check: Check, subject: Subject) -> Finding:
    try:
        return Finding(name, Outcome.PASSED, check(subject))
    except CheckSkipped as lacking:
        return Finding(name, Outcome.SKIPPED, str(lacking))
    except (CheckFailed, EndpointFailed) as fault:
        return Finding(name, Outcome.FAILED, str(fault))
