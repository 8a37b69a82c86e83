"""Every RPC has a rule, and every rule is of an RPC and of fields that are there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

import nestvec.v1
from nestvec.security.grants import Verb
from nestvec.security.methods import OPEN, RULES, Rule, Scope


def served() -> Iterator[tuple[str, MethodDescriptor]]:
    """Each method of each .proto, by its path."""
    for module in pkgutil.iter_modules(nestvec.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        file = importlib.import_module(f"nestvec.v1.{module.name}").DESCRIPTOR
        for service in file.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method


METHODS = dict(served())


def test_every_rpc_of_every_proto_has_a_rule() -> None:
    assert len(METHODS) > 50
    assert METHODS.keys() - RULES.keys() == set()


def test_every_rule_is_of_an_rpc() -> None:
    others = {path for path in RULES if not path.startswith("/grpc.reflection.")}
    assert others - METHODS.keys() == set()
    assert OPEN == ("grpc.health.v1.Health",)


@pytest.mark.parametrize("path", METHODS)
def test_a_rules_fields_are_in_its_messages(path: str) -> None:
    rule, method = RULES[path], METHODS[path]
    assert rule.verbs
    if rule.collection:
        *way, last = rule.collection.split(".")
        kind: Descriptor = method.input_type
        for part in way:
            kind = kind.fields_by_name[part].message_type
        assert is_text(kind, last)
    assert (rule.scope is Scope.NAMED) <= bool(rule.collection)
    if rule.speaks:
        assert is_text(method.input_type, "caller")
    if rule.shown is not None:
        listed, name = rule.shown
        assert is_text(method.output_type.fields_by_name[listed].message_type, name)


def is_text(kind: Descriptor, field: str) -> bool:
    return bool(kind.fields_by_name[field].type == FieldDescriptor.TYPE_STRING)


def test_whatever_names_a_collection_is_bound_to_it() -> None:
    """A request that names one and a rule that does not look at it: only where all are needed, or
    nestvec itself asks.
    """
    loose = {
        path
        for path, method in METHODS.items()
        if {"collection", "name"} & set(method.input_type.fields_by_name)
        and not RULES[path].collection
    }
    assert {
        path
        for path in loose
        if RULES[path].scope is not Scope.ALL and RULES[path].verbs != (Verb.INTERNAL,)
    } == set()


def test_what_changes_something_takes_more_than_search() -> None:
    reading = {path for path, rule in RULES.items() if Verb.SEARCH in rule.verbs}
    assert {path.rpartition("/")[2] for path in reading} == {
        "Search",
        "BatchSearch",
        "GetDocuments",
        "ListDocumentIds",
        "DescribeLiveRecall",
        "ListCollections",
        "DescribeCollection",
        "DescribeServer",
        "Encode",
        "DescribeEncoder",
        "ServerReflectionInfo",
    }


def test_a_region_asks_as_itself() -> None:
    regional: dict[str, Rule] = {
        path: rule for path, rule in RULES.items() if "/nestvec.v1.RegionService/" in path
    }
    assert regional
    assert all(rule.speaks and rule.verbs == (Verb.REGION,) for rule in regional.values())
