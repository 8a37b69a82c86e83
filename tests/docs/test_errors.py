"""docs/errors.md has an entry for each error and each degradation, with the status that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nestvec.core import errors
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import NestvecError, rebuilt
from nestvec.ingest.batch import Refusal
from nestvec.rpc.status import code_of

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
# Heading -> what stands under it.
_ENTRY = re.compile(r"^### (\S+)\n\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ENTRIES: dict[str, str] = dict(_ENTRY.findall(PAGE))


def kinds(root: type[NestvecError] = NestvecError) -> Iterator[type[NestvecError]]:
    for kind in root.__subclasses__():
        # Tests make some of their own.
        if kind.__module__ == errors.__name__:
            yield kind
            yield from kinds(kind)


def test_every_error_and_degradation_has_one_entry() -> None:
    named = re.findall(r"^### (\S+)$", PAGE, re.MULTILINE)
    wanted = [kind.__name__ for kind in kinds()] + [kind.name for kind in DegradationKind]
    assert sorted(named) == sorted(wanted)


@pytest.mark.parametrize("kind", sorted(kinds(), key=str))
def test_an_entry_has_the_status_that_callers_get(kind: type[NestvecError]) -> None:
    told = re.match(r"[A-Z_]+", ENTRIES[kind.__name__])
    assert told is not None
    assert told.group() == code_of(rebuilt(kind, "", {})).name


def test_every_entry_says_what_to_do() -> None:
    for name, text in ENTRIES.items():
        assert "**Caller**" in text, name
        assert "**Operator**" in text or "**operator**" in text, name


def test_statuses_without_an_error_of_ours_and_reasons_of_ingest_are_told() -> None:
    for status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        assert f"| {status.name} |" in PAGE
    for refusal in Refusal:
        assert f"| `{refusal.value}` |" in PAGE
