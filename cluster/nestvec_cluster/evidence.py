"""Budgets and measurements as the command line takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

# The options stand in commands that start at once: what they are read into is imported when read.
if TYPE_CHECKING:
    from nestvec.core.measured import Evidence, LossBudget, Measurement

BudgetText = Annotated[
    str | None,
    typer.Option(
        metavar="NDCG[,RECALL]",
        help="The most that a reranked search may lose against exact full search: of nDCG@10, and "
        "of its ten best; as 0.002,0.01.",
    ),
]
Measured = Annotated[
    list[Path] | None,
    typer.Option(help="What `nestvec ablate --json` wrote; may be given several times."),
]
Override = Annotated[
    str,
    typer.Option(
        help="Why a tier or code may serve though it was not measured, or loses more: in your own "
        "words, which are kept and logged."
    ),
]


def read_budget(text: str | None) -> LossBudget | None:
    """None for none. Raises typer.BadParameter."""
    from nestvec.core.errors import InvalidRequest
    from nestvec.core.measured import LossBudget

    if text is None:
        return None
    ndcg, comma, recall = text.partition(",")
    try:
        return LossBudget(float(ndcg), float(recall) if comma else 1.0)
    except (ValueError, InvalidRequest):
        raise typer.BadParameter(
            f"{text!r}: expected one or two shares of 1, as 0.002,0.01", param_hint="--budget"
        ) from None


def read_evidence(
    budget: str | None, files: Sequence[Path] | None, override: str
) -> Evidence | None:
    """None where nothing was given. Raises ConfigError, naming the file."""
    from nestvec.core.measured import Evidence

    measured = tuple(one for file in files or () for one in _measurements(file))
    evidence = Evidence(read_budget(budget), measured, override)
    return None if evidence == Evidence() else evidence


def _measurements(file: Path) -> list[Measurement]:
    from nestvec.core.errors import ConfigError, InvalidRequest
    from nestvec.core.measured import Measurement

    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        return [Measurement.from_dict(one) for one in report["measured"]]
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{file}: is no report of an ablation; write one with nestvec ablate --json"
        ) from None
    except InvalidRequest as error:
        raise ConfigError(f"{file}: {error}") from None
