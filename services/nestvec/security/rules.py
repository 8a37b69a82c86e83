"""Grants and quotas as the settings, and a file beside them, say; read again when that changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nestvec.core.errors import ConfigError
from nestvec.security.files import Reloaded, ReloadedFiles, Standing
from nestvec.security.grants import Access, Grant, Who
from nestvec.security.quotas import Quota
from nestvec.security.settings import QuotaSection, RulesSection, SecuritySection, WhoSection


@dataclass(frozen=True, slots=True)
class Rules:
    """access: all grants. quotas: the first that includes a caller holds; None for everybody."""

    access: Access
    quotas: Sequence[tuple[Who | None, Quota]] = ()


def open_rules(section: SecuritySection, own: Sequence[Grant] = ()) -> Reloaded[Rules]:
    """own: grants that no settings name. Raises ConfigError for a file that cannot be used."""
    written = RulesSection(grants=section.grants, quotas=section.quotas)
    path = section.grants_file
    if path is None:
        return Standing(_rules(own, written))

    def read(contents: Sequence[bytes]) -> Rules:
        return _rules(own, written, _section(contents[0], path))

    return ReloadedFiles("the grants", (path,), read)


def _section(data: bytes, path: Path) -> RulesSection:
    try:
        found: Any = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(f"{path}{where}: no YAML; expected lists `grants` and `quotas`") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected lists `grants` and `quotas`")
    try:
        return RulesSection.model_validate({key: one for key, one in found.items() if one})
    except ValidationError as error:
        wrong = [
            f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        ]
        raise ConfigError("\n".join(wrong)) from None


def _rules(own: Sequence[Grant], *sections: RulesSection) -> Rules:
    grants = [
        Grant(_who(one), frozenset(one.verbs), one.collections)
        for section in sections
        for one in section.grants
    ]
    quotas = [
        (None if one.nobody else _who(one), _quota(one))
        for section in sections
        for one in section.quotas
    ]
    return Rules(Access([*grants, *own]), quotas)


def _who(section: WhoSection) -> Who:
    claims: Mapping[str, Sequence[str]] = section.claims
    return Who(section.certificates, section.subjects, claims)


def _quota(section: QuotaSection) -> Quota:
    burst = section.burst or max(1, round(section.calls_per_s or 1.0))
    return Quota(section.calls_per_s, burst, section.concurrent)
