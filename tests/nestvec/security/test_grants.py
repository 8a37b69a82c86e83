"""Who may do what: patterns, verbs, and the two kinds of credentials."""

from __future__ import annotations

import pytest

from nestvec.security.grants import Access, Grant, Verb, Who
from nestvec.security.identity import Identity, Source

ALICE = Identity(Source.TOKEN, ("alice",), {"groups": frozenset({"readers", "staff"})})
WEB = Identity(Source.CERTIFICATE, ("spiffe://example/web", "web.example"))


def access(who: Who, *verbs: Verb, collections: tuple[str, ...] = ("docs-*",)) -> Access:
    return Access([Grant(who, frozenset(verbs), collections)])


@pytest.mark.parametrize(
    ("who", "identity", "included"),
    [
        (Who(subjects=("alice",)), ALICE, True),
        (Who(subjects=("al*",)), ALICE, True),
        (Who(subjects=("ALICE",)), ALICE, False),
        (Who(claims={"groups": ("staff",)}), ALICE, True),
        (Who(claims={"groups": ("admins",)}), ALICE, False),
        (Who(claims={"roles": ("*",)}), ALICE, False),
        # A token never has what was given to a certificate of that name, and the other way round.
        (Who(certificates=("alice",)), ALICE, False),
        (Who(subjects=("web.example",)), WEB, False),
        (Who(certificates=("web.example",)), WEB, True),
        (Who(certificates=("spiffe://example/*",)), WEB, True),
        (Who(), ALICE, False),
    ],
)
def test_whom_a_rule_is_about(who: Who, identity: Identity, included: bool) -> None:
    assert who.includes(identity) is included


def test_what_no_grant_allows_is_refused() -> None:
    rights = access(Who(subjects=("alice",)), Verb.SEARCH).rights_of(ALICE)
    assert rights.allows(Verb.SEARCH, "docs-1")
    assert not rights.allows(Verb.SEARCH, "other")
    assert not rights.allows(Verb.INGEST, "docs-1")
    assert rights.has(Verb.SEARCH)
    assert not rights.has(Verb.ADMIN)
    assert not Access([]).rights_of(ALICE).allows(Verb.SEARCH, "docs-1")


def test_an_empty_name_takes_a_right_on_all() -> None:
    some = access(Who(subjects=("alice",)), Verb.ADMIN).rights_of(ALICE)
    every = access(Who(subjects=("alice",)), Verb.ADMIN, collections=("*",)).rights_of(ALICE)
    assert not some.allows(Verb.ADMIN, "")
    assert every.allows(Verb.ADMIN, "")


def test_grants_add_up_without_mixing_their_collections() -> None:
    both = Access(
        [
            Grant(Who(subjects=("alice",)), frozenset({Verb.SEARCH}), ("*",)),
            Grant(Who(subjects=("alice",)), frozenset({Verb.INGEST}), ("mine",)),
        ]
    ).rights_of(ALICE)
    assert both.allows(Verb.INGEST, "mine")
    assert not both.allows(Verb.INGEST, "theirs")
    assert both.allows(Verb.SEARCH, "theirs")


def test_nestvecs_own_processes_may_make_any_call() -> None:
    rights = access(Who(certificates=("*",)), Verb.INTERNAL, collections=("*",)).rights_of(WEB)
    assert rights.internal
    assert all(rights.allows(verb, "x") and rights.has(verb) for verb in Verb)


def test_names_without_number_do_not_fill_the_memory() -> None:
    rights = access(Who(subjects=("alice",)), Verb.SEARCH).rights_of(ALICE)
    for number in range(10_000):
        assert rights.allows(Verb.SEARCH, f"docs-{number}")
    assert len(rights._decided) <= 4096
