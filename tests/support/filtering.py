"""Documents with fields, filters over them, and the plainest reading of what matches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from nestvec.core.document import FieldValue
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AllOf, AnyOf, Exists, Filter, Not, OneOf, Range

FIELDS = (
    FieldSchema("lang", FieldType.KEYWORD),
    FieldSchema("year", FieldType.INTEGER),
    FieldSchema("price", FieldType.FLOAT),
    FieldSchema("draft", FieldType.BOOL),
    FieldSchema("at", FieldType.TIME),
)
_TYPES = {one.name: one.type for one in FIELDS}

# Few values, so that filters meet documents; and those at the edges.
_EDGE = 2**63 - 1
TIMES = (
    "1969-12-31T23:59:59.999999Z",
    "1970-01-01T00:00:00Z",
    "2024-05-01T12:00:00+02:00",
    "2024-05-01T10:00:00Z",
    "9999-12-31T23:59:59Z",
)
_VALUES: dict[str, st.SearchStrategy[FieldValue]] = {
    "lang": st.sampled_from(["", "en", "de", "fr", "EN", "日本"]),
    "year": st.sampled_from([-_EDGE, -1, 0, 1, 2020, 2024, _EDGE]),
    "price": st.sampled_from([-1e300, -0.5, 0, -0.0, 0.5, 1, 2.5, 1e300]),
    "draft": st.booleans(),
    "at": st.sampled_from(TIMES),
}

documents: st.SearchStrategy[dict[str, FieldValue]] = st.fixed_dictionaries(
    {}, optional={**_VALUES, "other": st.integers()}
)


def _any_of(name: str) -> st.SearchStrategy[Filter]:
    some = st.lists(_VALUES[name], min_size=1, max_size=3)
    return st.builds(lambda values: AnyOf(name, tuple(values)), some)


def _range(name: str) -> st.SearchStrategy[Filter]:
    bounds = ("greater_than", "at_least", "less_than", "at_most")
    chosen = st.dictionaries(st.sampled_from(bounds), _VALUES[name], min_size=1, max_size=3)
    return st.builds(lambda values: Range(name, **values), chosen)


leaves: st.SearchStrategy[Filter] = st.one_of(
    *(_any_of(name) for name in _VALUES),
    *(_range(name) for name in ("year", "price", "at")),
    st.builds(Exists, st.sampled_from(sorted(_VALUES))),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        st.builds(lambda some: AllOf(tuple(some)), st.lists(parts, max_size=3)),
        st.builds(lambda some: OneOf(tuple(some)), st.lists(parts, max_size=3)),
    ),
    max_leaves=6,
)


def matches(wanted: Filter, document: Mapping[str, FieldValue]) -> bool:
    """What the words say, one document at a time."""
    match wanted:
        case AllOf(parts):
            return all(matches(part, document) for part in parts)
        case OneOf(parts):
            return any(matches(part, document) for part in parts)
        case Not(part):
            return not matches(part, document)
        case Exists(name):
            return name in document
        case AnyOf(name, values):
            return name in document and _compared(name, document[name]) in [
                _compared(name, value) for value in values
            ]
        case Range(name):
            return name in document and _within(wanted, name, document[name])
    raise AssertionError(wanted)


def _within(wanted: Range, name: str, value: FieldValue) -> bool:
    got = _compared(name, value)
    return (
        (wanted.greater_than is None or got > _compared(name, wanted.greater_than))
        and (wanted.at_least is None or got >= _compared(name, wanted.at_least))
        and (wanted.less_than is None or got < _compared(name, wanted.less_than))
        and (wanted.at_most is None or got <= _compared(name, wanted.at_most))
    )


def _compared(name: str, value: FieldValue) -> Any:
    if _TYPES[name] is FieldType.TIME:
        return datetime.fromisoformat(str(value))
    return value
