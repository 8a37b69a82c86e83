"""Filters as people write them, read by Python's own parser and never run.

Such as: lang == "en" and 2019 < year <= 2024 and not draft and tag in ("a", "b") and exists(author)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest
from nestvec.core.filters import MAX_DEPTH, AllOf, AnyOf, Exists, Filter, Not, OneOf, Range

_MAX_CHARACTERS = 1_000_000
# Comparisons by their class, and as they read with the two sides exchanged.
_BOUNDS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Gt: ("greater_than", "less_than"),
    ast.GtE: ("at_least", "at_most"),
    ast.Lt: ("less_than", "greater_than"),
    ast.LtE: ("at_most", "at_least"),
}
# As JSON spells them; no field can be meant, since one field is never compared with another.
_WORDS = {"true": True, "false": False}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def parse_filter(text: str, field_name: str = "options.filter") -> Filter:
    """The filter that `text` says. Whether its fields exist is not asked here.

    Comparisons with ==, !=, <, <=, >, >=, also chained; `in` and `not in` with values in brackets;
    and, or, not; exists(NAME); a bool field by its bare name; field("NAME") for a name that is a
    word of Python's. Raises InvalidRequest, saying where.
    """
    if not text.strip():
        raise InvalidRequest(field_name, "empty; leave it out to search without a filter")
    if len(text) > _MAX_CHARACTERS:
        raise InvalidRequest(
            field_name, f"{len(text):,} characters, at most {_MAX_CHARACTERS:,} are read"
        )
    try:
        # In brackets, so that it may go over several lines.
        tree = ast.parse(f"({text}\n)", mode="eval")
    except SyntaxError as error:
        raise InvalidRequest(field_name, f"{_cut(text)}: {_reason(error, text)}") from None
    except (RecursionError, MemoryError):
        raise InvalidRequest(field_name, f"{_cut(text)}: nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(field_name, f"{_cut(text)} cannot be read: {error}") from None
    return _Reader(field_name).filter(tree.body, 1)


def _reason(error: SyntaxError, text: str) -> str:
    """Python's own words, except where they speak of numbers and a time was meant."""
    if "leading zeros" in error.msg and _DATE.search(text):
        return "a time stands in quotes, such as '2026-11-24T09:30:00Z'"
    return error.msg


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


class _Reader:
    """Turns expressions into filters. Deeper than any filter may be is refused here already."""

    def __init__(self, field_name: str) -> None:
        self._field_name = field_name

    def filter(self, node: ast.expr, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise self._refused(node, f"more than {MAX_DEPTH} levels deep")
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                return AllOf(tuple(self.filter(part, depth + 1) for part in parts))
            case ast.BoolOp(values=parts):
                return OneOf(tuple(self.filter(part, depth + 1) for part in parts))
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return Not(self.filter(part, depth + 1))
            case ast.Compare():
                return self._comparison(node)
            case ast.Call(func=ast.Name(id="exists"), args=[argument], keywords=[]):
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    return Exists(argument.value)
                return Exists(self._require_field(argument))
        if (name := _field(node)) is not None:
            return AnyOf(name, (True,))
        raise self._refused(
            node, 'no comparison; expected such as lang == "en", year >= 2020 or exists(author)'
        )

    def _comparison(self, node: ast.Compare) -> Filter:
        sides = [node.left, *node.comparators]
        parts = [
            self._link(left, operator, right)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return _joined(parts)

    def _link(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Filter:
        match operator:
            case ast.In():
                return AnyOf(self._require_field(left), tuple(self._values(right)))
            case ast.NotIn():
                return Not(AnyOf(self._require_field(left), tuple(self._values(right))))
            case ast.Is() | ast.IsNot():
                raise self._refused(left, "`is` compares nothing here; use ==, or exists(NAME)")
        field, value, exchanged = left, right, False
        if _field(left) is None or _is_word(left):
            field, value, exchanged = right, left, True
        name = self._require_field(field)
        compared = self._value(value)
        match operator:
            case ast.Eq():
                return AnyOf(name, (compared,))
            case ast.NotEq():
                return Not(AnyOf(name, (compared,)))
        bound = _BOUNDS[type(operator)][exchanged]
        return Range(name, **{bound: compared})

    def _require_field(self, node: ast.expr) -> str:
        name = _field(node)
        if name is None:
            raise self._refused(node, "expected the name of a field, compared with a value")
        return name

    def _values(self, node: ast.expr) -> Iterator[FieldValue]:
        if not isinstance(node, ast.Tuple | ast.List | ast.Set):
            raise self._refused(node, 'expected values in brackets, such as ("a", "b")')
        for one in node.elts:
            yield self._value(one)

    def _value(self, node: ast.expr) -> FieldValue:
        match node:
            case ast.Constant(value=str() | int() | float() | bool() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                if not isinstance(value, bool):
                    return -value
            case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() as value)):
                if not isinstance(value, bool):
                    return value
            case ast.Constant(value=None):
                raise self._refused(node, "None is no value; ask with exists(NAME)")
            case ast.Name(id=word) if word in _WORDS:
                return _WORDS[word]
            case ast.Name(id=word):
                raise self._refused(node, f'a field is compared with a value; a string is "{word}"')
        raise self._refused(node, "expected a string in quotes, a number, True or False")

    def _refused(self, node: ast.expr, reason: str) -> InvalidRequest:
        shown = ""
        if isinstance(node, ast.Name | ast.Constant):
            shown = f"{_cut(ast.unparse(node))} "
        column = node.col_offset + (node.lineno > 1)
        return InvalidRequest(
            self._field_name, f"{shown}at line {node.lineno}, column {column}: {reason}"
        )


def _is_word(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in _WORDS


def _field(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Call(
            func=ast.Name(id="field"), args=[ast.Constant(value=str() as name)], keywords=[]
        ):
            return name
    return None


def _joined(parts: list[Filter]) -> Filter:
    """A chain's links as one: `2019 < year <= 2024` is one range."""
    match parts:
        case [only]:
            return only
        case [Range() as first, Range() as second] if first.field == second.field:
            one, other = first.bounds(), second.bounds()
            if not one.keys() & other.keys():
                return Range(first.field, **one, **other)
    return AllOf(tuple(parts))
