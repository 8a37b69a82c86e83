"""What pydantic finds wrong with a cluster.yaml, in words: the key, what was expected, the cure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel


def explain(
    error: Mapping[str, Any], root: type[BaseModel], named: Mapping[str, type[BaseModel]]
) -> str:
    """One line. named: the sections of `root` under which any name may stand, and what follows."""
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location) or "the file"
    if error["type"] == "missing":
        return f"{dotted}: is missing"
    if error["type"] in ("model_type", "dict_type"):
        return f"{dotted}: expected a section with keys of its own, got {error['input']!r}"
    if error["type"] == "value_error":
        return f"{dotted}: {str(error['msg']).removeprefix('Value error, ')}"
    if error["type"] != "extra_forbidden":
        return f"{dotted}: {error['msg']}, got {error['input']!r}"
    known = _keys_at(location[:-1], root, named)
    near = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"{dotted}: unknown key; {hint}"


def _keys_at(
    location: Sequence[str], root: type[BaseModel], named: Mapping[str, type[BaseModel]]
) -> list[str]:
    """The keys of the section at `location`."""
    section = root
    rest = list(location)
    while rest:
        name = rest.pop(0)
        if section is root and name in named:
            section = named[name]
            rest = rest[1:]
            continue
        field = section.model_fields.get(name)
        for candidate in (
            (field.annotation, *getattr(field.annotation, "__args__", ())) if field else ()
        ):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
    return sorted(field.alias or name for name, field in section.model_fields.items())
