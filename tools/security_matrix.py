"""Write the tables of docs/security.md from those that servers read: rights, statuses, the store's.

Run it after a change of services/nestvec/security/methods.py, rpc/documented.py or
adapters/redis_acl.py; a test fails where it was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import grpc

from nestvec.adapters.redis_acl import StoreRole, set_user, user_of
from nestvec.rpc.documented import ERRORS, EVERY, OF_GRPC
from nestvec.rpc.status import code_of_kind
from nestvec.security.grants import Verb
from nestvec.security.methods import RULES, Rule, Scope

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
_VERBS = tuple(Verb)
_SCOPES = {
    Scope.NAMED: "the collection that it names",
    Scope.SOME: "any collection",
    Scope.ALL: "all collections (`*`)",
}


def rights() -> str:
    """A row for each RPC, a column for each verb."""
    head = ["RPC", *(f"`{verb}`" for verb in _VERBS), "needed on"]
    return _table(head, [_row(path, rule) for path, rule in RULES.items()])


def statuses() -> str:
    """What every RPC may end with, then what each may beside that."""
    everywhere = {code_of_kind(kind) for kind in EVERY} | set(OF_GRPC)
    rows = []
    for path, kinds in ERRORS.items():
        own: dict[str, list[str]] = {}
        for kind in kinds:
            code = code_of_kind(kind)
            own.setdefault(code.name, []).append(kind.__name__)
        told = [f"{code} ({', '.join(names)})" for code, names in own.items()]
        rows.append([_name(path), ", ".join(told)])
    always = ", ".join(sorted(one.name for one in everywhere))
    assert grpc.StatusCode.INTERNAL not in everywhere
    return f"Every RPC: OK, {always}.\n\n" + _table(["RPC", "and"], rows)


def store() -> str:
    """A command for each role."""
    lines = [set_user(role, "nestvec", user_of(role), ">PASSWORD") for role in StoreRole]
    return "\n\n".join(f"    {line}" for line in lines)


SECTIONS: Mapping[str, Callable[[], str]] = {
    "rights": rights,
    "statuses": statuses,
    "store": store,
}


def page(before: str) -> str:
    """The whole page, with what is true today between the marks of each section."""
    for name, made in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        start, stop = before.index(begin) + len(begin), before.index(end)
        before = f"{before[:start]}\n\n{made()}\n\n{before[stop:]}"
    return before


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(path: str, rule: Rule) -> list[str]:
    # Whoever is granted internal may make any call; a region must be the one that it says it is.
    may = {*rule.verbs, *(() if rule.speaks else (Verb.INTERNAL,))}
    where = _SCOPES[rule.scope]
    if rule.speaks:
        where += ", in its own region's name"
    if rule.shown is not None:
        where += "; others are left out"
    if rule.verbs == (Verb.INTERNAL,):
        where = ""
    return [_name(path), *("yes" if verb in may else "" for verb in _VERBS), where]


def _name(path: str) -> str:
    service, method = path.strip("/").split("/")
    return f"{service.rpartition('.')[2]}.{method}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
