"""Write the table of rights in docs/security.md from the one that servers read.

Run it after a change of services/nestvec/security/methods.py; a test fails where it was forgotten.
"""

from __future__ import annotations

from pathlib import Path

from nestvec.security.grants import Verb
from nestvec.security.methods import RULES, Rule, Scope

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
BEGIN, END = "<!-- rights: begin -->", "<!-- rights: end -->"
_VERBS = tuple(Verb)
_SCOPES = {
    Scope.NAMED: "the collection that it names",
    Scope.SOME: "any collection",
    Scope.ALL: "all collections (`*`)",
}


def table() -> str:
    """In Markdown: a row for each RPC, a column for each verb."""
    head = ["RPC", *(f"`{verb}`" for verb in _VERBS), "needed on"]
    rows = [_row(path, rule) for path, rule in RULES.items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(before: str) -> str:
    """The whole page, with the table of today between its marks."""
    start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
    return f"{before[:start]}\n\n{table()}\n\n{before[end:]}"


def _row(path: str, rule: Rule) -> list[str]:
    service, method = path.strip("/").split("/")
    # Whoever is granted internal may make any call; a region must be the one that it says it is.
    may = {*rule.verbs, *(() if rule.speaks else (Verb.INTERNAL,))}
    where = _SCOPES[rule.scope]
    if rule.speaks:
        where += ", in its own region's name"
    if rule.shown is not None:
        where += "; others are left out"
    if rule.verbs == (Verb.INTERNAL,):
        where = ""
    name = f"{service.rpartition('.')[2]}.{method}"
    return [name, *("yes" if verb in may else "" for verb in _VERBS), where]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
