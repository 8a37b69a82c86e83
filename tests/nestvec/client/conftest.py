"""Every test with a `client` runs with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from nestvec.client import IngestDocument, NestvecClient
from tests.support.clients import Kind, open_client
from tests.support.engine import SharedEngine

TEXTS = [f"passage {number} about {'cats' if number % 2 else 'dogs'}" for number in range(60)]


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which client."""
    return cast(Kind, request.param)


@pytest.fixture
def connect(kind: Kind) -> Iterator[Callable[..., NestvecClient]]:
    """Opens clients of a kind; they are closed at the end."""
    with ExitStack() as stack:

        def opened(address: str, **options: Any) -> NestvecClient:
            return stack.enter_context(open_client(kind, address, **options))

        yield opened


@pytest.fixture
def client(connect: Callable[..., NestvecClient], engine: SharedEngine) -> NestvecClient:
    """Of the shared engine."""
    return connect(engine.address)


@pytest.fixture(scope="session")
def passages(engine: SharedEngine) -> str:
    """A collection of 60 documents that tests only read; p0 to p59, with a field each."""
    name = "client-passages"
    with NestvecClient(engine.address) as client:
        client.create_collection(name)
        documents = [
            IngestDocument(f"p{number}", text, {"number": number, "even": number % 2 == 0})
            for number, text in enumerate(TEXTS)
        ]
        assert client.index(name, documents).indexed == len(TEXTS)
    return name
