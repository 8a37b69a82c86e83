"""Grants and quotas of a file beside the settings, before and after it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.core.errors import ConfigError
from nestvec.security.grants import Grant, Verb, Who
from nestvec.security.identity import Identity, Source
from nestvec.security.rules import open_rules
from nestvec.security.settings import SecuritySection

ALICE = Identity(Source.TOKEN, ("alice",))
BOB = Identity(Source.TOKEN, ("bob",))


def a_grant(subject: str, verb: str = "search") -> dict[str, Any]:
    return {"subjects": [subject], "verbs": [verb], "collections": ["docs"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "grants.yaml"


def section(file: Path | None, **more: Any) -> SecuritySection:
    return SecuritySection.model_validate(
        {"tokens": {"key_files": ["k"], "audience": "a"}, "grants_file": file, **more}
    )


def write(file: Path, **content: Any) -> None:
    file.write_text(yaml.safe_dump(content))


def test_a_file_adds_to_what_the_settings_grant_and_may_change(file: Path) -> None:
    write(file, grants=[a_grant("bob")])
    own = Grant(Who(subjects=("region",)), frozenset({Verb.REGION}), ["docs"])
    rules = open_rules(section(file, grants=[a_grant("alice")]), [own])
    region = Identity(Source.TOKEN, ("region",))

    def allowed() -> list[bool]:
        access = rules.value.access
        return [
            access.rights_of(ALICE).allows(Verb.SEARCH, "docs"),
            access.rights_of(BOB).allows(Verb.SEARCH, "docs"),
            access.rights_of(region).allows(Verb.REGION, "docs"),
        ]

    assert allowed() == [True, True, True]
    write(file, quotas=[{"subjects": ["bob"], "concurrent": 1}])
    rules.refresh()  # type: ignore[attr-defined]  # of a file
    assert allowed() == [True, False, True]
    ((who, quota),) = rules.value.quotas
    assert who is not None
    assert who.includes(BOB)
    assert quota.concurrent == 1
    assert rules.version == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grants: [", r"line \d+: no YAML"),
        ("grants: 2024-13-45\n", "no YAML"),
        ("- a\n", "expected lists `grants` and `quotas`"),
        ("tls: {a: b}\n", "tls: Extra inputs"),
        ("grants: [{subjects: [a], verbs: [fly], collections: ['*']}]\n", r"grants.0.verbs"),
        ("grants: [{verbs: [search], collections: ['*']}]\n", "the grant is for nobody"),
        ("quotas: [{subjects: [a]}]\n", "the quota bounds nothing"),
    ],
)
def test_a_broken_file_is_named_at_the_start_and_not_used_later(
    file: Path, text: str, told: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as refused:
        open_rules(section(file))
    assert str(file) in str(refused.value)
    write(file, grants=[a_grant("alice")])
    rules = open_rules(section(file))
    file.write_text(text)
    rules.refresh()  # type: ignore[attr-defined]
    assert rules.value.access.rights_of(ALICE).allows(Verb.SEARCH, "docs")
    assert rules.version == 1


def test_grants_in_a_file_alone_are_enough_for_the_settings(file: Path) -> None:
    with pytest.raises(ValueError, match="no one is granted anything"):
        section(None)
    write(file)
    assert not open_rules(section(file)).value.access.rights_of(ALICE).has(Verb.SEARCH)
    with pytest.raises(ValueError, match="need to know who calls"):
        SecuritySection.model_validate({"grants_file": file})
