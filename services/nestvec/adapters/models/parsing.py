"""Plain data into dataclasses: a wrong type or an unknown key is an error that says where."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from nestvec.core.errors import ConfigError

Parsed = TypeVar("Parsed")


def parse(kind: type[Parsed], data: object, where: str) -> Parsed:
    """`data` (JSON or YAML, already read) as a `kind`, a dataclass; `where` begins its messages.

    Raises ConfigError, naming the key and, where it is unknown, the nearest known one.
    """
    _check_keys(kind, data, where)
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in (where, *first["loc"]))
        raise ConfigError(f"{path}: {first['msg']}; got {first['input']!r}") from None


def _check_keys(kind: type, data: object, where: str) -> None:
    """Pydantic ignores unknown keys of a standard dataclass: a misspelt recipe would be dropped."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {type(data).__name__}")
    known = [field.name for field in fields(kind)]
    hints: dict[str, Any] = get_type_hints(kind)
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")
        if is_dataclass(hints[key]):
            _check_keys(hints[key], value, f"{where}.{key}")


def nearest(word: str, known: list[str]) -> str:
    """A way out for a word that is not among `known`."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
