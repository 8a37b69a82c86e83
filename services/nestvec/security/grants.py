"""What an identity may do: verbs on collections. Pure; settings say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from nestvec.security.identity import Identity, Source


class Verb(StrEnum):
    """SEARCH: reading, too. INGEST: writing and deleting documents. ADMIN: collections themselves.
    INTERNAL: nestvec's own processes among each other; they may make any call, since they pass on
    what they have checked. REGION: what another region asks.
    """

    SEARCH = "search"
    INGEST = "ingest"
    ADMIN = "admin"
    INTERNAL = "internal"
    REGION = "region"


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a rule is about. All are patterns, as fnmatch reads them with case."""

    certificates: Sequence[str] = ()
    subjects: Sequence[str] = ()
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def includes(self, identity: Identity) -> bool:
        """Whether any of it fits."""
        if identity.source is Source.CERTIFICATE:
            return _any_fits(identity.names, self.certificates)
        return _any_fits(identity.names, self.subjects) or any(
            _any_fits(identity.claims.get(claim, ()), patterns)
            for claim, patterns in self.claims.items()
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """These callers may do this with these collections."""

    who: Who
    verbs: frozenset[Verb]
    collections: Sequence[str]


# Of names that callers bring: more are decided each time anew.
_MOST_REMEMBERED = 4096


class Rights:
    """What one identity may do. Decisions are remembered; the grants stand for a process's life."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.internal = any(Verb.INTERNAL in one.verbs for one in grants)
        self._patterns = {
            verb: [name for one in grants if verb in one.verbs for name in one.collections]
            for verb in Verb
        }
        self._decided: dict[tuple[Verb, str], bool] = {}

    def has(self, verb: Verb) -> bool:
        """On one collection at least."""
        return self.internal or bool(self._patterns[verb])

    def allows(self, verb: Verb, collection: str) -> bool:
        """On this collection. An empty name stands for what only the server knows: it takes a right
        on all.
        """
        if self.internal:
            return True
        decided = self._decided.get((verb, collection))
        if decided is None:
            decided = _any_fits((collection,), self._patterns[verb])
            if len(self._decided) < _MOST_REMEMBERED:
                self._decided[verb, collection] = decided
        return decided


class Access:
    """All grants."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._grants = tuple(grants)

    def rights_of(self, identity: Identity) -> Rights:
        """Of one identity; kept by whoever asked."""
        return Rights([one for one in self._grants if one.who.includes(identity)])


def _any_fits(names: Sequence[str] | frozenset[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
